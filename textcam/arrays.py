"""Arrays at the border: checked and coerced once, so that the numeric files inside need no ``isinstance``.

Shape letters used throughout: N images, B a batch of them, K channels, C classes, D embedding size, T texts,
G groups, M examples a side, (h, w) map size.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store.errors import ConfigError, SchemaMismatch

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

_BLOCK = 1 << 18  # values that are worked on at a time, 2 MiB as float64


def unit_rows(x: ArrayLike, axis: int = -1) -> Floats:
    """Scale the vectors along ``axis`` to length 1; zero vectors stay zero.

    Norms are taken in float64 after dividing by the largest magnitude, so that neither tiny nor huge vectors
    under- or overflow. Returns float32 of the same shape. Beside it no more than a few blocks are held.
    """
    rows = np.asarray(x)
    unit = np.empty_like(rows, np.float32)
    if rows.ndim < 2 or axis % rows.ndim == 0:
        unit[...] = _unit(rows, axis)
        return unit
    step = max(1, _BLOCK // max(1, rows[:1].size))
    for start in range(0, len(rows), step):
        unit[start : start + step] = _unit(rows[start : start + step], axis)
    return unit


def _unit(x: NDArray[np.generic], axis: int) -> Doubles:
    wide = np.asarray(x, np.float64)
    if wide.size == 0:
        return wide
    largest = np.abs(wide).max(axis=axis, keepdims=True)
    scaled = wide / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.square(scaled).sum(axis=axis, keepdims=True))
    unit: Doubles = scaled / np.where(norm > 0, norm, 1.0)
    return unit


def check_shape(name: str, array: NDArray[np.generic], shape: Sequence[int | None]) -> None:
    """Raise ConfigError unless ``array`` has this shape (None: any size). Shapes are never guessed."""
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ConfigError(
            f"{name} has shape {array.shape}, expected ({wanted}).",
            where=name,
            fix="Pass the array in the documented order of axes.",
        )


def check_finite(name: str, array: NDArray[np.generic]) -> None:
    """Raise SchemaMismatch if ``array`` holds NaN or infinity; says at which position first."""
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise SchemaMismatch(
            f"{name} holds NaN or infinity ({int((~finite).sum())} of {array.size} values).",
            where=f"{name}{list(first)}",
            fix="Leave out the images or channels that a model could not handle before passing them on.",
        )


def as_floats(name: str, array: ArrayLike, shape: Sequence[int | None]) -> Floats:
    """``array`` as float32 of this shape (None: any size); ConfigError if it has another shape."""
    coerced = np.asarray(array, dtype=np.float32)
    check_shape(name, coerced, shape)
    return coerced


def finite_rows(*arrays: Floats) -> NDArray[np.bool_]:
    """Which of B rows hold nothing but finite numbers in each of these (B, ...)."""
    flat = [np.isfinite(one).reshape(len(one), -1).all(axis=1) for one in arrays]
    made: NDArray[np.bool_] = np.logical_and.reduce(flat)
    return made
