"""How likely it is that a first word is right (ours).

Names come with signs of how far they can be trusted, and all of them follow from what a run has anyway. What
texts predict of a channel from one half of the images is held against the other half; correlations count in
units of their chance size, one over the root of the number of images, so that few images make us unsure. A
logistic curve turns signs into a confidence that rises with each of them.

The constants were fitted on worlds with known truth (`python -m benchmarks.truth.calibration`) and checked on
other seeds of them (`python -m benchmarks.truth calibration`; docs/truth.md has the calibration errors). A
confidence is calibrated for worlds like those; elsewhere take it as an order and a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textcam.arrays import Doubles, Floats, Ids
from textcam.cam import membership
from textcam.naming import PresenceMoments
from textcam.select import NO_TEXT, Selection, similarity, standardise

UNSURE = 0.5  # below it the first word is more likely wrong than right: no one word fits
SURE = 0.7  # from here on nobody else is asked
_MOST = 8.0  # chance sizes beyond which more do not make surer


@dataclass(frozen=True)
class Curve:
    """A confidence from signs: 1 / (1 + exp(-(bias + weights . signs))), weights not negative."""

    weights: tuple[float, ...]
    bias: float

    def __call__(self, signs: Doubles) -> Floats:
        """(n,) from ``signs`` (n, S)."""
        score = np.asarray(signs, np.float64) @ np.array(self.weights) + self.bias
        made: Floats = (1 / (1 + np.exp(-np.clip(score, -50, 50)))).astype(np.float32)
        return made


PRESENCE = Curve((0.52, 1.71), -1.98)
RIDGE = Curve((0.52, 1.65), -0.75)
GROUP = Curve((3.97, 1.65), -2.39)
EXPLANATION = Curve((3.06, 3.51), -4.53)
CLASS = Curve((4.27,), -1.65)


def presence_signs(
    halves: Sequence[PresenceMoments], whole: PresenceMoments, coefficients: Floats, known: Doubles
) -> Doubles:
    """(K, 2) of channels that are named by ``coefficients`` (K, T) from the sums of all images, ``whole``.

    First: the correlation of the channel with what the texts of the other half say of it, in chance sizes
    and at most 8, times the part it is of ``known`` (K,), of what the embedding knows of the channel: where
    the embedding knows more than the texts tell, the right words are not in the bank. Second: by how many
    chance sizes, at most 8, the first text is ahead of the next in correlation with the channel (in
    logarithms). 0 for channels without texts.
    """
    with_channels = whole.correlations()[1]
    first = np.where(coefficients.any(axis=1), coefficients.argmax(axis=1), NO_TEXT)
    root = np.sqrt(whole.images)
    held = np.zeros(len(first))
    for fitted, judge in ((halves[0], halves[1]), (halves[1], halves[0])):
        held += _told(fitted.coefficients(), *judge.correlations()) / 2
    own = with_channels[np.maximum(first, 0), np.arange(len(first))]
    rest = np.where(np.arange(len(with_channels))[:, None] == first, -np.inf, with_channels)
    lead = own - rest.max(axis=0, initial=0.0)
    part = np.clip(held / np.maximum(np.maximum(known, held), 1e-12), 0, 1)
    signs = np.column_stack([np.clip(root * held, 0, _MOST) * part, np.log1p(np.clip(root * lead, 0, _MOST))])
    made: Doubles = np.where(first[:, None] != NO_TEXT, signs, 0.0)
    return made


def _told(coefficients: Floats, between: Doubles, with_channels: Doubles) -> Doubles:
    """Correlation (K,) of channels with what ``coefficients`` (K, T) say; 0 where they say nothing."""
    wide = coefficients.astype(np.float64)
    along = (wide * with_channels.T).sum(axis=1)
    size = np.sqrt(np.maximum(((wide @ between) * wide).sum(axis=1), 0.0))
    made: Doubles = np.divide(along, size, out=np.zeros(len(wide)), where=size > 0)
    return made


def ridge_signs(held: Doubles, directions: Floats, text_embeddings: Floats, images: int) -> Doubles:
    """(K, 2) of channels that are named by the texts (T, D) nearest to their ``directions`` (K, D).

    ``held`` (K,), the held-out correlation of directions fitted on half of the ``images``, in chance sizes
    and at most 3; and how far the nearest text stands out of all, in standard deviations, beyond the
    sqrt(2 ln T) that the highest of T would by chance.
    """
    near = standardise(similarity(directions, text_embeddings)).max(axis=1).astype(np.float64)
    beyond = near - np.sqrt(2 * np.log(len(text_embeddings)))
    return np.column_stack([np.clip(np.sqrt(images) * held, 0, 3), beyond])


def group_signs(of_channels: Floats, first: Ids, group_of: NDArray[np.integer], group_first: Ids) -> Doubles:
    """(G, 2): the mean confidence of a group's channels, and that of those alone that have the group's text
    first. From confidences (K,) and first texts (K,) of channels, and the first text (G,) of each group.
    """
    member = membership(group_of, len(of_channels), len(group_first)).astype(np.float64)  # (K, G)
    size = np.maximum(member.sum(axis=0), 1)
    agrees = first[:, None] == group_first
    mean = of_channels @ member / size
    named_so = of_channels @ (member * agrees) / size
    return np.column_stack([mean, named_so])


def group_confidence(
    of_channels: Floats, first: Ids, group_of: NDArray[np.integer], group_first: Ids
) -> Floats:
    """(G,), 0 for a group without words; the arguments are those of ``group_signs``."""
    signs = group_signs(of_channels, first, group_of, group_first)
    made: Floats = np.where(group_first != NO_TEXT, GROUP(signs), 0).astype(np.float32)
    return made


def explanation_signs(contributions: Floats, of_channels: Floats, selection: Selection) -> Doubles:
    """(B, 2): the mean confidence of what speaks for the class, ``contributions`` (B, K) above 0; and by
    which part of its own amount the first word is ahead of the second.
    """
    positive = np.maximum(contributions, 0).astype(np.float64)
    total = positive.sum(axis=1)
    known = np.divide(positive @ of_channels, total, out=np.zeros(len(total)), where=total > 0)
    amounts = selection.coefficients.astype(np.float64)
    second = amounts[:, 1] if amounts.shape[1] > 1 else np.zeros(len(amounts))
    ahead = 1 - np.divide(second, amounts[:, 0], out=np.ones(len(amounts)), where=amounts[:, 0] > 0)
    return np.column_stack([known, ahead])


def explanation_confidence(contributions: Floats, of_channels: Floats, selection: Selection) -> Floats:
    """(B,) of images with ``contributions`` (B, K) to the logit, less those to the average class's where
    classes are contrasted; 0 where there are no words.
    """
    signs = explanation_signs(contributions, of_channels, selection)
    made: Floats = np.where(selection.text_index[:, 0] != NO_TEXT, EXPLANATION(signs), 0).astype(np.float32)
    return made


def class_confidence(mean_confidence: Floats | Doubles) -> Floats:
    """(C,) from the mean confidence (C,) of the images that are explained as each class."""
    return CLASS(np.asarray(mean_confidence, np.float64)[:, None])
