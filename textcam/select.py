"""Words for a direction: few and different texts that together point where the direction points.

For a target t of unit length and texts phi_1 .. phi_T, coefficients b >= 0 minimise

    |t - sum_s b_s phi_s|^2  +  sparsity * sum_s b_s  +  decorrelation * sum_{s,t} c_st^2 b_s b_t

Two things are ours. Text embeddings lie in a narrow cone: their common part is long and says nothing, while
a direction, being a difference, has none of it. Adding a word would add the cone, so hardly a second word
would ever be chosen. So phi_s is the unit embedding minus the mean of all texts, and all are divided by one
number, their root mean square length. Not each by its own, which would inflate texts near the mean; so their
order is that of the plain cosine. And c_st is the cosine of two such texts, near 0 for unrelated ones and
near 1 for synonyms: a second word for the same thing is expensive. The sum runs over s = t too. Squares of a
Gram matrix are again a Gram matrix, so the problem is convex, and the answer depends neither on the order of
the texts nor on where the descent starts.

All is computed in float64 on blocks of one size, so a target gets the same words whatever batch it comes in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from store.errors import ConfigError
from textcam.arrays import Doubles, Floats, Ids, as_floats, check_finite, unit_rows

NO_TEXT = -1
_BLOCK = 64  # targets solved together; short batches are filled up, so that products have one shape
_WHOLE_GRAM = 4096  # up to this many texts their Gram matrix is made once (134 MB)
_FEWEST_TO_CENTRE = 3  # the mean of two texts is not what all texts share
_STEPS, _PRECISION = 5000, 1e-7


@dataclass(frozen=True)
class Selection:
    """Words of B targets, largest coefficient first; places without a word hold -1, 0 and 0.

    text_index (B, top) int64; coefficients (B, top) float32 in units of the target's length; similarities
    (B, top) float32, the cosine of target and text. A row of -1 alone says that no words fit.
    """

    text_index: Ids
    coefficients: Floats
    similarities: Floats


def similarity(targets: Floats, text_embeddings: Floats) -> Floats:
    """Cosine (B, T) of ``targets`` (B, D) with ``text_embeddings`` (T, D); 0 for zero rows."""
    targets, texts = _pair(targets, text_embeddings)
    made = np.empty((len(targets), len(texts)), dtype=np.float32)
    for rows, block in _blocks(unit_rows(targets).astype(np.float64)):
        made[rows] = (block @ texts.T)[: rows.stop - rows.start]
    return made


def standardise(scores: Floats) -> Floats:
    """``scores`` (B, T) minus their row's mean, over its standard deviation; 0 in rows without spread."""
    wide = as_floats("scores", scores, (None, None)).astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    # Equal scores leave rounding noise behind, which must not be blown up to standard scores.
    flat = spread <= 1e-7 * np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    standard: Floats = np.where(flat, 0.0, centred / np.where(flat, 1.0, spread)).astype(np.float32)
    return standard


def smaller_of_both(whole: Floats, region: Floats) -> Floats:
    """The smaller of both standardised scores (B, T): a text must fit whole image and region (ours)."""
    whole = as_floats("whole", whole, (None, None))
    return np.minimum(standardise(whole), standardise(as_floats("region", region, whole.shape)))


def nearest_texts(
    targets: Floats, text_embeddings: Floats, *, top: int = 5, scores: Floats | None = None
) -> Selection:
    """The ``top`` texts by cosine, or by ``scores`` (B, T), each alone; coefficients are similarities."""
    cosine = similarity(targets, text_embeddings)
    ranking = cosine if scores is None else as_floats("scores", scores, cosine.shape)
    index = _best(ranking, min(top, ranking.shape[1]))
    near = np.take_along_axis(cosine, index, axis=1)
    dead = ~np.any(np.asarray(targets), axis=1)
    return _padded(np.where(dead[:, None], NO_TEXT, index), near, near, top)


