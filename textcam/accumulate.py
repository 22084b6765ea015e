"""Mergeable summaries of a stream of images: each channel's highest and lowest images, and exact moments.

Both give the same bits for any order of images, any batches and any sharding, which is why a run's tables do
not depend on who ran it: examples follow one strict order (``ranking``), and moments are sums of integers
(``exact``). Memory is O(K M) and O(K D + D D), whatever N is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError, ImageError
from textcam.arrays import Doubles, Floats, Ids, as_floats, check_shape
from textcam.exact import EXACT, ExactSum
from textcam.ranking import EMPTY, Ranking, sort_keys

ACTIVATION_BITS, EMBEDDING_BITS = 15, 16  # steps of 2**-bits: float16's spacing just above 1/32 and 1/64
LARGEST_ACTIVATION, LARGEST_EMBEDDING = 65504.0, 2.0
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ExampleSide:
    """One side's examples of each channel, most extreme first.

    image_ids (K, M) int64, -1 where there is none; activations (K, M) float32, NaN there; counts (K,) int64.
    """

    image_ids: Ids
    activations: Floats
    counts: NDArray[np.int64]


class TopK:
    """The M = ``examples`` images of highest and of lowest pooled activation, for each of K channels.

    Positives are the first M in the order of (activation, hash of the id), negatives the last M, so with N
    >= 2M no image is on both sides. What is read out are *usable* sides (ours):

    - With N < 2M the images are shared out: positives take the upper half, and the middle one when N is odd.
    - Where one value reaches across the gap between the sides (a ReLU channel that fires on fewer than M
      images), a side that has other images too gives up those at that value; a channel with a single value
      has no examples.

    So every positive's activation is above every negative's, and ``counts`` may be smaller than M.
    """

    def __init__(self, channels: int, examples: int) -> None:
        if channels < 1 or examples < 1:
            raise ConfigError(f"{examples} examples of {channels} channels cannot be kept.", where="TopK")
        self.channels, self.examples = channels, examples
        self.images = 0
        self._highest = Ranking(channels, examples, lowest=False)
        self._lowest = Ranking(channels, examples, lowest=True)

    def update(self, image_ids: Ids, pooled: Floats) -> None:
        """Take in ``pooled`` (B, K) of the images ``image_ids`` (B,), ids >= 0, each image once in a stream.

        ImageError, and nothing is taken in, for NaN or infinity, a negative id, or an id twice in one call.
        """
        ids = np.asarray(image_ids, dtype=np.int64)
        check_shape("image_ids", ids, (None,))
        values = as_floats("pooled", pooled, (len(ids), self.channels))
        _check_images(ids, values)
        for start in range(0, len(ids), self._highest.room):
            part = slice(start, start + self._highest.room)
            keys = sort_keys(values[part], ids[part, None])  # (room, K)
            self._highest.add(keys, ids[part])
            self._lowest.add(keys, ids[part])
        self.images += len(ids)

    def merge(self, other: "TopK") -> None:
        """Take in everything that ``other`` has seen; it must be of other images."""
        if (self.channels, self.examples) != (other.channels, other.examples):
            raise ConfigError(
                f"Examples of {other.channels} channels x {other.examples} cannot be merged into "
                f"{self.channels} x {self.examples}.",
                where="TopK.merge",
            )
        self._highest.merge(other._highest)
        self._lowest.merge(other._lowest)
        self.images += other.images

    @property
    def positives(self) -> ExampleSide:
        """Images with the highest activations, highest first."""
        return self.sides()[0]

    @property
    def negatives(self) -> ExampleSide:
        """Images with the lowest activations, lowest first."""
        return self.sides()[1]

    def sides(self) -> tuple[ExampleSide, ExampleSide]:
        """(positives, negatives), read together."""
        places = np.arange(self.examples)
        high_ids, high = self._highest.read()
        low_ids, low = self._lowest.read()
        high = np.where(places < -(-self.images // 2), high, np.float32(np.nan))
        low = np.where(places < self.images // 2, low, np.float32(np.nan))
        # fmin and fmax skip the NaN of empty places.
        lowest_high, highest_low = np.fmin.reduce(high, axis=1), np.fmax.reduce(low, axis=1)
        tie = np.where(lowest_high == highest_low, lowest_high, np.float32(np.nan))[:, None]  # (K, 1)
        above, below = high > tie, low < tie
        any_above, any_below = above.any(axis=1, keepdims=True), below.any(axis=1, keepdims=True)
        keep_high = np.where(np.isnan(tie), True, np.where(any_above, above, any_below))
        keep_low = np.where(np.isnan(tie), True, np.where(any_below, below, any_above))
        return _side(high_ids, high, keep_high), _side(low_ids, low, keep_low)

    def to_arrays(self) -> Arrays:
        """Everything there is to know, as plain arrays; the same bytes whatever order the images came in."""
        high_ids, high = self._highest.read()
        low_ids, low = self._lowest.read()
        return {
            "images": np.array(self.images, dtype=np.int64),
            "highest_ids": high_ids,
            "highest_activations": high,
            "lowest_ids": low_ids,
            "lowest_activations": low,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``to_arrays``."""
        made = cls(*arrays["highest_ids"].shape)
        made.images = int(arrays["images"])
        made._highest.write(arrays["highest_ids"], arrays["highest_activations"])
        made._lowest.write(arrays["lowest_ids"], arrays["lowest_activations"])
        return made


