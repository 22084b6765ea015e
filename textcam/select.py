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

All is computed in float64 and ties are broken by number, so a target gets the same words in any batch.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError
from textcam.arrays import Doubles, Floats, Ids, as_floats, check_finite, unit_rows

Mask = NDArray[np.bool_]
NO_TEXT = -1
_BLOCK = 64  # targets solved together
_WHOLE_GRAM = 4096  # up to this many texts Q may be made as a whole (134 MB)
_WORTH_IT = 100  # texts whose columns cost as much as one target's own, about
_FEWEST_TO_CENTRE = 3  # the mean of two texts is not what all texts share
_PRECISION, _RIDGE = 1e-7, 1e-12


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
    # Filled up to one size: the last bits of a product depend on its shape, and batches should not matter.
    filled = np.zeros((-(-len(targets) // _BLOCK) * _BLOCK, targets.shape[1]))
    filled[: len(targets)] = unit_rows(targets)
    for start in range(0, len(targets), _BLOCK):
        count = min(_BLOCK, len(targets) - start)
        made[start : start + count] = (filled[start : start + _BLOCK] @ texts.T)[:count]
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
    quadratic = Quadratic(texts, apart, decorrelation, expected=len(targets))
    candidates = _best(ranking, min(screen, len(texts)))  # (B, S)
    length = np.linalg.norm(targets.astype(np.float64), axis=1)
    unit = unit_rows(targets).astype(np.float64)

    coefficients = np.zeros(candidates.shape)
    for start in range(0, len(targets), _BLOCK):
        rows = slice(start, start + _BLOCK)
        linear = np.matmul(texts[candidates[rows]], unit[rows, :, None])[:, :, 0]  # (b, S)
        linear -= np.maximum(sparsity / 2, relative_sparsity * linear.max(axis=1, keepdims=True))
        coefficients[rows] = minimise(quadratic, candidates[rows], linear)

    order = _best(coefficients, top)
    index = np.take_along_axis(candidates, order, axis=1)
    found = np.take_along_axis(coefficients, order, axis=1)
    near = np.take_along_axis(cosine, index, axis=1)
    return _padded(np.where(found > 0, index, NO_TEXT), found * length[:, None], near, top)


class Columns(Protocol):
    """A symmetric, positive matrix of which single columns are asked for."""

    def column(self, rows: Ids, column: Ids) -> Doubles:
        """Entries [rows[b], column[b]] (b, S) for ``rows`` (b, S) and ``column`` (b,)."""


class Quadratic:
    """Q of the problem over texts (T, D): inner products, plus ``decorrelation`` times squared cosines.

    The cosines are those of ``apart`` (T, D), the texts without their mean, of unit length. Made as a whole
    where ``expected`` targets make that worth it, otherwise column by column.
    """

    def __init__(self, texts: Doubles, apart: Doubles, decorrelation: float, expected: int) -> None:
        self._texts, self._apart, self._decorrelation = texts, apart, decorrelation
        worth_it = len(texts) <= _WHOLE_GRAM and expected * _WORTH_IT >= len(texts)
        self._whole = self._between(texts, apart, texts.T, apart.T) if worth_it else None

    def column(self, rows: Ids, column: Ids) -> Doubles:
        """Q[rows[b], column[b]] (b, S) for ``rows`` (b, S) and ``column`` (b,)."""
        if self._whole is not None:
            picked: Doubles = self._whole[rows, column[:, None]]
            return picked
        wanted = (one[column][:, :, None] for one in (self._texts, self._apart))
        return self._between(self._texts[rows], self._apart[rows], *wanted)[:, :, 0]

    def _between(self, texts: Doubles, apart: Doubles, others: Doubles, others_apart: Doubles) -> Doubles:
        made: Doubles = np.matmul(texts, others)
        if self._decorrelation > 0:
            made += self._decorrelation * np.square(np.matmul(apart, others_apart))
        return made


def minimise(quadratic: Columns, candidates: Ids, linear: Doubles) -> Doubles:
    """Minimise b'Q b - 2 l'b over b >= 0 for each row of ``candidates`` (b, S) and ``linear`` l (b, S).

    Lawson and Hanson's active set method for all rows at once: each round, every row that is not done takes
    in the text with the steepest gain and solves for all that it has; those that would turn negative leave.
    Few texts are ever taken in, so rounds are few, and only their columns of Q are needed.
    """
    solution = np.zeros_like(linear)
    rows = np.arange(len(linear))  # that are not done
    columns = np.zeros((len(rows), 8, linear.shape[1]))  # (b, P, S) of the texts taken in, by round
    gram = np.zeros((len(rows), 8, 8))
    place = np.zeros((len(rows), 8), dtype=np.int64)  # which texts
    live, held = np.zeros(place.shape, dtype=np.bool_), np.zeros(place.shape)  # still in, with which amount
    for taken in range(2 * linear.shape[1]):
        gain = linear[rows] - np.matmul(held[:, None, :taken], columns[:, :taken])[:, 0]
        gain[solution[rows] > 0] = 0.0
        best = np.argmax(gain, axis=1)
        goes_on = gain[np.arange(len(rows)), best] > _PRECISION
        if not goes_on.all():
            rows, best = rows[goes_on], best[goes_on]
            columns, gram, place, live, held = (one[goes_on] for one in (columns, gram, place, live, held))
        if not len(rows):
            break
        if taken == place.shape[1]:
            more = (0, taken)
            place, live = np.pad(place, ((0, 0), more)), np.pad(live, ((0, 0), more))
            held = np.pad(held, ((0, 0), more))
            columns, gram = np.pad(columns, ((0, 0), more, (0, 0))), np.pad(gram, ((0, 0), more, more))
        each, now = np.arange(len(rows)), taken + 1
        place[:, taken], live[:, taken] = best, True
        columns[:, taken] = quadratic.column(candidates[rows], candidates[rows, best])
        gram[:, taken, :now] = gram[:, :now, taken] = columns[each, :now, best]
        wanted = np.take_along_axis(linear[rows], place[:, :now], axis=1)
        live[:, :now], held[:, :now] = _settle(gram[:, :now, :now], wanted, live[:, :now], held[:, :now])
        solution[rows] = 0.0
        np.add.at(solution, (rows[:, None], place[:, :now]), held[:, :now])
    return solution


def _settle(gram: Doubles, linear: Doubles, live: Mask, held: Doubles) -> tuple[Mask, Doubles]:
    """Solve for the live amounts (b, P), walking there and dropping what reaches 0 until nothing would."""
    identity = np.eye(gram.shape[1])
    while True:
        both = live[:, :, None] & live[:, None, :]
        known = np.where(live, linear, 0.0)[:, :, None]
        system = np.where(both, gram, identity) + _RIDGE * identity
        wanted = np.asarray(np.linalg.solve(system, known)[:, :, 0], dtype=np.float64)
        negative = live & (wanted <= 0)
        if not negative.any():
            return live, wanted
        share = np.where(negative, 0.0, 1.0)  # of the way to what is wanted, until an amount is 0
        np.divide(held, held - wanted, out=share, where=negative & (held > wanted))
        step = share.min(axis=1, keepdims=True)
        held = held + step * (wanted - held)
        live = live & ~(negative & (share <= step))
        held = np.where(live, held, 0.0)


def _pair(targets: Floats, text_embeddings: Floats) -> tuple[Floats, Doubles]:
    texts = as_floats("text_embeddings", text_embeddings, (None, None))
    targets = as_floats("targets", targets, (None, texts.shape[1]))
    check_finite("targets", targets)
    check_finite("text_embeddings", texts)
    if len(texts) == 0:
        raise ConfigError("There are no texts to choose from.", where="text_embeddings")
    return targets, unit_rows(texts).astype(np.float64)


def _best(scores: Floats | Doubles, count: int) -> Ids:
    """Columns of the ``count`` highest scores of each row, highest first, ties by column.

    Scores that agree to six digits after the point count as ties, so that rounding does not order them.
    """
    index: Ids = np.argsort(-np.round(scores, 6), axis=1, kind="stable")[:, :count]
    return index


def _padded(index: Ids, coefficients: Doubles | Floats, near: Floats, top: int) -> Selection:
    empty = index == NO_TEXT
    width = ((0, 0), (0, max(top - index.shape[1], 0)))
    return Selection(
        text_index=np.pad(index.astype(np.int64), width, constant_values=NO_TEXT),
        coefficients=np.pad(np.where(empty, 0.0, coefficients).astype(np.float32), width),
        similarities=np.pad(np.where(empty, 0.0, near).astype(np.float32), width),
    )
