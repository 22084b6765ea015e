"""Rendered scenes as arrays to train and measure on: decoded JPEGs, as the models will meet them."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.scenes import SIZE, VALUES, Scene, render

QUALITY = 90  # of the JPEGs; a classifier trained on uncompressed pictures loses 1.7 points on them


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """The picture (S, S, 3) as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


@lru_cache(maxsize=512)  # scenes are often asked of two models in a row
def photograph(scene: Scene) -> Image.Image:
    """The scene rendered, compressed and decoded again."""
    return Image.open(io.BytesIO(jpeg(render(scene).image))).convert("RGB")


@dataclass(frozen=True)
class Pictures:
    """N pictures (N, S, S, 3) uint8 and their attributes' values (N, A), in the order of scenes.VALUES."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def labels_of(self, attribute: str) -> NDArray[np.int64]:
        """The values (N,) of one attribute, as positions in scenes.VALUES."""
        return self.labels[:, list(VALUES).index(attribute)]


def picture_set(scenes: Iterable[Scene], count: int, size: int = SIZE) -> Pictures:
    """The first `count` scenes as pictures, scaled to size x size after decoding."""
    pixels = np.empty((count, size, size, 3), dtype=np.uint8)
    labels = np.empty((count, len(VALUES)), dtype=np.int64)
    for i, scene in zip(range(count), scenes, strict=False):
        picture = photograph(scene)
        if picture.width != size:
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        pixels[i] = np.asarray(picture)
        labels[i] = [values.index(getattr(scene, name)) for name, values in VALUES.items()]
    return Pictures(pixels, labels)
