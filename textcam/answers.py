"""What a query answers with: plain values, which pages, JSON and notebooks show without a store.

``confidence`` is everywhere the probability, 0 to 1, that the first word is right; below
``textcam.confidence.UNSURE`` no one word fits. None where the store does not have it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textcam.arrays import Floats

if TYPE_CHECKING:
    from textcam.audit import Finding


@dataclass(frozen=True)
class Word:
    """A text of the bank and how strongly it is meant; what a place does not know is None.

    ``coefficient``: its part of an explanation direction, in units of the logit. ``similarity``: its cosine
    to that direction, or to a channel's or group's. ``share``: its part of a class's evidence, 0 to 1.
    """

    text_id: int
    text: str
    kind: str
    coefficient: float | None = None
    similarity: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class GroupWords:
    """A group of channels within an explanation.

    ``contribution`` is the signed sum of its channels' contributions, ``share`` its part of the
    contributions of all groups that speak for the class, 0 for one that speaks against it. The words say
    what the group's channels saw, for or against.
    """

    group_id: int
    contribution: float
    share: float
    words: tuple[Word, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a class, in words. ``groups`` come by falling contribution, all of them.

    Where pixels were seen there are also ``logit``; ``saliency_map`` (h, w), signed; ``group_maps`` (G, h,
    w) in the order of ``groups``, which add up to it; and ``view`` (H, W, 3), the part of the image that
    the classifier was given, and on which the maps lie. ``residual``: where a map was given, the part of
    it, 0 to 1, that the layer's activations cannot make.
    """

    class_id: int | None
    class_name: str
    words: tuple[Word, ...]
    groups: tuple[GroupWords, ...]
    image_id: int | None = None
    uri: str | None = None
    logit: float | None = None
    saliency_map: Floats | None = None
    group_maps: Floats | None = None
    view: NDArray[np.uint8] | None = None
    residual: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class ChannelDescription:
    """What a channel responds to. ``example_ids``: the images in which it is highest, highest first."""

    channel: int
    words: tuple[Word, ...]
    separation: float
    active_fraction: float
    group_id: int
    example_ids: tuple[int, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class ClassDescription:
    """What a class is seen by, over all images that were explained as it: words and groups by falling share.

    ``groups`` have the mean contribution over these images, and the words that the groups have by themselves.
    ``accuracy`` is None without labels.
    """

    class_id: int
    name: str
    words: tuple[Word, ...]
    groups: tuple[GroupWords, ...]
    n_images: int
    accuracy: float | None
    findings: tuple["Finding", ...]
    confidence: float | None = None


@dataclass(frozen=True)
class Match:
    """One answer to a search: the id of a channel, group, class, image or text, and what it is called."""

    id: int
    label: str
    similarity: float
