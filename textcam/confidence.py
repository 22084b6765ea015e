"""How likely it is that a first word is right (ours).

Names come with signs of how far they can be trusted, and all of them follow from what a run has anyway. What
texts predict of a channel from one half of the images is held against the other half; correlations count in
units of their chance size, one over the root of the number of images, so that few images make us unsure. A
logistic curve turns signs into a confidence that rises with each of them.

The constants were fitted on worlds with known truth (`python -m benchmarks.truth.calibration`) and checked on
other seeds of them (`python -m benchmarks.truth calibration`; docs/truth.md has the calibration errors). A
confidence is calibrated for worlds like those; elsewhere take it as an order and a warning.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textcam.arrays import Doubles, Floats, Ids
from textcam.cam import membership
from textcam.select import NO_TEXT, Selection

UNSURE = 0.5  # below it the first word is more likely wrong than right: no one word fits
SAME = 0.4  # cosine of comparable texts from which on two mean nearly the same
_MOST = 6.0  # spreads beyond which more do not make surer
_BLOCK = 256


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


NAME = Curve((0.52, 2.08, 0.23), -0.24)
GROUP = Curve((5.12, 1.34), -2.62)
EXPLANATION = Curve((2.62, 3.72), -3.99)
CLASS = Curve((4.94,), -1.09)


def name_signs(scores: Doubles, standing: Doubles, texts: Doubles, told: Doubles, known: Doubles) -> Doubles:
    """(K, 3) of channels that are named by the first of their standardised ``scores`` (K, T).

    First: its ``standing`` (K,), how far the names that one half of the images gives stand out by the other
    half, beyond the sqrt(2 ln T) that the highest of T would by chance. Second: by which part of its score it
    is ahead of the best text that means something else, one whose comparable ``texts`` (T, D) has a cosine
    below SAME with the first's. Third: what the first text alone tells of the channel, a correlation ``told``
    (K,), as a part of what is ``known`` (K,) from whole embeddings of other images (in logarithms, from a
    tenth up): if that is much more, the right word is not in the bank.
    """
    count = scores.shape[1]
    rows, first = np.arange(len(scores)), scores.argmax(axis=1)
    beyond = standing - np.sqrt(2 * np.log(max(count, 2)))
    best = np.maximum(scores[rows, first], 1e-12)
    other = np.zeros(len(scores))
    for start in range(0, len(scores), _BLOCK):
        mine = slice(start, start + _BLOCK)
        alike = texts[first[mine]] @ texts.T >= SAME
        other[mine] = np.where(alike, -np.inf, scores[mine]).max(axis=1, initial=0.0)
    part = np.clip(told / np.maximum(np.maximum(told, known), 1e-12), 0.1, 1)
    return np.column_stack(
        [np.clip(beyond, -_MOST, _MOST), np.clip(1 - other / best, 0, 1), np.log(10 * part)]
    )


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
