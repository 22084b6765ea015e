"""Training of the tiny CLIP from nothing.

Three losses at once, all on whole pictures; where things are is learnt by itself:
- per attribute, which of its words fits the picture, in sentences of changing form, distractors among them;
- contrastive, between pictures and captions that tell some attributes; all that a caption fits count;
- the attributes from a linear layer on the tower, which is thrown away later: without it the words of shape
  stay at chance for more than a thousand steps, while colours and backgrounds are learnt at once.

Words that fit no picture, or all, are held to the same similarity with every picture, so that none of them
names a difference between pictures. Different texts are kept apart, or all that fits nothing would be one.
"""

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from demo.models import CONTEXT, MERGES, clip_config, write_merges
from demo.pictures import Pictures
from demo.scenes import VALUES
from demo.words import DISTRACTORS, NEUTRAL, TEMPLATES, caption, in_sentence, text_of, vocabulary

BATCH = 128
RATE = 2e-3
CONTRASTIVE, LINEAR, EVENNESS, SPREAD = 0.5, 1.0, 0.1, 2.0  # weights of the losses beside the first

_WORDS = [text_of(value) for values in VALUES.values() for value in values]
_BOUNDS = np.cumsum([0, *(len(values) for values in VALUES.values())]).tolist()
_SLICES = [slice(begin, end) for begin, end in pairwise(_BOUNDS)]
_DISTRACTORS = [text for texts in DISTRACTORS.values() for text in texts]


class ClipTrainer:
    """The model, its tokenizer and the linear layer that helps it start."""

    def __init__(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_merges(folder / MERGES, vocabulary())
        self.folder = folder
        self.tokenizer = SimpleTokenizer(bpe_path=str(folder / MERGES), context_length=CONTEXT)
        self.config = clip_config(self.tokenizer.vocab_size)
        self.model = CLIP(**self.config["model_cfg"])
        self.model.visual = self.model.visual.to(memory_format=torch.channels_last)
        width = self.model.visual.attnpool.v_proj.in_features
        self.linear = nn.Linear(2 * width, _BOUNDS[-1])

    def embed_pictures(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, 128, 128) -> unit embeddings (B, D) and the linear layer's logits (B, all values)."""
        visual = self.model.visual
        with torch.autocast("cpu", torch.bfloat16):
            maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
            embeddings = visual.attnpool(maps)
        pooled = torch.cat([maps.float().mean((2, 3)), maps.float().amax((2, 3))], dim=1)
        return functional.normalize(embeddings.float(), dim=1), self.linear(pooled)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings (T, D)."""
        return functional.normalize(self.model.encode_text(self.tokenizer(texts)).float(), dim=1)

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses for pictures (B, 3, 128, 128) with attribute values (B, A)."""
        embeddings, linear = self.embed_pictures(pixels)
        scale = self.model.logit_scale.exp().clamp(max=100)
        idle = idle_words(self.rng)
        texts = self.embed_texts(in_sentences([*_WORDS, *idle], self.rng))
        similarity = scale * embeddings @ texts.T
        unfit = similarity[:, len(_WORDS) :]
        total = EVENNESS * unfit.var(dim=0).mean() + SPREAD * crowding(texts)
        for k, part in enumerate(_SLICES):
            total = total + functional.cross_entropy(
                torch.cat([similarity[:, part], unfit], dim=1), labels[:, k]
            )
            total = total + LINEAR * functional.cross_entropy(linear[:, part], labels[:, k])
        told = torch.from_numpy(self.rng.random(tuple(labels.shape)) < 0.5)
        captions = self.embed_texts(captions_of(labels, told, self.rng))
        return total + CONTRASTIVE * contrastive_loss(scale * embeddings @ captions.T, fitting(labels, told))

    def save(self) -> None:
        """Write the folder that open_clip loads: the configuration and the weights in half precision."""
        (self.folder / "open_clip_config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        save_file(half(self.model), self.folder / "open_clip_model.safetensors")


def crowding(texts: Tensor) -> Tensor:
    """Mean over texts (T, D) of the summed squares by which others are nearer than a cosine of 0.3."""
    similarity = texts @ texts.T - torch.eye(len(texts))
    return functional.relu(similarity - 0.3).square().sum() / len(texts)


def half(module: nn.Module) -> dict[str, Tensor]:
    """The module's state with its floating point tensors in half precision."""
    state = module.state_dict()
    return {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in state.items()}


def in_sentences(words: list[str], rng: Generator) -> list[str]:
    """Each word in one of the templates."""
    return [in_sentence(TEMPLATES[rng.integers(len(TEMPLATES))], word) for word in words]


def idle_words(rng: Generator) -> list[str]:
    """Words that tell no picture from another: all distractors, a neutral word, letters at random."""
    letters = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(3, 9)))
    return [*_DISTRACTORS, str(rng.choice(NEUTRAL)), letters]


def captions_of(labels: Tensor, told: Tensor, rng: Generator) -> list[str]:
    """A caption for each picture's attribute values (B, A) that tells those marked in `told` (B, A)."""
    texts = []
    for row, marks in zip(labels.tolist(), told.tolist(), strict=True):
        items = zip(VALUES.items(), row, marks, strict=True)
        texts.append(caption({name: values[i] for (name, values), i, mark in items if mark}, rng))
    return texts


def fitting(labels: Tensor, told: Tensor) -> Tensor:
    """Whether picture i has all that caption j tells: (B, B) bool."""
    same = labels[:, None, :] == labels[None, :, :]
    return (same | ~told[None, :, :]).all(dim=2)


def contrastive_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """Cross entropy in both directions where the right answer is uniform over all that fits (B, B)."""
    right = fits.float()
    to_pictures = -(right * functional.log_softmax(logits, dim=0)).sum(0) / right.sum(0)
    to_captions = -(right * functional.log_softmax(logits, dim=1)).sum(1) / right.sum(1)
    return (to_pictures.mean() + to_captions.mean()) / 2


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """Pictures (B, S, S, 3) uint8 as the models take them: (B, 3, S, S), less 0.5, in units of 0.25."""
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def train_clip(pictures: Pictures, folder: Path, *, steps: int, seed: int) -> None:
    """Train on the pictures (N, 128, 128, 3) and write the folder. Progress goes to stdout."""
    trainer = ClipTrainer(folder, seed)
    parameters = [*trainer.model.parameters(), *trainer.linear.parameters()]
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    begin, recent = time.process_time(), []
    trainer.model.train()
    for step, rows in zip(range(steps), batches(len(pictures.pixels), BATCH, seed), strict=False):
        loss = trainer.loss(normalised(pictures.pixels[rows]), torch.from_numpy(pictures.labels[rows]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            print(progress("clip", step, steps, recent, begin), flush=True)
            recent = []
    trainer.save()


def batches(count: int, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Endless batches of row numbers, each epoch in a new order; ValueError if `size` exceeds `count`."""
    if size > count:
        raise ValueError(f"a batch of {size} cannot be drawn from {count} pictures")
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for begin in range(0, count - size + 1, size):
            yield np.sort(order[begin : begin + size])


def progress(name: str, step: int, steps: int, losses: list[float], begin: float) -> str:
    """One line on how far a training is; `begin` is the process time at its start."""
    used = time.process_time() - begin
    return f"{name}: step {step + 1} of {steps}, loss {np.mean(losses):.3f}, {used:.0f} CPU-seconds"
