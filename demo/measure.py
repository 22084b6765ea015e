"""What the demo's models can do on scenes they have never seen, loaded as a user's models are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from demo.models import CLIP_FOLDER, CONTEXT, MERGES, TinyClassifier, tiny_classifier
from demo.pictures import photograph
from demo.scenes import PLACE, VALUES, Scene, render
from demo.words import in_sentence, text_of

PROMPTS = ("{}", "a photo of a {}.", "a picture of a {}", "an image with a {}")
BATCH = 100


class TrainedClip:
    """The tiny CLIP as open_clip loads it from its folder."""

    def __init__(self, folder: Path = CLIP_FOLDER) -> None:
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model, self.preprocess = model.eval(), preprocess
        self.tokenizer = open_clip.SimpleTokenizer(bpe_path=str(folder / MERGES), context_length=CONTEXT)

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures as the model takes them: (B, 3, 128, 128)."""
        return torch.stack([self.preprocess(picture) for picture in pictures])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
        """Unit embeddings (T, D), each the mean over the prompts."""
        each = [
            self.model.encode_text(self.tokenizer([in_sentence(p, t) for t in texts]), normalize=True)
            for p in prompts
        ]
        return functional.normalize(torch.stack(each).mean(0), dim=1)

    @torch.no_grad()
    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (B, D)."""
        return self.model.encode_image(pixels, normalize=True)

    @torch.no_grad()
    def embed_cells(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (B, 16, D) of the map's cells: the attention pool's values, unattended."""
        visual = self.model.visual
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
        cells = maps.flatten(2).transpose(1, 2) + visual.attnpool.positional_embedding[1:]
        return functional.normalize(visual.attnpool.c_proj(visual.attnpool.v_proj(cells)), dim=2)


def label_rows(scenes: Sequence[Scene]) -> dict[str, NDArray[np.int64]]:
    """The values (N,) of each attribute, as positions in scenes.VALUES."""
    return {
        name: np.array([values.index(getattr(scene, name)) for scene in scenes])
        for name, values in VALUES.items()
    }


def zero_shot(clip: TrainedClip, scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of scenes whose value of each attribute is the nearest of its words ("no artefact" too)."""
    batches = [scenes[i : i + BATCH] for i in range(0, len(scenes), BATCH)]
    pictures = torch.cat(
        [clip.embed_pictures(clip.pixels([photograph(s) for s in batch])) for batch in batches]
    )
    accuracy = {}
    for name, labels in label_rows(scenes).items():
        texts = clip.embed_texts([text_of(value) for value in VALUES[name]])
        nearest = (pictures @ texts.T).argmax(1).numpy()
        accuracy[name] = float((nearest == labels).mean())
    return accuracy


def pointing(clip: TrainedClip, scenes: Sequence[Scene]) -> dict[str, dict[str, float]]:
    """How well the cells' embeddings find each attribute.

    For the word that is right: `hit`, the share of scenes where the most similar cell lies on the
    attribute's mask (by a quarter or more); `chance`, the share of such cells; `higher`, the share of scenes
    where the mean similarity is higher on the mask than off it; `contrast`, by how much.
    """
    cells = torch.cat([clip.embed_cells(clip.pixels([photograph(s)])) for s in scenes]).numpy()
    side = int(np.sqrt(cells.shape[1]))
    masks = [render(scene).masks for scene in scenes]
    result = {}
    for name, labels in label_rows(scenes).items():
        texts = clip.embed_texts([text_of(value) for value in VALUES[name]]).numpy()
        rows = []
        for i, label in enumerate(labels):
            size = len(masks[i][PLACE[name]]) // side
            share = masks[i][PLACE[name]].reshape(side, size, side, size).mean((1, 3)).ravel()
            if share.max() < 0.25 or share.min() > 0.75:
                continue  # nothing to find, or nothing beside it
            similarity = cells[i] @ texts[label]
            gap = np.average(similarity, weights=share) - np.average(similarity, weights=1 - share)
            rows.append((share[similarity.argmax()] >= 0.25, (share >= 0.25).mean(), gap > 0, gap))
        hit, chance, higher, contrast = np.array(rows, dtype=float).mean(0)
        result[name] = {"hit": hit, "chance": chance, "higher": higher, "contrast": contrast}
    return result


class TrainedClassifier:
    """A classifier of the demo with its weights."""

    def __init__(self, path: Path) -> None:
        module, self.preprocess = tiny_classifier()
        module.load_state_dict(load_file(path))
        self.module: TinyClassifier = module.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits(self, scenes: Sequence[Scene]) -> NDArray[np.float32]:
        """The logits (N, C) of the scenes."""
        rows = []
        for i in range(0, len(scenes), BATCH):
            pixels = torch.stack([self.preprocess(photograph(scene)) for scene in scenes[i : i + BATCH]])
            rows.append(self.module(pixels).numpy())
        return np.concatenate(rows)

    def predict(self, scenes: Sequence[Scene]) -> NDArray[np.int64]:
        """The predicted classes (N,) of the scenes."""
        return self.logits(scenes).argmax(1)

    def accuracy(self, scenes: Sequence[Scene]) -> float:
        """Share of scenes whose shape is predicted."""
        return float((self.predict(scenes) == label_rows(scenes)["shape"]).mean())


def rounded(value: Any) -> Any:
    """The same nested measures with four decimals."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return round(float(value), 4)
