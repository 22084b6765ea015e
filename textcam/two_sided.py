"""Channels that take both signs are two channels each: what makes one rise, and what makes it fall (ours).

After a ReLU a channel can only speak up: what excites it is its meaning, and weight times activation says how
much of it speaks for a class. Behind a layer norm, as in transformers, a channel that falls below zero speaks
as well. Its weight times its activation is then positive where both are negative, and added to the direction
of what makes it *rise* that is the opposite of what was seen. So the map A_j of such a layer is cut into
A_j+ = max(A_j, 0) and A_j- = max(-A_j, 0), channels j and K + j, each with examples, a direction and words of
its own. Nothing is lost: A = A+ - A-, so weights are w and -w, contributions add up to the same logit, and
maps to the same map.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.floating)


def of_store(config: Mapping[str, Any]) -> bool:
    """Whether the channels of a store are sides, by the configuration that it remembers."""
    return bool(config.get("classifier", {}).get("two_sided", False))


def two_sided(weights: NDArray[Number]) -> NDArray[Number]:
    """Weights (..., 2K) of the sides from weights (..., K) of the channels: w and -w.

    Gradients (B, K, h, w) likewise, (B, 2K, h, w).
    """
    return np.concatenate([weights, -weights], axis=1 if weights.ndim > 2 else -1)


def rising_and_falling(pooled: NDArray[Number]) -> NDArray[Number]:
    """Activations (..., 2K) of the sides of channels (..., K) that are the same all over the map."""
    return np.concatenate([np.maximum(pooled, 0), np.maximum(-pooled, 0)], axis=-1)


def one_sided(pooled: NDArray[Number]) -> NDArray[Number]:
    """Activations (..., K) of the network's own channels from those of their sides (..., 2K)."""
    rising, falling = np.split(pooled, 2, axis=-1)
    return np.asarray(rising - falling)
