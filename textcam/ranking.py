"""One strict order of images per channel, and the best few places of it, collected from a stream.

Images are ordered by (activation, hash of the image id). After a ReLU thousands of lowest scores are exactly
0; the hash then decides who is among the lowest, and it decides the same way everywhere. The hash is a
bijection, so two images are never equal, and what is kept does not depend on the order in which images come.

Both are packed into one 64-bit key: the activation's bits in an order-preserving form above the upper half
of the hash. Comparing and sorting integers is fast; the lower half of the hash is looked at only where two
keys are equal.
"""

import numpy as np
from numpy.typing import NDArray

from textcam.arrays import Floats, Ids

Keys = NDArray[np.uint64]
EMPTY = -1  # image id of an empty place
_SIGN = np.uint32(0x8000_0000)
_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFF_FFFF)


def splitmix64(ids: Ids) -> Keys:
    """The finaliser of the SplitMix64 generator: a bijection of 64 bits, used as the hash of an image id."""
    x = np.asarray(ids, dtype=np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sort_keys(activations: Floats, ids: Ids) -> Keys:
    """Keys in ascending order of activation, then hash, of the broadcast shape; +0 and -0 are equal."""
    bits = (activations + np.float32(0)).view(np.uint32)
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return (ordered.astype(np.uint64) << _HALF) | (splitmix64(ids) >> _HALF)


def key_activations(keys: Keys) -> Floats:
    """The activations that ``sort_keys`` packed."""
    ordered = (keys >> _HALF).astype(np.uint32)
    return np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).view(np.float32)


class Ranking:
    """The ``keep`` highest (or lowest) keys of each channel, in a wider buffer that is cut when full.

    keys and ids are (K, width); places beyond ``filled`` (K,) hold key 0 and id EMPTY. For the lowest, keys
    are held inverted, so that the highest come first in both cases.
    """

    def __init__(self, channels: int, keep: int, lowest: bool) -> None:
        self.keep, self.lowest = keep, lowest
        self.room = max(keep, 128)  # keys a channel can take in before it must be cut back
        self.keys: Keys = np.zeros((channels, keep + self.room), dtype=np.uint64)
        self.ids: Ids = np.full((channels, keep + self.room), EMPTY, dtype=np.int64)
        self.filled = np.zeros(channels, dtype=np.int64)
        self.floor: Keys = np.zeros(channels, dtype=np.uint64)  # no key below it can still enter

    def add(self, keys: Keys, ids: Ids) -> None:
        """Take in ``keys`` (B, K) of the images ``ids`` (B,), at most ``room`` of them."""
        keys = ~keys if self.lowest else keys
        enters = np.ascontiguousarray((keys >= self.floor).T)  # (K, B)
        counts = np.count_nonzero(enters, axis=1)
        if np.any(self.filled + counts > self.keys.shape[1]):
            self.cut()
            enters = np.ascontiguousarray((keys >= self.floor).T)
            counts = np.count_nonzero(enters, axis=1)
        channel, image = np.nonzero(enters)
        first = np.cumsum(counts) - counts
        place = self.filled[channel] + np.arange(channel.size) - first[channel]
        self.keys[channel, place] = keys[image, channel]
        self.ids[channel, place] = ids[image]
        self.filled += counts

    def merge(self, other: "Ranking") -> None:
        """Take in all that ``other``, of the same size, has kept."""
        self.cut()
        other.cut()
        free = slice(self.keep, 2 * self.keep)
        self.keys[:, free] = other.keys[:, : self.keep]
        self.ids[:, free] = other.ids[:, : self.keep]
        self.cut()

    def cut(self) -> None:
        """Sort each channel, best first, and drop what is beyond ``keep``."""
        self._reorder(slice(None), np.argsort(~self.keys, axis=1))
        tied = (self.keys[:, 1:] == self.keys[:, :-1]) & (self.ids[:, 1:] != EMPTY)
        rows = np.nonzero(tied.any(axis=1))[0]
        if rows.size:
            lower = splitmix64(self.ids[rows]) & _LOWER
            lower = lower if self.lowest else ~lower
            self._reorder(rows, np.lexsort((lower, ~self.keys[rows]), axis=1))
        self.keys[:, self.keep :] = 0
        self.ids[:, self.keep :] = EMPTY
        self.filled = np.count_nonzero(self.ids != EMPTY, axis=1)
        self.floor = np.where(self.filled == self.keep, self.keys[:, self.keep - 1], np.uint64(0))

    def _reorder(self, rows: NDArray[np.intp] | slice, order: NDArray[np.intp]) -> None:
        self.keys[rows] = np.take_along_axis(self.keys[rows], order, axis=1)
        self.ids[rows] = np.take_along_axis(self.ids[rows], order, axis=1)

    def read(self) -> tuple[Ids, Floats]:
        """Image ids (K, keep), EMPTY where short, and activations, NaN there; best first."""
        self.cut()
        ids = self.ids[:, : self.keep].copy()
        keys = self.keys[:, : self.keep]
        values = key_activations(~keys if self.lowest else keys)
        return ids, np.where(ids == EMPTY, np.float32(np.nan), values)

    def write(self, ids: Ids, activations: Floats) -> None:
        """The inverse of ``read``, into a fresh ranking."""
        keys = sort_keys(activations, ids)
        self.keys[:, : self.keep] = np.where(ids == EMPTY, np.uint64(0), ~keys if self.lowest else keys)
        self.ids[:, : self.keep] = ids
        self.cut()
