"""A small encoder of images and texts for each family, and the gate that finds out what it cannot see.

It starts from the demo's tiny CLIP, which knows single objects, and is tuned on the family's own scenes by
the sigmoid loss on pairs of pictures and texts (Zhai et al., ICCV 2023, arXiv 2303.15343): words alone, and
captions that tell some of what is true. Distractors fit no picture. Attributes in ``blind`` are told by no
text: such an encoder is made on purpose, to see that the gate finds it out.
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.truth.evidence import Array
from benchmarks.truth.family import Family, bank, labels_of, pixels, words_of
from benchmarks.truth.shortcuts import cache
from demo.measure import BATCH, TrainedClip
from demo.models import CLIP_FOLDER, CONTEXT, MERGES
from demo.scenes import SIZE
from demo.train_clip import batches, crowding, half, normalised, progress
from demo.words import in_sentence

RECIPE = 1  # part of every cache key: raise it when what is made changes
SCENES, STEPS, RATE, TRAINED_ON = 12_000, 700, 1.5e-3, 64
BLIND_STEPS = 300
CAPTIONS, LINEAR, SPREAD, DECAY = 0.5, 1.0, 1.0, 0.02
SEEN = 0.8  # the least zero-shot accuracy of an attribute that may be judged


def encoder_folder(family: Family, blind: tuple[str, ...] = (), *, steps: int = STEPS) -> Path:
    """The family's encoder, trained once and kept beside the other worlds, as open_clip loads it."""
    parts = [RECIPE, SCENES, steps, RATE, TRAINED_ON, family.name, [*family.values.items()], blind]
    folder = cache() / f"encoder-{sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.copytree(CLIP_FOLDER, unfinished)
        _train(family, unfinished, blind, steps)
        unfinished.rename(folder)
    return folder


def _train(family: Family, folder: Path, blind: tuple[str, ...], steps: int) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng([41, 0])
    scenes = [family.draw(rng) for _ in range(SCENES)]
    pictures, labels = pixels(family, scenes, SIZE), labels_of(family, scenes)
    hidden = {text for name in blind for text in family.values[name]}
    texts, _ = bank(family)
    told = np.array([place for place, text in enumerate(texts) if text not in hidden])
    trainer = _Trainer(family, folder, [texts[place] for place in told], len(set(words_of(family)) - hidden))
    truth = torch.from_numpy(labels[:, told])
    parameters = [*trainer.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    begin, recent = time.process_time(), []
    trainer.train()
    for step, rows in zip(range(steps), batches(SCENES, TRAINED_ON, 0), strict=False):
        loss = trainer(normalised(pictures[rows]), truth[rows], rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            print(progress(f"encoder of {family.name}", step, steps, recent, begin), flush=True)
            recent = []
    save_file(half(trainer.model), folder / "open_clip_model.safetensors")


class _Trainer(nn.Module):
    """The model, and what helps it to start and is thrown away: the scale, the bias and a linear layer."""

    def __init__(self, family: Family, folder: Path, texts: list[str], words: int) -> None:
        super().__init__()
        config = json.loads((folder / "open_clip_config.json").read_text())
        self.model = CLIP(**config["model_cfg"])
        self.model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
        self.model.visual = self.model.visual.to(memory_format=torch.channels_last)
        self.tokenizer = SimpleTokenizer(bpe_path=str(folder / MERGES), context_length=CONTEXT)
        self.texts, self.words, self.sentences = texts, words, family.sentences
        self.scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-3.0))
        self.linear = nn.Linear(2 * self.model.visual.attnpool.v_proj.in_features, words)

    def forward(self, pictures: Tensor, truth: Tensor, rng: Generator) -> Tensor:
        """The loss of pictures (B, 3, S, S) of which the texts in ``truth`` (B, T) are true."""
        visual = self.model.visual
        with torch.autocast("cpu", torch.bfloat16):
            maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pictures)))))
            embedded = visual.attnpool(maps)
        embedded = functional.normalize(embedded.float(), dim=1)
        pooled = torch.cat([maps.float().mean((2, 3)), maps.float().amax((2, 3))], 1)
        linear = functional.binary_cross_entropy_with_logits(
            self.linear(pooled), truth[:, : self.words].float()
        )
        said, fits = self._captions(truth, rng)
        texts = self._embed([*(self._sentence(text, rng) for text in self.texts), *said])
        logits = self.scale.exp() * embedded @ texts.T + self.bias
        words = functional.binary_cross_entropy_with_logits(logits[:, : len(self.texts)], truth.float())
        captions = functional.binary_cross_entropy_with_logits(logits[:, len(self.texts) :], fits.float())
        crowded = crowding(texts[: len(self.texts)])
        return words + CAPTIONS * captions + LINEAR * linear + SPREAD * crowded

    def _sentence(self, text: str, rng: Generator) -> str:
        return in_sentence(self.sentences[rng.integers(len(self.sentences))], text)

    def _captions(self, truth: Tensor, rng: Generator) -> tuple[list[str], Tensor]:
        """A caption for each picture that tells two true texts, and which pictures (B, B) it fits."""
        chosen = [rng.choice(np.flatnonzero(row), 2) for row in truth.numpy()]
        said = [" and ".join(f"a {self.texts[place]}" for place in pair) for pair in chosen]
        pairs = torch.from_numpy(np.array(chosen))
        return said, truth[:, pairs[:, 0]] & truth[:, pairs[:, 1]]

    def _embed(self, texts: list[str]) -> Tensor:
        return functional.normalize(self.model.encode_text(self.tokenizer(texts)).float(), dim=1)


