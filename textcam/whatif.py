"""What the classifier would say without a group of channels, from stored activations alone.

With global average pooling and a linear head, logits = pooled Wᵀ + b. Setting channels to a fixed value, or
taking a direction out of the activations, is therefore a change of W and b: no image is decoded, no forward
pass is run, and the changed head is one that fits into the user's model. Logits are float64, so that which
side an image falls on does not hang on how images were cut into blocks.

The mean of a channel keeps as much of a cue as the images show it: of a cue in half of all images half is
left. So flip rates of common cues are on the low side.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.errors import SchemaMismatch
from textcam.arrays import Doubles, check_shape
from textcam.shares import Floats, Ints, check_ids

Head = tuple[Doubles, Doubles]  # weights (C, K), bias (C,)


def neutral_head(weights: Floats, bias: Floats, channels: Ints, replacement: Floats) -> Head:
    """The head (C, K), (C,) whose logits are those of activations with ``channels`` set to ``replacement``
    (K,)."""
    changed = np.array(weights, np.float64)
    changed[:, channels] = 0
    gone = np.asarray(weights, np.float64)[:, channels] @ np.asarray(replacement, np.float64)[channels]
    return changed, np.asarray(bias, np.float64) + gone


def project_out(weights: Floats, bias: Floats, direction: Floats, replacement: Floats) -> Head:
    """The head that is blind to ``direction`` (K,) in channel space: activations a become a - u uᵀ(a -
    replacement) with u the direction at unit length, so ``replacement`` (K,), usually the mean, keeps its
    logits. A text's direction in channel space is directions (K, D) @ its embedding (D,). Raises
    SchemaMismatch if it is 0."""
    unit = np.asarray(direction, np.float64)
    length = np.linalg.norm(unit)
    if not length > 0:
        raise SchemaMismatch("A direction of length 0 cannot be projected out", where="direction")
    unit = unit / length
    along = np.asarray(weights, np.float64) @ unit  # (C,)
    return weights - np.outer(along, unit), bias + along * float(unit @ replacement)


def what_if(pooled: Floats, weights: Floats, bias: Floats, channels: Ints, replacement: Floats) -> Doubles:
    """Logits (B, C) of activations (B, K) when ``channels`` (n,) are set to their ``replacement`` (K,),
    usually the mean over all images."""
    return logits_of(pooled, *neutral_head(weights, bias, channels, replacement))


def logits_of(pooled: Floats, weights: Floats, bias: Floats) -> Doubles:
    """Logits (B, C) of a linear head in float64."""
    return np.asarray(pooled, np.float64) @ np.asarray(weights, np.float64).T + np.asarray(bias, np.float64)


@dataclass(frozen=True)
class Pairs:
    """P candidate pairs of class and text, and the group that carries the text's evidence in the class; each
    (P,). Text indices are places in the bank."""

    class_id: NDArray[np.int64]
    text_index: NDArray[np.int64]
    group_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.class_id)

    def same_as(self, other: "Pairs") -> bool:
        """Are these the same pairs, in the same order?"""
        mine = (self.class_id, self.text_index, self.group_id)
        theirs = (other.class_id, other.text_index, other.group_id)
        return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


class WhatIf:
    """Which predictions change when a group's channels are set to their mean, counted over all images.

    weights (C, K), bias (C,), group_of (K,) from 0 to G - 1, replacement (K,). Only rightly predicted images
    count (without labels: all, under their prediction); predictions are those of the head on the given
    activations. Counted by class and group, and for each pair by whether the image carries the pair's text.
    Counts are integers; memory does not grow with N.
    """

    def __init__(
        self, weights: Floats, bias: Floats, group_of: Ints, replacement: Floats, pairs: Pairs
    ) -> None:
        check_shape("weights", weights, (len(bias), len(group_of)))
        check_shape("replacement", replacement, (len(group_of),))
        self.weights, self.bias = np.asarray(weights, np.float64), np.asarray(bias, np.float64)
        self.replacement, self.pairs = np.asarray(replacement, np.float64), pairs
        self.channels = [np.flatnonzero(group_of == group) for group in range(int(group_of.max()) + 1)]
        classes, groups = len(self.bias), len(self.channels)
        # Rightly predicted images, and those of them that change:
        self.images = np.zeros(classes, np.int64)
        self.flips = np.zeros((classes, groups), np.int64)
        self.carrying = np.zeros(len(pairs), np.int64)  # with the pair's text
        self.carrying_flips = np.zeros(len(pairs), np.int64)
        self.others = np.zeros(len(pairs), np.int64)  # without it
        self.other_flips = np.zeros(len(pairs), np.int64)
        self._pairs_of = [np.flatnonzero(pairs.class_id == c) for c in range(len(self.bias))]

    def update(self, pooled: Floats, present: NDArray[np.bool_], label: Ints | None = None) -> None:
        """Take B images: activations (B, K), concepts present (B, T), and labels (B,) with -1 for none, or
        no labels at all."""
        check_shape("pooled", pooled, (len(present), len(self.replacement)))
        logits = logits_of(pooled, self.weights, self.bias)  # (B, C)
        prediction = logits.argmax(axis=1)  # (B,)
        if label is not None:
            check_ids("label", label, len(pooled), len(self.bias), lowest=-1)
            right = np.flatnonzero(label == prediction)
            pooled, present, logits, prediction = (
                pooled[right],
                present[right],
                logits[right],
                prediction[right],
            )
        changed = self._changed(pooled, logits, prediction)  # (B, G)
        for class_id in np.unique(prediction):
            mine = prediction == class_id
            self.images[class_id] += np.count_nonzero(mine)
            self.flips[class_id] += changed[mine].sum(axis=0)
            pairs = self._pairs_of[class_id]
            has = present[mine][:, self.pairs.text_index[pairs]]  # (b, p)
            flipped = changed[mine][:, self.pairs.group_id[pairs]]  # (b, p)
            self.carrying[pairs] += has.sum(axis=0)
            self.carrying_flips[pairs] += (has & flipped).sum(axis=0)
            self.others[pairs] += (~has).sum(axis=0)
            self.other_flips[pairs] += (~has & flipped).sum(axis=0)

    def _changed(self, pooled: Floats, logits: Doubles, prediction: NDArray[np.int64]) -> NDArray[np.bool_]:
        moved = self.replacement - np.asarray(pooled, np.float64)  # (B, K)
        changed = np.zeros((len(pooled), len(self.channels)), np.bool_)
        for group, channels in enumerate(self.channels):
            without = logits + moved[:, channels] @ self.weights[:, channels].T  # (B, C)
            changed[:, group] = without.argmax(axis=1) != prediction
        return changed

    def merge(self, other: Self) -> None:
        """Add what another worker counted for the same pairs."""
        for name in ("images", "flips", "carrying", "carrying_flips", "others", "other_flips"):
            mine = getattr(self, name)
            mine += getattr(other, name)

    @property
    def flip_rate(self) -> Doubles:
        """(P,): share of the class's rightly predicted images with the text whose prediction changes without
        the pair's group; NaN where there are none."""
        return _share(self.carrying_flips, self.carrying)

    @property
    def other_flip_rate(self) -> Doubles:
        """(P,): the same among those without the text: what the group does that is not the text's."""
        return _share(self.other_flips, self.others)

    @property
    def class_flip_rate(self) -> Doubles:
        """(C, G): share of a class's rightly predicted images that change without the group."""
        return _share(self.flips, np.broadcast_to(self.images[:, None], self.flips.shape))


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Doubles:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
