"""All images answered again by a changed head, from stored activations: what if a group, or a text, were not
there?

Two matrix products and no forward pass. Products are float32 (a forward pass is no finer), counts are exact;
memory does not grow with N.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.reader import Snapshot
from textcam.image_rows import image_rows
from textcam.whatif import Head

_BLOCK = 2048


@dataclass(frozen=True)
class Replay:
    """For each class (C,): images by label (by the old head's answer where there are no labels), right ones
    before and after, and flips: answers that change among the class's ``right_before``."""

    images: NDArray[np.int64]
    right_before: NDArray[np.int64]
    right_after: NDArray[np.int64]
    flips: NDArray[np.int64]

    @property
    def accuracy(self) -> tuple[float, float]:
        """Over all images, before and after; NaN without images."""
        total = int(self.images.sum())
        if not total:
            return float("nan"), float("nan")
        return float(self.right_before.sum() / total), float(self.right_after.sum() / total)

    @property
    def class_accuracy(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(C,) before and after, NaN for a class without images."""
        known = np.where(self.images > 0, self.images, np.nan)
        return self.right_before / known, self.right_after / known

    @property
    def worst(self) -> tuple[float, float]:
        """The lowest accuracy of a class, before and after."""
        before, after = self.class_accuracy
        return float(np.nanmin(before)), float(np.nanmin(after))


def replay(snapshot: Snapshot, head: Head, changed: Head, *, labelled: bool) -> Replay:
    """Every image of the store under both heads; without labels the old head's answers stand in for them."""
    old, new = (tuple(np.asarray(part, np.float32) for part in one) for one in (head, changed))
    counts = np.zeros((4, len(old[1])), np.int64)
    for rows in image_rows(snapshot, pooled=True):
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            count(counts, rows.pooled[block], rows.labels[block] if labelled else None, old, new)
    return Replay(*counts)


def count(
    counts: NDArray[np.int64],
    pooled: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    old: tuple[NDArray[np.float32], ...],
    new: tuple[NDArray[np.float32], ...],
) -> None:
    """Add some images, activations (B, K) and labels (B,) with -1 for none, to ``counts`` (4, C): the fields
    of `Replay`."""
    before = (pooled @ old[0].T + old[1]).argmax(axis=1)
    after = (pooled @ new[0].T + new[1]).argmax(axis=1)
    mine = before if labels is None else labels
    known, classes = mine >= 0, counts.shape[1]
    right = known & (before == mine)
    for row, chosen in enumerate((known, right, known & (after == mine), right & (after != before))):
        counts[row] += np.bincount(mine[chosen], minlength=classes)