@lru_cache(maxsize=4)
def load_encoder(folder: Path) -> TrainedClip:
    """Ready to be asked."""
    return TrainedClip(folder)


@torch.no_grad()
def as_embeddings(clip: TrainedClip, pictures: Array) -> tuple[Array, Array]:
    """Unit embeddings (N, D) of pictures (N, S, S, 3), and of the cells of their maps (N, h, w, D)."""
    whole, cells = [], []
    for first in range(0, len(pictures), BATCH):
        batch = normalised(pictures[first : first + BATCH])
        whole.append(clip.embed_pictures(batch).numpy())
        cells.append(clip.embed_cells(batch).numpy())
    side = round(cells[0].shape[1] ** 0.5)
    joined = np.concatenate(cells)
    return np.concatenate(whole), joined.reshape(len(joined), side, side, -1)


def zero_shot(embeddings: Array, texts: Array, labels: Array) -> Array:
    """(T,) of two pictures, one that shows the text and one that does not, how often the text is nearer to
    the right one; ties count half, chance is .5. NaN where all or no pictures show it.

    embeddings (N, D) and texts (T, D) of unit length, labels (N, T).
    """
    ranks = rankdata(embeddings @ texts.T, axis=0)
    shown = labels.sum(0)
    pairs = shown * (len(labels) - shown)
    above = (ranks * labels).sum(0) - shown * (shown + 1) / 2
    return np.divide(above, pairs, out=np.full(len(shown), np.nan), where=pairs > 0)


def gate(family: Family, accuracy: Array, least: float = SEEN) -> dict[str, tuple[float, bool]]:
    """By attribute: the mean zero-shot accuracy (T,) of its texts, and whether the encoder sees it at all.

    What is not seen is not judged: words cannot be right about it but by chance.
    """
    texts, _ = bank(family)
    made = {}
    for name, values in family.values.items():
        mean = float(np.nanmean([accuracy[texts.index(text)] for text in values]))
        made[name] = mean, mean >= least
    return made


def gated(family: Family, clip: TrainedClip, count: int = 400) -> dict[str, tuple[float, bool]]:
    """The gate of an encoder, on fresh scenes."""
    rng = np.random.default_rng([42, 0])
    scenes: Sequence[object] = [family.draw(rng) for _ in range(count)]
    embeddings, _ = as_embeddings(clip, pixels(family, scenes, SIZE))
    texts = clip.embed_texts(list(bank(family)[0])).numpy()
    return gate(family, zero_shot(embeddings, texts, labels_of(family, scenes)))