def select_texts(
    targets: Floats,
    text_embeddings: Floats,
    *,
    top: int = 5,
    screen: int = 300,
    sparsity: float = 0.05,
    relative_sparsity: float = 0.0,
    decorrelation: float = 0.1,
    centre: bool = True,
    scores: Floats | None = None,
) -> Selection:
    """At most ``top`` words for each of ``targets`` (B, D) out of ``text_embeddings`` (T, D, unit length).

    Only the ``screen`` texts with the highest cosine, or the highest ``scores`` (B, T), are considered.
    Targets are scaled to unit length for the solve, so that amounts mean the same for every target: to be
    chosen, a text's inner product with it must be above ``sparsity / 2``, and above ``relative_sparsity`` (0
    to 1) times that of the best text, as encoders differ in how large they are. ``centre`` takes the mean
    text out, where there are at least three texts. A target of zeros, or one that no text fits, has no
    words. ConfigError for amounts out of range, SchemaMismatch for NaN.
    """
    if top < 1 or screen < 1 or sparsity < 0 or decorrelation < 0 or not 0 <= relative_sparsity < 1:
        raise ConfigError(
            "top and screen must be at least 1, sparsity and decorrelation at least 0, and relative_sparsity "
            "in [0, 1).",
            where="select_texts",
        )
    targets, texts = _pair(targets, text_embeddings)
    cosine = similarity(targets, text_embeddings)
    ranking = cosine if scores is None else as_floats("scores", scores, cosine.shape)
    centred = texts - texts.mean(axis=0)
    apart = unit_rows(centred).astype(np.float64)
    if centre and len(texts) >= _FEWEST_TO_CENTRE:
        texts = centred / np.sqrt(np.square(centred).sum(axis=1).mean() or 1.0)
    candidates = _best(ranking, min(screen, len(texts)))  # (B, S)
    length = np.linalg.norm(targets.astype(np.float64), axis=1)
    whole = _quadratic(texts, apart, decorrelation) if len(texts) <= _WHOLE_GRAM else None

    coefficients = np.zeros(candidates.shape)
    for rows, block in _blocks(unit_rows(targets).astype(np.float64)):
        chosen = np.resize(candidates[rows], (len(block), candidates.shape[1]))
        if whole is None:
            quadratic = _quadratic(texts[chosen], apart[chosen], decorrelation)
        else:
            quadratic = whole[chosen[:, :, None], chosen[:, None, :]]
        linear = np.matmul(texts[chosen], block[:, :, None])[:, :, 0]  # (b, S)
        linear -= np.maximum(sparsity / 2, relative_sparsity * linear.max(axis=1, keepdims=True))
        coefficients[rows] = descend(quadratic, linear)[: rows.stop - rows.start]

    order = np.argsort(-coefficients, axis=1, kind="stable")[:, :top]
    index = np.take_along_axis(candidates, order, axis=1)
    found = np.take_along_axis(coefficients, order, axis=1)
    near = np.take_along_axis(cosine, index, axis=1)
    return _padded(np.where(found > 0, index, NO_TEXT), found * length[:, None], near, top)


def descend(quadratic: Doubles, linear: Doubles) -> Doubles:
    """Minimise b' Q b - 2 l' b over b >= 0 for each of ``quadratic`` (b, S, S) and ``linear`` (b, S).

    Coordinate descent, each step on the coordinate that gains most; few coordinates ever leave 0, so few
    steps do.
    """
    rows = np.arange(len(linear))
    diagonal = np.diagonal(quadratic, axis1=1, axis2=2).copy()
    solution, gradient = np.zeros_like(linear), linear.copy()  # gradient = l - Q b
    for _ in range(_STEPS):
        change = np.maximum(gradient / diagonal, -solution)
        best = np.argmax(np.abs(change) * np.sqrt(diagonal), axis=1)
        step = change[rows, best]
        # Each row rests when it is precise enough by itself, so that its neighbours leave no trace in it.
        step[np.abs(step) < _PRECISION] = 0.0
        if not step.any():
            break
        solution[rows, best] += step
        gradient -= step[:, None] * quadratic[rows, best]
    return np.where(solution > _PRECISION, solution, 0.0)


def _quadratic(texts: Doubles, apart: Doubles, decorrelation: float) -> Doubles:
    """Q of the problem for texts (..., S, D): their Gram matrix plus the penalty on near-synonyms."""
    gram: Doubles = np.matmul(texts, texts.swapaxes(-1, -2))
    if decorrelation > 0:
        gram += decorrelation * np.square(np.matmul(apart, apart.swapaxes(-1, -2)))
    return gram


def _pair(targets: Floats, text_embeddings: Floats) -> tuple[Floats, Doubles]:
    texts = as_floats("text_embeddings", text_embeddings, (None, None))
    targets = as_floats("targets", targets, (None, texts.shape[1]))
    check_finite("targets", targets)
    check_finite("text_embeddings", texts)
    if len(texts) == 0:
        raise ConfigError("There are no texts to choose from.", where="text_embeddings")
    return targets, unit_rows(texts).astype(np.float64)


def _blocks(targets: Doubles) -> Iterator[tuple[slice, Doubles]]:
    """Slices of at most _BLOCK rows and their targets, filled up with zeros to exactly _BLOCK."""
    for start in range(0, len(targets), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(targets)))
        block = np.zeros((_BLOCK, targets.shape[1]))
        block[: rows.stop - rows.start] = targets[rows]
        yield rows, block


def _best(scores: Floats, count: int) -> Ids:
    """Columns of the ``count`` highest scores of each row, highest first, ties by column."""
    index: Ids = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return index


def _padded(index: Ids, coefficients: Doubles | Floats, near: Floats, top: int) -> Selection:
    empty = index == NO_TEXT
    width = ((0, 0), (0, max(top - index.shape[1], 0)))
    return Selection(
        text_index=np.pad(index.astype(np.int64), width, constant_values=NO_TEXT),
        coefficients=np.pad(np.where(empty, 0.0, coefficients).astype(np.float32), width),
        similarities=np.pad(np.where(empty, 0.0, near).astype(np.float32), width),
    )
