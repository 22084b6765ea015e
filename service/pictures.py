"""Thumbnails of the original images, and the maps drawn over them.

The colour scale is ours: anchors in OKLab with rising lightness, so that brighter is stronger, without colour
vision and in grey print too. Where a map is zero the image is shown as it is, only dimmed.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from service.output import new_file
from store.errors import TextcamError

THUMBNAIL = 160  # pixels of the long side
OVERLAY = 256
STRONGEST = 0.7  # opacity of the map where it is strongest: the image stays visible under it
_TINY = 64  # up to this long side a picture is kept without loss: it will be shown enlarged

# OKLab (lightness, green-red, blue-yellow), from a dim violet through red and orange to a pale yellow.
_ANCHORS = np.array(
    [(0.28, 0.05, -0.12), (0.42, 0.15, -0.08), (0.56, 0.18, 0.05), (0.72, 0.09, 0.13), (0.94, -0.02, 0.12)]
)


@dataclass(frozen=True)
class Picture:
    """A picture: its file's name below ``pictures/``, None if the original is missing, and its text."""

    name: str | None
    alt: str
    width: int
    height: int


@cache
def colour_scale() -> NDArray[np.uint8]:
    """The (256, 3) sRGB colours from nothing to the strongest."""
    steps = np.linspace(0, len(_ANCHORS) - 1, 256)
    lab = np.stack([np.interp(steps, np.arange(len(_ANCHORS)), axis) for axis in _ANCHORS.T], axis=1)
    # OKLab to linear sRGB (B. Ottosson's published matrices), then the sRGB curve.
    to_lms = np.array(
        [(1, 0.3963377774, 0.2158037573), (1, -0.1055613458, -0.0638541728), (1, -0.0894841775, -1.291485548)]
    )
    to_rgb = np.array(
        [
            (4.0767416621, -3.3077115913, 0.2309699292),
            (-1.2684380046, 2.6097574011, -0.3413193965),
            (-0.0041960863, -0.7034186147, 1.707614701),
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


def fit(image: Image.Image, long_side: int) -> Image.Image:
    """The image shrunk so that its long side has at most this many pixels; a smaller one is left alone."""
    ratio = long_side / max(image.size)
    if ratio >= 1:
        return image
    width, height = (max(1, round(side * ratio)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def view_box(width: int, height: int, aspect: float, share: float = 1.0) -> tuple[int, int, int, int]:
    """The part of an image that a classifier sees, as (left, top, right, bottom) in pixels.

    What resizing and centre-cropping leaves: the largest centred box of ``aspect`` = width / height, its
    sides shrunk to ``share``.
    """
    box_width = min(width, height * aspect) * share
    box_height = box_width / aspect
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return round(left), round(top), max(round(left + box_width), 1), max(round(top + box_height), 1)


def draw_map(
    image: Image.Image, values: NDArray[np.uint8], strength: float = 1.0, long_side: int = OVERLAY
) -> Image.Image:
    """The image with the map (h, w) u8 over it; a value of 255 is drawn at ``strength`` of the colour scale.

    ``strength`` in [0, 1] keeps the maps of one image comparable.
    """
    base = fit(image, long_side)
    factor = long_side // max(base.size)
    if factor > 1:  # small images are enlarged smoothly: the map is finer than their pixels
        base = base.resize((base.width * factor, base.height * factor), Image.Resampling.BICUBIC)
    if not values.any() or strength <= 0:
        return base
    raised = Image.fromarray(values.astype(np.float32) * (min(strength, 1.0) / 255))
    share = np.asarray(raised.resize(base.size, Image.Resampling.BILINEAR))[..., None].clip(0, 1)
    pixels = np.asarray(base, dtype=np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    calm = (
        0.62 * pixels + 0.24 * grey
    )  # what the map does not mark steps back a little, but stays recognisable
    opacity = STRONGEST * share**0.8
    mixed = (1 - opacity) * calm + opacity * colour_scale()[np.round(255 * share[..., 0]).astype(np.uint8)]
    return Image.fromarray(np.clip(np.round(mixed), 0, 255).astype(np.uint8))


class Album:
    """Makes the pictures of one store, each once, opening each original as rarely as possible.

    ``place``: where a picture of a name is to be written; its folder is there. ``open_original`` takes an
    image's URI as the store has it and returns the image; what it raises (missing file, unreadable image)
    becomes a placeholder and one of ``missing``. ``view_share``: see ``view_box``.
    """

    def __init__(
        self,
        place: Callable[[str], Path],
        open_original: Callable[[str], Image.Image],
        view_share: float = 1.0,
    ) -> None:
        self.view_share = view_share
        self.missing: dict[str, str] = {}
        self._place, self._open_original = place, open_original
        self._last: tuple[str, Image.Image | None] = ("", None)
        self._made: dict[str, tuple[int, int]] = {}

    def thumbnail(self, image_id: int, uri: str, alt: str) -> Picture:
        """The image alone, small; a tiny image keeps its size and is enlarged by the page."""
        return self._picture(f"{image_id:016x}.webp", uri, alt, lambda image: fit(image, THUMBNAIL))

    def overlay(
        self,
        image_id: int,
        uri: str,
        alt: str,
        *,
        class_id: int,
        group_id: int,
        values: NDArray[np.uint8],
        strength: float = 1.0,
    ) -> Picture:
        """What the classifier saw of the image, with a map (h, w) u8 over it (see ``draw_map``)."""
        height, width = values.shape

        def make(image: Image.Image) -> Image.Image:
            return draw_map(
                image.crop(view_box(*image.size, width / height, self.view_share)), values, strength
            )

        group = "whole" if group_id < 0 else str(group_id)
        return self._picture(f"{image_id:016x}-{class_id}-{group}.webp", uri, alt, make)

    def _picture(self, name: str, uri: str, alt: str, make: Callable[[Image.Image], Image.Image]) -> Picture:
        if name not in self._made:
            original = self._original(uri)
            if original is None:
                return Picture(None, alt, THUMBNAIL, THUMBNAIL)
            made = make(original)
            with new_file(self._place(name), "The report cannot be written") as file:
                file.write(_webp(made))
            self._made[name] = made.size
        return Picture(name, alt, *self._made[name])

    def _original(self, uri: str) -> Image.Image | None:
        if uri in self.missing:
            return None
        if self._last[0] != uri:
            try:
                self._last = (uri, self._open_original(uri).convert("RGB"))
            except (
                OSError,
                ValueError,
                TextcamError,
                Image.DecompressionBombError,
                UnidentifiedImageError,
            ) as error:
                reason = error.what if isinstance(error, TextcamError) else f"{type(error).__name__}: {error}"
                self.missing[uri] = reason
                return None
        return self._last[1]


def _webp(image: Image.Image) -> bytes:
    into = io.BytesIO()
    if max(image.size) <= _TINY:
        image.save(into, "WEBP", lossless=True, method=0)
    else:
        image.save(into, "WEBP", quality=88, method=1)  # method 4 takes three times as long for a fifth less
    return into.getvalue()
