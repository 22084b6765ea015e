"""All images answered again by a changed head, from stored activations: what if a group, or a text, were not
there?

Two matrix products and no forward pass. Products are float32 (a forward pass is no finer), counts are exact;
memory does not grow with N.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from store.reader import Snapshot
from textcam.image_rows import image_rows
from textcam.whatif import Head

_BLOCK = 2048

Block = TypeVar("Block")


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
    blocks = ((rows.pooled, rows.labels if labelled else None) for rows in image_rows(snapshot, pooled=True))
    return replay_blocks(blocks, head, changed)


def replay_blocks(
    blocks: Iterable[tuple[NDArray[np.float32], NDArray[np.int64] | None]], head: Head, changed: Head
) -> Replay:
    """Images given as activations (B, K) and labels (B,), -1 for none, or no labels; the next block is read
    while one is counted. Where few channels changed, only these are multiplied again."""
    weights, bias = (np.asarray(part, np.float32) for part in head)
    moved = np.asarray(changed[0], np.float32) - weights
    shift = np.asarray(changed[1], np.float32) - bias
    channels = np.flatnonzero(moved.any(axis=0))
    part = moved[:, channels]
    counts = np.zeros((4, len(bias)), np.int64)
    for pooled, labels in _read_ahead(iter(blocks)):
        for start in range(0, len(pooled), _BLOCK):
            block = slice(start, start + _BLOCK)
            logits = pooled[block] @ weights.T + bias
            before = logits.argmax(axis=1)
            logits += pooled[block][:, channels] @ part.T + shift
            _count(counts, before, logits.argmax(axis=1), None if labels is None else labels[block])
    return Replay(*counts)


def _count(
    counts: NDArray[np.int64],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
) -> None:
    """Add answers (B,) before and after to ``counts`` (4, C): the fields of `Replay`."""
    mine = before if labels is None else labels
    known = mine >= 0
    right = known & (before == mine)
    for row, chosen in enumerate((known, right, known & (after == mine), right & (after != before))):
        counts[row] += np.bincount(mine[chosen], minlength=counts.shape[1])


def _read_ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same blocks, each read while the one before is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block