def _side(ids: Ids, values: Floats, keep: NDArray[np.bool_]) -> ExampleSide:
    keep = keep & ~np.isnan(values)
    return ExampleSide(
        image_ids=np.where(keep, ids, EMPTY),
        activations=np.where(keep, values, np.float32(np.nan)),
        counts=np.count_nonzero(keep, axis=1).astype(np.int64),
    )


def _check_images(ids: Ids, values: Floats) -> None:
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ImageError(
            f"{int((~finite).sum())} images have activations that are NaN or infinite.",
            where=f"image_id {int(ids[~finite][0])}",
            fix="Leave the image out and record it as an error; if all images fail, check the number format.",
        )
    if ids.size and (ids.min() < 0 or len(np.unique(ids)) < len(ids)):
        raise ImageError("An image id is negative or was given twice in one batch.", where="image_ids")


class Moments:
    """Exact first and second moments of pooled activations (K) and unit embeddings (D) over all images.

    Activations are rounded to steps of 2**-15 and embeddings to steps of 2**-16; from there everything is
    integer. Moments divide by n and are 0 while no image was seen. Without ``joint`` nothing is kept of
    embeddings, so memory is O(K), not O(K D + D D).
    """

    def __init__(self, channels: int, dim: int, joint: bool = True) -> None:
        if channels < 1 or dim < 1:
            raise ConfigError(f"Moments of {channels} channels and {dim} dimensions cannot be kept.")
        self.channels, self.dim = channels, dim
        self.images = 0
        self._sums = {
            "activation": ExactSum((channels,)),
            "activation_squared": ExactSum((channels,)),
            "active": ExactSum((channels,)),
        }
        if joint:
            self._sums["embedding"] = ExactSum((dim,))
            self._sums["embedding_squared"] = ExactSum((dim, dim))
            self._sums["cross"] = ExactSum((dim, channels))

    def update(self, pooled: NDArray[np.floating], embeddings: NDArray[np.floating]) -> None:
        """Take in ``pooled`` (B, K) and ``embeddings`` (B, D) of the same images.

        ImageError, and nothing is taken in, for activations beyond float16 (65504), embedding values beyond 2
        (they should be of unit length), NaN or infinity.
        """
        pooled, embeddings = np.asarray(pooled), np.asarray(embeddings)
        check_shape("pooled", pooled, (None, self.channels))
        check_shape("embeddings", embeddings, (len(pooled), self.dim))
        a = _steps("pooled", pooled, ACTIVATION_BITS, LARGEST_ACTIVATION)
        e = _steps("embeddings", embeddings, EMBEDDING_BITS, LARGEST_EMBEDDING)
        largest = max(_largest(a), _largest(e), 1.0) * max(_largest(e), 1.0)
        step = int(EXACT // largest)  # rows whose products add up exactly; at least 32 by the limits above
        for start in range(0, len(a), step):
            self._add(a[start : start + step], e[start : start + step])
        self.images += len(a)

    def _add(self, a: Doubles, e: Doubles) -> None:
        rows, top_a, top_e = len(a), _largest(a), _largest(e)
        self._sums["activation"].add(a.sum(axis=0), rows * top_a)
        self._sums["activation_squared"].add_rows(a.astype(np.int64) ** 2)
        self._sums["active"].add((a > 0).sum(axis=0, dtype=np.float64), rows)
        if "cross" not in self._sums:
            return
        self._sums["embedding"].add(e.sum(axis=0), rows * top_e)
        self._sums["embedding_squared"].add(e.T @ e, rows * top_e * top_e)
        self._sums["cross"].add(e.T @ a, rows * top_e * top_a)

    def merge(self, other: "Moments") -> None:
        """Take in everything that ``other`` has seen; it must be of other images."""
        if (self.channels, self.dim, *self._sums) != (other.channels, other.dim, *other._sums):
            raise ConfigError(
                f"Moments of {other.channels} channels and {other.dim} dimensions cannot be merged into "
                f"{self.channels} and {self.dim}.",
                where="Moments.merge",
            )
        for name, one in self._sums.items():
            one.merge(other._sums[name])
        self.images += other.images

    def _mean(self, name: str, bits: int) -> Doubles:
        mean: Doubles = np.ldexp(self._sums[name].floats(), -bits) / max(self.images, 1)
        return mean

    @property
    def mean(self) -> Doubles:
        """Mean pooled activation (K,)."""
        return self._mean("activation", ACTIVATION_BITS)

    @property
    def variance(self) -> Doubles:
        """Variance of the pooled activation (K,); exactly 0 for a constant channel."""
        total, squares = self._sums["activation"].integers(), self._sums["activation_squared"].integers()
        scale = max(self.images, 1) ** 2 * 4**ACTIVATION_BITS
        variance: Doubles = ((self.images * squares - total * total) / scale).astype(np.float64)
        return variance

    @property
    def active_fraction(self) -> Doubles:
        """Share of images with an activation above 0 (K,)."""
        return self._mean("active", 0)

    @property
    def embedding_mean(self) -> Doubles:
        """Mean embedding (D,)."""
        return self._mean("embedding", EMBEDDING_BITS)

    @property
    def embedding_covariance(self) -> Doubles:
        """Covariance of the embeddings (D, D)."""
        second = self._mean("embedding_squared", 2 * EMBEDDING_BITS)
        return second - np.outer(self.embedding_mean, self.embedding_mean)

    @property
    def cross_covariance(self) -> Doubles:
        """Covariance of each embedding dimension with each channel's activation (D, K)."""
        return self._mean("cross", EMBEDDING_BITS + ACTIVATION_BITS) - np.outer(
            self.embedding_mean, self.mean
        )

    def to_arrays(self) -> Arrays:
        """Everything there is to know, as integers; the same bytes whatever order the images came in.

        Upper halves are as narrow as their values allow, which keeps what a shard writes small.
        """
        arrays: Arrays = {"images": np.array(self.images, dtype=np.int64), "dim": np.array(self.dim)}
        for name, one in self._sums.items():
            high, low = one.limbs()
            arrays[f"{name}_high"] = high.astype(_narrowest(high))
            arrays[f"{name}_low"] = low.astype(np.uint32)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``to_arrays``."""
        made = cls(len(arrays["active_high"]), int(arrays["dim"]), joint="cross_high" in arrays)
        made.images = int(arrays["images"])
        for name, one in made._sums.items():
            one.high[...], one.low[...] = arrays[f"{name}_high"], arrays[f"{name}_low"]
        return made


def _narrowest(values: NDArray[np.int64]) -> np.dtype[np.signedinteger[Any]]:
    kinds = (np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.int32))
    low, high = values.min(), values.max()
    fits = (kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return next(fits, np.dtype(np.int64))


def _largest(x: Doubles) -> float:
    return float(np.abs(x).max(initial=0.0))


def _steps(name: str, values: NDArray[np.floating], bits: int, limit: float) -> Doubles:
    """``values`` in whole steps of 2**-bits, as float64."""
    wide = values.astype(np.float64)
    usable = np.abs(wide) <= limit  # false for NaN
    if not usable.all():
        raise ImageError(
            f"{name} hold NaN or magnitudes above {limit:g}.",
            where=f"row {int(np.argwhere(~usable)[0][0])} of the batch",
            fix="Leave the image out and record it as an error; embeddings must be of unit length.",
        )
    steps: Doubles = np.rint(np.ldexp(wide, bits))
    return steps
