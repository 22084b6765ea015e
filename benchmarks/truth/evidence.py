"""What the methods that are compared may look at, and what they are scored against.

The images of one are never those of the other.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """All that a label-free method has: N images as a classifier and an encoder see them, and T texts.

    pooled (N, K) activations; embeddings (N, D) and texts (T, D) of unit length; maps (N, K, h, w) and cells
    (N, h', w', D) where there are pictures; kinds (T,).
    """

    pooled: Array
    embeddings: Array
    texts: Array
    kinds: tuple[str, ...]
    maps: Array | None = None
    cells: Array | None = None

    def rows(self, chosen: Array) -> Self:
        """The same of some images."""
        picked = {
            name: None if getattr(self, name) is None else getattr(self, name)[chosen]
            for name in ("pooled", "embeddings", "maps", "cells")
        }
        return replace(self, **picked)


@dataclass(frozen=True)
class Labelled:
    """Other images with the truth: pooled (N', K), labels (N', T), and where it is known what channels mean,
    meanings (K, T)."""

    pooled: Array
    labels: Array
    meanings: Array | None = None

    def as_references(self) -> tuple[Array, Array]:
        """Activations and labels in float64, for correlations."""
        return self.pooled.astype(np.float64), self.labels.astype(np.float64)
