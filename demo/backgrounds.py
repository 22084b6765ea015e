"""Eight backgrounds, each a small scene of its own drawn from a seed.

A background is a function of (generator, size) -> (3, size, size) in 0..1. What is random is drawn before the
size matters, so the same seed gives the same place at every size.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from demo.draw import Array, plane


def smooth_noise(rng: Generator, rows: int, columns: int, size: int) -> Array:
    """Values in about 0..1 from a rows x columns lattice, interpolated to (size, size)."""
    lattice = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    return np.asarray(lattice.resize((size, size), Image.Resampling.BICUBIC))


def _axes(size: int) -> tuple[Array, Array]:
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :], line[:, None]


def _mix(first: tuple[float, ...], second: tuple[float, ...], share: Array) -> Array:
    """Blend of two colours by a share (size, size) or broadcastable to it."""
    a, b = plane(first), plane(second)
    return a + (b - a) * np.clip(share, 0, 1)


def _over(canvas: Array, colour: tuple[float, ...], alpha: Array) -> Array:
    return canvas + (plane(colour) - canvas) * np.clip(alpha, 0, 1)


def _dots(rng: Generator, count: int, radii: tuple[float, float], size: int) -> Array:
    """Alpha (size, size) of soft round dots; the radius (a fraction of the side) is drawn for each."""
    alpha = np.zeros((size, size), dtype=np.float32)
    centres, spread = rng.random((count, 2)), rng.uniform(*radii, count)
    x, y = _axes(size)
    for (cx, cy), radius in zip(centres.tolist(), spread.tolist(), strict=True):
        reach = radius + 2 / size
        rows = slice(max(0, int((cy - reach) * size)), min(size, int((cy + reach) * size) + 1))
        columns = slice(max(0, int((cx - reach) * size)), min(size, int((cx + reach) * size) + 1))
        distance = np.hypot(x[:, columns] - cx, y[rows] - cy) / radius
        alpha[rows, columns] = np.maximum(alpha[rows, columns], np.clip(1.6 - 1.2 * distance, 0, 1))
    return alpha


def sky(rng: Generator, size: int) -> Array:
    """Blue, paler towards the ground, with clouds."""
    _, y = _axes(size)
    canvas = _mix((0.30, 0.58, 0.93), (0.72, 0.88, 0.99), np.broadcast_to(y, (size, size)))
    clouds = 0.65 * smooth_noise(rng, 5, 4, size) + 0.35 * smooth_noise(rng, 13, 9, size)
    return _over(canvas, (0.99, 0.99, 1.0), (clouds - 0.52) * 5)


def grass(rng: Generator, size: int) -> Array:
    """Two layers of upright blades."""
    _, y = _axes(size)
    canvas = _mix((0.42, 0.70, 0.25), (0.20, 0.52, 0.13), np.broadcast_to(y, (size, size)))
    blades = smooth_noise(rng, 11, 58, size)
    canvas = _over(canvas, (0.09, 0.33, 0.07), (blades - 0.55) * 2.2)
    blades = smooth_noise(rng, 9, 46, size)
    return _over(canvas, (0.66, 0.86, 0.36), (blades - 0.66) * 2.6)


def water(rng: Generator, size: int) -> Array:
    """Bent waves with light on their crests."""
    x, y = _axes(size)
    canvas = _mix((0.05, 0.47, 0.58), (0.01, 0.24, 0.42), np.broadcast_to(y, (size, size)))
    bend = smooth_noise(rng, 6, 5, size)
    waves = np.sin(2 * np.pi * (9 * y + 0.25 * np.sin(2 * np.pi * (2 * x + rng.random())) + 1.7 * bend))
    ripple = waves * (0.45 + 0.55 * smooth_noise(rng, 14, 6, size))
    canvas = _over(canvas, (0.33, 0.80, 0.83), (ripple - 0.15) * 0.75)
    return _over(canvas, (0.92, 1.0, 1.0), (ripple - 0.62) * 3)


def sand(rng: Generator, size: int) -> Array:
    """Dunes, ripples and grains."""
    x, y = _axes(size)
    dunes = smooth_noise(rng, 4, 3, size)
    canvas = _mix((0.93, 0.80, 0.55), (0.83, 0.66, 0.40), dunes)
    ridges = np.sin(2 * np.pi * (7 * (y + 0.35 * x) + 2.2 * smooth_noise(rng, 5, 4, size)))
    canvas = _over(canvas, (0.68, 0.50, 0.28), (ridges - 0.3) * 0.45)
    grains = smooth_noise(rng, 60, 60, size)
    return np.clip(canvas + 0.10 * (grains - 0.5), 0, 1)


def night(rng: Generator, size: int) -> Array:
    """A dark sky with stars over a black ridge."""
    x, y = _axes(size)
    canvas = _mix((0.02, 0.03, 0.12), (0.17, 0.12, 0.36), np.broadcast_to(y, (size, size)))
    canvas = _over(canvas, (1.0, 0.97, 0.82), 0.9 * _dots(rng, 26, (0.006, 0.013), size))
    phases = [2 * np.pi * rng.random() for _ in range(2)]
    ridge = (
        0.86 + 0.05 * np.sin(2 * np.pi * 1.3 * x + phases[0]) + 0.03 * np.sin(2 * np.pi * 3.1 * x + phases[1])
    )
    return _over(canvas, (0.01, 0.01, 0.04), (y - ridge) * size)


def brick(rng: Generator, size: int) -> Array:
    """A wall in running bond: each second course is shifted by half a brick."""
    x, y = _axes(size)
    courses, length, joint = 9, 4.5, 0.09
    shift_x, shift_y = rng.random(), rng.random()
    row = y * courses + shift_y
    along = x * length + shift_x + 0.5 * np.mod(np.floor(row), 2)
    tint = rng.random((16, 16), dtype=np.float32)[
        np.floor(row).astype(int) % 16, np.floor(along).astype(int) % 16
    ]
    canvas = _mix((0.57, 0.21, 0.15), (0.77, 0.38, 0.27), tint)
    canvas = np.clip(canvas + 0.10 * (smooth_noise(rng, 40, 40, size) - 0.5), 0, 1)
    gap_y = 0.5 - np.abs(np.mod(row, 1) - 0.5)
    gap_x = 0.5 - np.abs(np.mod(along, 1) - 0.5)
    mortar = np.maximum((joint - gap_y) * size / courses, (joint / 2 - gap_x) * size / length) + 0.5
    return _over(canvas, (0.80, 0.76, 0.70), mortar)


def snow(rng: Generator, size: int) -> Array:
    """Two drifts with blue shadows, and falling flakes."""
    x, y = _axes(size)
    canvas = _mix((0.80, 0.86, 0.95), (0.94, 0.97, 1.0), np.broadcast_to(y, (size, size)))
    for level in (0.38, 0.66):
        phase, swing = 2 * np.pi * rng.random(), rng.uniform(0.03, 0.07)
        ridge = level + swing * np.sin(2 * np.pi * (0.9 + level) * x + phase)
        shadow = np.exp(-np.maximum(y - ridge, 0) / 0.10) * np.clip((y - ridge) * size + 0.5, 0, 1)
        canvas = _over(canvas, (0.62, 0.73, 0.90), 0.75 * shadow)
    return _over(canvas, (1.0, 1.0, 1.0), _dots(rng, 34, (0.009, 0.022), size))


def forest(rng: Generator, size: int) -> Array:
    """Trunks, dark below, under two layers of leaves."""
    x, y = _axes(size)
    canvas = _mix((0.05, 0.20, 0.10), (0.10, 0.30, 0.13), smooth_noise(rng, 7, 7, size))
    for _ in range(6):
        place, width, lean, tone = (
            rng.random(),
            rng.uniform(0.016, 0.036),
            rng.uniform(-0.05, 0.05),
            rng.random(),
        )
        trunk = (width * (0.8 + 0.4 * y) - np.abs(x - place - lean * (y - 0.5))) * size + 0.5
        canvas = _over(canvas, (0.30 + 0.14 * tone, 0.20 + 0.09 * tone, 0.11 + 0.05 * tone), trunk)
    leaves = smooth_noise(rng, 22, 22, size) - 0.55 * y + 0.12
    canvas = _over(canvas, (0.16, 0.43, 0.16), (leaves - 0.40) * 6)
    return _over(canvas, (0.35, 0.60, 0.22), (smooth_noise(rng, 26, 26, size) - 0.5 * y - 0.42) * 5)


BACKGROUNDS: dict[str, Callable[[Generator, int], Array]] = {
    "sky": sky,
    "grass": grass,
    "water": water,
    "sand": sand,
    "night": night,
    "brick": brick,
    "snow": snow,
    "forest": forest,
}
