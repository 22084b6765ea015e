"""Class activation maps as arithmetic on arrays: maps and weights in, pooled scores and signed maps out.

No map is rescaled, clipped or resized here. A contribution of 2.0 means two logits, and a negative one speaks
against the class; a picture may throw that away, the numbers may not.

Shapes: maps and gradients (B, K, h, w), weights and pooled (B, K).
"""

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError
from textcam.arrays import Floats, as_floats, check_shape


def pool(maps: Floats) -> Floats:
    """Pooled activations (B, K): the spatial mean of ``maps`` (B, K, h, w), added up in float64."""
    maps = as_floats("maps", maps, (None, None, None, None))
    pooled: Floats = maps.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
    return pooled


def channel_contributions(weights: Floats, pooled: Floats) -> Floats:
    """Contributions r = w * a (B, K), in units of the logit (ours).

    With global average pooling and a linear head their sum over K is the logit minus its bias.
    """
    weights = as_floats("weights", weights, (None, None))
    pooled = as_floats("pooled", pooled, weights.shape)
    return weights * pooled


def saliency_map(maps: Floats, weights: Floats) -> Floats:
    """The CAM (B, h, w): the signed sum over channels of w_j A_j, neither clipped nor normalised."""
    maps = as_floats("maps", maps, (None, None, None, None))
    batch, channels, height, width = maps.shape
    weights = as_floats("weights", weights, (batch, channels))
    flat: Floats = np.matmul(
        weights[:, None, :], maps.reshape(batch, channels, height * width)
    )  # (B, 1, h*w)
    return flat.reshape(batch, height, width)


def group_maps(maps: Floats, weights: Floats, group_of: NDArray[np.integer], groups: int) -> Floats:
    """One map a group (B, G, h, w): the part of the CAM that the group's channels make.

    ``group_of`` (K,) holds group ids in 0..G-1. The sum over G is ``saliency_map``. ConfigError for an id
    outside that range.
    """
    maps = as_floats("maps", maps, (None, None, None, None))
    batch, channels, height, width = maps.shape
    weights = as_floats("weights", weights, (batch, channels))
    member = membership(group_of, channels, groups)  # (K, G)
    split = weights[:, None, :] * member.T[None]  # (B, G, K)
    flat: Floats = np.matmul(split, maps.reshape(batch, channels, height * width))  # (B, G, h*w)
    return flat.reshape(batch, groups, height, width)


def membership(group_of: NDArray[np.integer], channels: int, groups: int) -> Floats:
    """Indicator (K, G) of ``group_of`` (K,): each channel belongs to exactly one group."""
    group_of = np.asarray(group_of)
    check_shape("group_of", group_of, (channels,))
    if channels and (group_of.min() < 0 or group_of.max() >= groups):
        raise ConfigError(
            f"group_of holds ids from {group_of.min()} to {group_of.max()}, expected 0 to {groups - 1}.",
            where="group_of",
            fix="Pass the number of groups that the clustering has.",
        )
    indicator: Floats = np.eye(groups, dtype=np.float32)[group_of]
    return indicator


def gradcam(gradients: Floats) -> Floats:
    """Grad-CAM channel weights (B, K) from the gradients of a logit (B, K, h, w).

    Grad-CAM's weight is the spatial mean of the gradient (Selvaraju et al. 2017, Eq. 1). Here it is the
    spatial *sum*, that mean times h*w (ours; a constant does not change what a map looks like). Pooled
    activations are means, so sum_j w_j a_j is then in logits, and for global average pooling and a linear
    head w is the head's own row.
    """
    gradients = as_floats("gradients", gradients, (None, None, None, None))
    weights: Floats = gradients.sum(axis=(2, 3), dtype=np.float64).astype(np.float32)
    return weights


def gradcam_plus_plus(gradients: Floats, maps: Floats) -> Floats:
    """Grad-CAM++ channel weights (B, K) (Chattopadhay et al. 2018).

    The sum over cells of alpha * max(g, 0) with alpha = g^2 / (2 g^2 + g^3 * sum of the channel's map), 0
    where the denominator is 0. The paper assumes maps that are not negative; then no weight is negative
    either. The scale is the paper's.
    """
    gradients = as_floats("gradients", gradients, (None, None, None, None))
    g = gradients.astype(np.float64)
    total = as_floats("maps", maps, gradients.shape).sum(axis=(2, 3), keepdims=True, dtype=np.float64)
    # g^2 cancels: alpha = 1 / (2 + g * total), which needs no epsilon where g is tiny.
    denominator = 2.0 + g * total
    safe = np.where(denominator == 0, np.inf, denominator)
    weights: Floats = (np.maximum(g, 0.0) / safe).sum(axis=(2, 3)).astype(np.float32)
    return weights


def xgradcam(gradients: Floats, maps: Floats) -> Floats:
    """XGrad-CAM channel weights (B, K) (Fu et al. 2020): gradients averaged with the map as weights.

    w_j = h*w * sum(g A) / sum(A), so that w_j a_j = sum(g A), the channel's own gradient times activation.
    The factor h*w is ours, for the same reason as in ``gradcam``. A channel whose map adds up to 0 gets
    weight 0.
    """
    gradients = as_floats("gradients", gradients, (None, None, None, None))
    maps = as_floats("maps", maps, gradients.shape)
    cells = maps.shape[2] * maps.shape[3]
    total = maps.sum(axis=(2, 3), dtype=np.float64)
    weighted = np.multiply(gradients, maps, dtype=np.float64).sum(axis=(2, 3))
    weights: Floats = (cells * weighted / np.where(total == 0, np.inf, total)).astype(np.float32)
    return weights
