"""Drawing with anti-aliased edges: shapes, textures and artefacts as functions of plane coordinates.

Everything is given in fractions of the picture's side, so one scene can be drawn at any size. A shape is a
signed distance (negative inside), which turns into coverage within one pixel of the edge. Nothing here knows
of scenes: a picture with one object or with many is a matter of calling `paint_object` once or often.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Distance = Callable[[Array, Array], Array]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.13, 0.14),
    "orange": (0.97, 0.53, 0.07),
    "yellow": (0.98, 0.86, 0.16),
    "green": (0.13, 0.66, 0.27),
    "blue": (0.14, 0.35, 0.87),
    "purple": (0.56, 0.21, 0.73),
    "white": (0.96, 0.96, 0.96),
    "black": (0.11, 0.11, 0.12),
}
OUTLINE = 0.014  # width of an object's outline, drawn inside its shape


def grid(rows: slice, columns: slice, size: int) -> tuple[Array, Array]:
    """Pixel centres of a window of a size x size picture: x (1, w) and y (h, 1), in fractions of the side."""
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / size
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / size
    return x[None, :], y[:, None]


def plane(colour: Sequence[float] | Array) -> Array:
    """A colour as (3, 1, 1), to be spread over a picture (3, S, S)."""
    return np.asarray(colour, dtype=np.float32)[:, None, None]


def coverage(distance: Array, size: int) -> Array:
    """Share of each pixel that lies inside, from the signed distance of its centre: a ramp one pixel wide."""
    return np.clip(0.5 - distance * size, 0.0, 1.0)


# --- shapes: signed distance in a plane where the object's size is 1 and y points down


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0)


def _half_planes(x: Array, y: Array, turns: tuple[float, ...], offset: float) -> Array:
    sides = [x * math.sin(turn) - y * math.cos(turn) - offset for turn in turns]
    return np.maximum.reduce(np.broadcast_arrays(*sides))


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.84


def _square(x: Array, y: Array) -> Array:
    return _box(x, y, 0.68, 0.68) - 0.05


def _triangle(x: Array, y: Array) -> Array:
    return _half_planes(x, y - 0.2, (math.pi, math.pi / 3, -math.pi / 3), 0.53)


def _star(x: Array, y: Array) -> Array:
    """Five tips at radius 1.05: one edge of one folded tip decides (the plane is folded by the symmetry)."""
    angle = np.arctan2(x, -y)
    fifth = 2 * math.pi / 5
    folded = np.abs(np.mod(angle + fifth / 2, fifth) - fifth / 2)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    tip, inner = 1.05, 0.46
    rise, run = inner * math.sin(fifth / 2), tip - inner * math.cos(fifth / 2)
    return ((along - tip) * rise + across * run) / math.hypot(rise, run)


def _heart(x: Array, y: Array) -> Array:
    """A square standing on its corner, with a half disc on each of its upper sides."""
    side = 0.53
    low = y - 0.1
    square = _box((x + low) / math.sqrt(2), (x - low) / math.sqrt(2), side, side)
    offset = side / math.sqrt(2)
    discs = np.hypot(np.abs(x) - offset, low + offset) - side
    return np.minimum(square, discs)


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.9, 0.29), _box(x, y, 0.29, 0.9))


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.66) - 0.24


def _arrow(x: Array, y: Array) -> Array:
    head = np.maximum(_half_planes(x, y + 0.02, (math.pi / 4, -math.pi / 4), 0.64), y - 0.02)
    return np.minimum(head, _box(x, y - 0.42, 0.27, 0.5))


SHAPES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "arrow": _arrow,
}

# --- textures: share of the second tone at plane coordinates counted in periods


def _wave(u: Array, sharpness: float) -> Array:
    """1 on the middle half of each period, 0 on the rest, with a ramp as steep as one pixel."""
    return np.clip((0.25 - np.abs(np.mod(u, 1.0) - 0.5)) * sharpness + 0.5, 0.0, 1.0)


def _plain(u: Array, v: Array, sharpness: float) -> Array:
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=np.float32)


def _striped(u: Array, v: Array, sharpness: float) -> Array:
    return _wave(u, sharpness) + 0 * v


def _dotted(u: Array, v: Array, sharpness: float) -> Array:
    radius = np.hypot(np.mod(u, 1.0) - 0.5, np.mod(v, 1.0) - 0.5)
    return np.clip((0.33 - radius) * sharpness + 0.5, 0.0, 1.0)


def _checkered(u: Array, v: Array, sharpness: float) -> Array:
    a, b = _wave(u, sharpness), _wave(v, sharpness)
    return a * (1 - b) + b * (1 - a)


TEXTURES: dict[str, Callable[[Array, Array, float], Array]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
}


def window(centre: tuple[float, float], reach: float, size: int) -> tuple[slice, slice]:
    """Rows and columns of the picture within `reach` of the centre (x, y), cut at the border."""
    columns, rows = (
        slice(max(0, int((c - reach) * size) - 1), min(size, int((c + reach) * size) + 2)) for c in centre
    )
    return rows, columns


def turned(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Coordinates in axes turned by `angle` (radians, clockwise on the screen)."""
    c, s = math.cos(angle), math.sin(angle)
    return x * c + y * s, y * c - x * s


def tones(colour: str, shade: float) -> tuple[Array, Array, Array]:
    """The body colour, the texture's second tone and the outline of an object, each (3, 1, 1)."""
    body = np.clip(np.asarray(COLOURS[colour], dtype=np.float32) * shade, 0, 1)
    bright = float(body @ np.array([0.3, 0.59, 0.11], dtype=np.float32))
    if bright < 0.2:
        return plane(body), plane(body * 0.4 + 0.33), plane(body * 0.3 + 0.5)
    second = body * 0.42 + 0.58 if bright < 0.5 else body * 0.56
    return plane(body), plane(second), plane(body * 0.35)


def paint_object(
    canvas: Array,
    form: Distance,
    colour: str,
    texture: str,
    *,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    shade: float,
    period: float,
    texture_angle: float,
    phase: tuple[float, float],
) -> Array:
    """Paint one object over the canvas (3, S, S), in place; its share of each pixel is returned, (S, S).

    `form` is its signed distance, one of the SHAPES or another, in a plane where the object's size is 1.
    """
    size = canvas.shape[1]
    rows, columns = window(centre, radius * 1.25, size)
    x, y = grid(rows, columns, size)
    x, y = x - centre[0], y - centre[1]
    across, down = turned(x, y, angle)
    distance = form(across / radius, down / radius) * radius
    alpha = coverage(distance, size)

    u, v = turned(x, y, angle + texture_angle)
    second_share = TEXTURES[texture](u / period + phase[0], v / period + phase[1], period * size)
    body, second, outline = tones(colour, shade)
    surface = body * (1 - second_share) + second * second_share
    surface = surface * (1 - 0.13 * np.clip((x + y) / radius, -1, 1))  # light from the upper left
    edge = coverage(np.abs(distance + OUTLINE / 2) - OUTLINE / 2, size)
    surface = surface * (1 - edge) + outline * edge

    canvas[:, rows, columns] = canvas[:, rows, columns] * (1 - alpha) + np.clip(surface, 0, 1) * alpha
    share = np.zeros((size, size), dtype=np.float32)
    share[rows, columns] = alpha
    return share
