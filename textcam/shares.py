"""What a class's evidence consists of: sums over images by class and by text, group or channel.

The tables must be the same to the last bit however the images were cut into shards, and floating-point sums
are not. So every sum here is kept in fixed point, which makes adding exact and its order irrelevant.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from store.errors import SchemaMismatch
from textcam.arrays import Doubles, check_shape

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

_BITS = 40  # a summand is kept to 2^-40, about 1e-12
_MOST = float(1 << 40)  # a summand's largest size
_ROWS = 8192  # float64 adds this many float16 values exactly: 2^13 of at most 2^16, in steps of 2^-24
_CARRY_AFTER = 1 << 20  # summands of less than 2^40 that an int64 takes with room to spare


class CellSums:
    """An array of sums that do not depend on the order of their summands (ours).

    Unlike the sums of `textcam.exact`, values go to cells and rows of their own and need no common step: a
    value is cut into its whole part and 40 binary digits after the point, each summed as int64. One call
    may bring up to four million values for the same cell.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.whole = np.zeros(shape, np.int64)
        self.part = np.zeros(shape, np.int64)
        self.pending = 0

    def add_cells(self, index: tuple[Ints, ...], values: Floats) -> None:
        """Add values (n,) to the cells that ``index`` names; the same cell may come up many times."""
        whole, part = _fixed_point(values)
        self._make_room(len(values))
        np.add.at(self.whole, index, whole)
        np.add.at(self.part, index, part)

    def add_rows(self, row: Ints, values: Floats) -> None:
        """Add values (B, n) to the rows of this sum (R, n) that ``row`` (B,) names."""
        if not len(row):
            return
        self._make_room(len(row))
        for total, digits in zip((self.whole, self.part), _fixed_point(values), strict=True):
            rows, sums = _sum_rows(row, digits)
            total[rows] += sums

    def merge(self, other: Self) -> None:
        """Add another sum of the same shape."""
        other._carry()
        self._carry()
        self.whole += other.whole
        self.part += other.part
        self._carry()

    @property
    def value(self) -> Doubles:
        """The sums as float64."""
        self._carry()
        return self.whole + self.part / float(1 << _BITS)

    def _make_room(self, summands: int) -> None:
        if self.pending + summands > _CARRY_AFTER:
            self._carry()
        self.pending += summands

    def _carry(self) -> None:
        self.whole += self.part >> _BITS
        self.part &= (1 << _BITS) - 1
        self.pending = 0


def _sum_rows(row: Ints, values: NDArray[Any]) -> tuple[Ints, NDArray[Any]]:
    """The different values of ``row`` (B,), and for each the sum of its rows of values (B, n), B > 0."""
    order = np.argsort(row, kind="stable")
    rows, starts = np.unique(row[order], return_index=True)
    wide = np.int64 if values.dtype == np.int64 else np.float64
    return rows, np.add.reduceat(values[order], starts, axis=0, dtype=wide)


