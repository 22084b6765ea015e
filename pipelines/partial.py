"""What a shard adds to the whole: its candidates for examples, its moments, and gradient weights if needed.

Kept apart from the store's tables: partials belong to a run, not to a snapshot.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.ledger import File, WorkFile, read_arrays, write_arrays
from store.storage import Storage
from textcam.accumulate import Moments, TopK

Arrays = dict[str, NDArray[Any]]


class Partial:
    """Examples and moments of some images' activations; partials merge in any order to the same bits.

    For a head that is not linear the channel weights of each image's predicted class, (n, K), are kept as
    well: they need a backward pass, and a second one over all images would cost as much as the first. They
    are float32: where activations are small or large, weights leave the range of float16 on the other side.
    """

    def __init__(self, examples: TopK, moments: Moments) -> None:
        self.examples, self.moments = examples, moments
        self._weights: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []

    @classmethod
    def empty(cls, channels: int, dim: int, examples: int) -> "Partial":
        """Nothing yet: K channels, D-dimensional embeddings, M examples a side."""
        return cls(TopK(channels, examples), Moments(channels, dim, joint=False))

    def update(
        self,
        image_ids: NDArray[np.int64],
        scores: NDArray[np.float32],
        pooled: NDArray[np.float16],
        embeddings: NDArray[np.float16],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Add B images: float32 scores (B, K) rank examples; the stored halves (B, K), (B, D) make the
        moments."""
        self.examples.update(image_ids, scores)
        self.moments.update(pooled, embeddings)
        if weights is not None:
            self._weights.append((image_ids, weights))

    def merge(self, other: "Partial") -> None:
        """Take in another shard's candidates and sums. Weights stay with their shard."""
        self.examples.merge(other.examples)
        self.moments.merge(other.moments)

    def to_arrays(self) -> Arrays:
        """Everything as named arrays."""
        arrays = {f"examples.{name}": array for name, array in self.examples.to_arrays().items()}
        arrays |= {f"moments.{name}": array for name, array in self.moments.to_arrays().items()}
        if self._weights:
            ids, weights = zip(*self._weights, strict=True)
            arrays |= {"cam.image_ids": np.concatenate(ids), "cam.weights": np.concatenate(weights)}
        return arrays


def write_partial(storage: Storage, path: str, partial: Partial) -> WorkFile:
    """Write a shard's partial; the record carries its hash."""
    return write_arrays(storage, path, partial.to_arrays())


def read_partial(storage: Storage, file: File) -> Partial:
    """A shard's examples and moments."""
    arrays = read_arrays(storage, file)
    return Partial(
        TopK.from_arrays(_below(arrays, "examples.")), Moments.from_arrays(_below(arrays, "moments."))
    )


def read_weights(storage: Storage, file: File) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A shard's channel weights by gradient: ids (n,), weights (n, K)."""
    arrays = read_arrays(storage, file)
    return arrays["cam.image_ids"], arrays["cam.weights"]


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
