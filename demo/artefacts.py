"""Artefacts: things laid over a picture that are no part of what it shows.

An artefact is a function of (generator, size) -> (colour (3, S, S), alpha (S, S)); its place and form come
from the generator, and the same seed gives the same artefact at every size.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from demo.draw import Array, coverage, grid, plane, turned

Layer = tuple[Array, Array]

# The letters of the watermark as strokes in a box of width 0.7 and height 1: (x0, y0, x1, y1).
_LETTERS = (
    (
        (0, 0, 0, 1),
        (0, 0, 0.45, 0),
        (0, 1, 0.45, 1),
        (0.45, 0, 0.7, 0.3),
        (0.45, 1, 0.7, 0.7),
        (0.7, 0.3, 0.7, 0.7),
    ),
    ((0, 0, 0, 1), (0, 0, 0.6, 0), (0, 0.5, 0.5, 0.5), (0, 1, 0.6, 1)),
    ((0, 1, 0, 0), (0, 0, 0.35, 0.6), (0.35, 0.6, 0.7, 0), (0.7, 0, 0.7, 1)),
    (
        *((0.2, 0, 0.5, 0), (0.5, 0, 0.7, 0.25), (0.7, 0.25, 0.7, 0.75), (0.7, 0.75, 0.5, 1)),
        *((0.5, 1, 0.2, 1), (0.2, 1, 0, 0.75), (0, 0.75, 0, 0.25), (0, 0.25, 0.2, 0)),
    ),
)
_ADVANCE = 1.02


def _strokes() -> Array:
    """All strokes of the word, centred on the origin: (strokes, 4)."""
    rows = [
        (x0 + i * _ADVANCE, y0, x1 + i * _ADVANCE, y1)
        for i, letter in enumerate(_LETTERS)
        for x0, y0, x1, y1 in letter
    ]
    word = np.asarray(rows, dtype=np.float32)
    width = (len(_LETTERS) - 1) * _ADVANCE + 0.7
    return word - np.asarray([width / 2, 0.5, width / 2, 0.5], dtype=np.float32)


def _to_strokes(x: Array, y: Array) -> Array:
    """Distance to the nearest stroke of the word, in letter heights."""
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, dtype=np.float32)
    for x0, y0, x1, y1 in _strokes().tolist():
        dx, dy = x1 - x0, y1 - y0
        share = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - share * dx, y - y0 - share * dy))
    return nearest


def watermark(rng: Generator, size: int) -> Layer:
    """A see-through word near the upper or the lower edge."""
    height, angle = rng.uniform(0.105, 0.135), rng.uniform(-0.10, 0.10)
    at_top, x_place, y_place = rng.random() < 0.5, rng.uniform(0.40, 0.60), rng.uniform(0.12, 0.17)
    x, y = grid(slice(0, size), slice(0, size), size)
    x, y = turned(x - x_place, y - (y_place if at_top else 1 - y_place), angle)
    colour = np.ones((3, size, size), dtype=np.float32)
    alpha = np.zeros((size, size), dtype=np.float32)
    near = np.nonzero((np.abs(y) < height).any(axis=1))[0]
    rows = slice(near[0], near[-1] + 1)
    distance = _to_strokes(x[rows] / height, y[rows] / height) * height
    letters = coverage(distance - 0.014, size)
    rim = coverage(distance - 0.024, size)
    colour[:, rows] = letters
    alpha[rows] = np.maximum(0.78 * letters, 0.5 * rim)
    return colour, alpha


def barcode(rng: Generator, size: int) -> Layer:
    """Black bars on a white label in one of the corners."""
    half_width, half_height = rng.uniform(0.15, 0.18), rng.uniform(0.075, 0.095)
    bars = np.cumsum(rng.choice([1.0, 1.0, 2.0], size=64)).astype(np.float32)
    left, top = rng.random(2) < 0.5
    margin = rng.uniform(0.02, 0.05, 2).tolist()
    cx = half_width + margin[0] if left else 1 - half_width - margin[0]
    cy = half_height + margin[1] if top else 1 - half_height - margin[1]
    x, y = grid(slice(0, size), slice(0, size), size)
    x, y = x - cx, y - cy
    alpha = coverage(np.maximum(np.abs(x) - half_width, np.abs(y) - half_height), size)
    step = 0.0155
    edges = bars * step - half_width
    within = (edges > 0.022 - half_width) & (edges < half_width - 0.022)
    ink = np.zeros_like(x)
    for begin, end in zip(edges[within][::2].tolist(), edges[within][1::2].tolist(), strict=False):
        ink = np.maximum(ink, coverage(np.abs(x - (begin + end) / 2) - (end - begin) / 2, size))
    ink = ink * coverage(np.abs(y) - half_height + 0.022, size)
    return np.broadcast_to(0.97 - 0.92 * ink, (3, size, size)), alpha


def frame(rng: Generator, size: int) -> Layer:
    """A golden picture frame: a wide moulding with a dark line inside and outside."""
    width = rng.uniform(0.06, 0.085)
    x, y = grid(slice(0, size), slice(0, size), size)
    depth = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    alpha = coverage(depth - width, size)
    relief = 0.75 + 0.45 * np.sin(np.pi * np.clip(depth / width, 0, 1)) ** 2
    line = np.maximum(coverage(depth - 0.010, size), coverage(np.abs(depth - width + 0.008) - 0.008, size))
    return np.clip(plane((0.80, 0.60, 0.22)) * relief * (1 - 0.72 * line), 0, 1), alpha


ARTEFACTS: dict[str, Callable[[Generator, int], Layer]] = {
    "watermark": watermark,
    "barcode": barcode,
    "frame": frame,
}
NO_ARTEFACT = "none"