def _fixed_point(values: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    exact = np.asarray(values, np.float64)
    if not np.all(np.abs(exact) < _MOST):  # also false for NaN
        raise SchemaMismatch(
            "A value is not finite, or too large to be summed",
            where=f"largest size {np.max(np.abs(exact))}, limit {_MOST:.0f}",
            fix="Look for NaN or overflow in the activations; scale the classifier's last layer down.",
        )
    whole = np.floor(exact)
    return whole.astype(np.int64), np.rint((exact - whole) * (1 << _BITS)).astype(np.int64)


def check_ids(name: str, ids: Ints, rows: int, count: int, lowest: int = 0) -> None:
    """Raise SchemaMismatch unless ``ids`` has ``rows`` rows, all from ``lowest`` to ``count`` - 1."""
    if ids.shape[:1] != (rows,):
        raise SchemaMismatch(f"{name} has shape {ids.shape} beside {rows} rows", where=name)
    if ids.size and (ids.min() < lowest or ids.max() >= count):
        raise SchemaMismatch(
            f"{name} goes from {ids.min()} to {ids.max()}",
            where=name,
            fix=f"Allowed: {lowest} to {count - 1}.",
        )


def _over(evidence: Doubles, all_evidence: Doubles) -> Doubles:
    """Each row of evidence (C, n) over the row sum of all_evidence (C, n); 0 where there is none."""
    total = all_evidence.sum(axis=1, keepdims=True)
    shares: Doubles = np.divide(evidence, total, out=np.zeros_like(evidence), where=total > 0)
    return shares


@dataclass(frozen=True)
class ClassTexts:
    """Rows of the class_texts table, sorted by class and text index; each (R,). Text indices count in the
    bank."""

    class_id: NDArray[np.int64]
    text_index: NDArray[np.int64]
    share: Doubles
    contribution: Doubles
    n: NDArray[np.int64]


class TextShares:
    """By class and text: what part of the evidence the text is. C classes, T texts; memory does not grow with
    N."""

    def __init__(self, classes: int, texts: int) -> None:
        self.classes, self.texts = classes, texts
        self.evidence = CellSums((classes, texts))
        self.n = np.zeros((classes, texts), np.int64)
        self.images = np.zeros(classes, np.int64)

    def update(self, class_id: Ints, text_index: Ints, coefficients: Floats) -> None:
        """Take B explained images: class (B,), words (B, top) as places in the bank with -1 for none, and
        their coefficients (B, top), 0 or more. Raises SchemaMismatch for ids out of range, for a negative
        coefficient and for a text that is named twice for one image."""
        check_ids("class_id", class_id, len(text_index), self.classes)
        check_ids("text_index", text_index, len(coefficients), self.texts, lowest=-1)
        named = np.sort(text_index, axis=1)
        if np.any((named[:, 1:] == named[:, :-1]) & (named[:, 1:] >= 0)):
            raise SchemaMismatch("A text is named twice for one image", where="text_index")
        used = (text_index >= 0) & (coefficients != 0)  # (B, top)
        if np.any(coefficients[used] < 0):
            raise SchemaMismatch("A word's coefficient is negative", where=f"{coefficients[used].min()}")
        cells = (np.broadcast_to(class_id[:, None], used.shape)[used], text_index[used])
        self.evidence.add_cells(cells, coefficients[used])
        np.add.at(self.n, cells, 1)
        np.add.at(self.images, class_id, 1)

    def merge(self, other: Self) -> None:
        """Add what another worker saw."""
        self.evidence.merge(other.evidence)
        self.n += other.n
        self.images += other.images

    @property
    def share(self) -> Doubles:
        """(C, T): the text's coefficients over those of all texts, summed over the class's images. A class
        with any evidence adds up to 1, one without is 0 throughout."""
        evidence = self.evidence.value
        return _over(evidence, evidence)

    @property
    def contribution(self) -> Doubles:
        """(C, T): the mean coefficient over all of the class's images, 0 counted where the text is no word of
        the image; 0 for a class without images."""
        return self.evidence.value / np.maximum(self.images, 1)[:, None]

    @property
    def excess(self) -> Doubles:
        """(C, T): the share minus its mean over the other classes that have images: what is this class's
        own."""
        share, seen = self.share, (self.images > 0)[:, None]  # (C, T), (C, 1)
        others = np.maximum(seen.sum() - seen, 1)
        rest: Doubles = (share.sum(axis=0) - share) / others
        return share - rest

    def rows(self) -> ClassTexts:
        """The cells whose text was a word of at least one image."""
        class_id, text_index = np.nonzero(self.n)
        at = (class_id, text_index)
        return ClassTexts(class_id, text_index, self.share[at], self.contribution[at], self.n[at])


class GroupShares:
    """By class and group: signed contributions, evidence for and against kept apart. C classes, G groups."""

    def __init__(self, classes: int, groups: int) -> None:
        self.classes, self.groups = classes, groups
        self.sum_for = CellSums((classes, groups))
        self.sum_against = CellSums((classes, groups))
        self.images = np.zeros(classes, np.int64)

    def update(self, class_id: Ints, group_contributions: Floats) -> None:
        """Take B explained images: class (B,), signed contributions (B, G) in units of the logit."""
        check_shape("group_contributions", group_contributions, (None, self.groups))
        check_ids("class_id", class_id, len(group_contributions), self.classes)
        self.sum_for.add_rows(class_id, np.maximum(group_contributions, 0))
        self.sum_against.add_rows(class_id, np.maximum(-group_contributions, 0))
        np.add.at(self.images, class_id, 1)

    def merge(self, other: Self) -> None:
        """Add what another worker saw."""
        self.sum_for.merge(other.sum_for)
        self.sum_against.merge(other.sum_against)
        self.images += other.images

    @property
    def share(self) -> Doubles:
        """(C, G): the group's evidence for the class over that of all groups; rows add up to 1. An image in
        which the group speaks against the class takes nothing away here: it counts in `against`."""
        evidence = self.sum_for.value
        return _over(evidence, evidence)

    @property
    def against(self) -> Doubles:
        """(C, G): the group's evidence against the class over all evidence for it; may exceed 1."""
        return _over(self.sum_against.value, self.sum_for.value)

    @property
    def contribution(self) -> Doubles:
        """(C, G): the mean signed contribution over the class's images."""
        return (self.sum_for.value - self.sum_against.value) / np.maximum(self.images, 1)[:, None]


class ClassMeans:
    """Mean pooled activations by class (C, K), the same for any order and any cut of the images.

    Activations are taken as float16, as the store keeps them.
    """

    def __init__(self, classes: int, channels: int) -> None:
        self.classes, self.channels = classes, channels
        self.sums = CellSums((classes, channels))
        self.images = np.zeros(classes, np.int64)

    def update(self, class_id: Ints, pooled: Floats) -> None:
        """Take B images: class (B,), pooled activations (B, K)."""
        check_shape("pooled", pooled, (None, self.channels))
        check_ids("class_id", class_id, len(pooled), self.classes)
        for start in range(0, len(class_id), _ROWS):
            block = slice(start, start + _ROWS)
            with np.errstate(over="ignore"):  # what float16 cannot hold is refused as infinite
                stored = np.asarray(pooled[block], np.float16)
            self.sums.add_rows(*_sum_rows(class_id[block], stored))
        np.add.at(self.images, class_id, 1)

    def merge(self, other: Self) -> None:
        """Add what another worker saw."""
        self.sums.merge(other.sums)
        self.images += other.images

    @property
    def mean(self) -> Doubles:
        """(C, K); 0 for a class without images."""
        return self.sums.value / np.maximum(self.images, 1)[:, None]

    @property
    def overall(self) -> Doubles:
        """(K,): the mean over all images; 0 if there were none."""
        total: Doubles = self.sums.value.sum(axis=0)
        return total / max(int(self.images.sum()), 1)
