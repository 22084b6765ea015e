"""Names of channels, and the confidence that they are right: of two ways to name the surer speaks (ours).

The first way is presence regression (``naming``). It has to decide of each image whether it shows a text,
and where the encoder is too noisy for that, or images are few, its names are poor and its confidence says
so. The second, ridge regression of the activation on the embeddings of all images (``lda``), decides
nothing and endures noise, but takes what goes together in the data for the channel's meaning. So it is
asked only where the first is not sure, and heard only where it is surer. Whether presence can be decided at
all depends on the encoder and not on the channel: where the second way is clearly surer on the mean of
all channels, it names every one.

Both follow from sums over all images that merge in any order to the same bits. The sums are kept for two
halves of the images, so that what one half says can be held against the other.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from textcam.accumulate import Moments
from textcam.arrays import Doubles, Floats, Ids
from textcam.confidence import PRESENCE, RIDGE, SURE, presence_signs, ridge_signs
from textcam.explain import word_directions
from textcam.lda import ridge_directions
from textcam.naming import SHRINKAGE, SPARSITY, PresenceMoments
from textcam.ranking import splitmix64
from textcam.select import NO_TEXT, similarity

RIDGE_SHRINKAGE = 0.1
WORDS = 5  # that the second way gives a channel, at most
CLEARLY = 0.15  # by how much more the second way has to be sure, on the mean, to name all channels


@dataclass(frozen=True)
class Names:
    """Texts of each channel, ``coefficients`` (K, T), not negative; ``confidence`` (K,) in [0, 1] that the
    first is right, 0 for a channel without texts; ``by_ridge`` (K,) where the second way was heard.
    """

    coefficients: Floats
    confidence: Floats
    by_ridge: NDArray[np.bool_]

    @property
    def first(self) -> Ids:
        """The first text (K,) of each channel, -1 where there is none."""
        made: Ids = np.where(self.coefficients.any(axis=1), self.coefficients.argmax(axis=1), NO_TEXT)
        return made


class NamingSums:
    """All that naming K channels by T texts needs to know of the images: of each half, what is present and
    what the embeddings (D) are when channels fire.
    """

    def __init__(self, texts: int, channels: int, dim: int) -> None:
        self.presence = (PresenceMoments(texts, channels), PresenceMoments(texts, channels))
        self.embeddings = (Moments(channels, dim), Moments(channels, dim))

    def update(
        self,
        image_ids: Ids,
        present: NDArray[np.bool_],
        pooled: NDArray[np.floating],
        embeddings: NDArray[np.floating],
    ) -> None:
        """Take in B images: ids (B,), ``present`` (B, T), ``pooled`` (B, K), unit ``embeddings`` (B, D)."""
        second = half_of(image_ids)
        for half, mine in enumerate((~second, second)):
            if mine.any():
                self.presence[half].update(present[mine], pooled[mine])
                self.embeddings[half].update(pooled[mine], embeddings[mine])

    def merge(self, other: Self) -> None:
        """Take in everything that ``other`` has seen; it must be of other images."""
        for half in range(2):
            self.presence[half].merge(other.presence[half])
            self.embeddings[half].merge(other.embeddings[half])

    def all_presence(self) -> PresenceMoments:
        """Of both halves together."""
        made = PresenceMoments(self.presence[0].texts, self.presence[0].channels)
        for half in self.presence:
            made.merge(half)
        return made

    def all_embeddings(self) -> Moments:
        """Of both halves together."""
        made = Moments(self.embeddings[0].channels, self.embeddings[0].dim)
        for half in self.embeddings:
            made.merge(half)
        return made


def half_of(image_ids: Ids) -> NDArray[np.bool_]:
    """Which of the two halves each image (n,) is in, by a hash of its id."""
    second: NDArray[np.bool_] = (splitmix64(image_ids) & np.uint64(1)).astype(np.bool_)
    return second


def name_channels(
    sums: NamingSums,
    text_embeddings: Floats,
    *,
    shrinkage: float = SHRINKAGE,
    sparsity: float = SPARSITY,
    ridge: bool = True,
) -> Names:
    """Names of all channels by ``text_embeddings`` (T, D); without ``ridge`` the first way alone."""
    whole = sums.all_presence()
    coefficients = whole.coefficients(shrinkage=shrinkage, sparsity=sparsity)
    others, ridge_said, known = ridge_naming(sums, text_embeddings)
    signs = presence_signs(sums.presence, whole, coefficients, known)
    confidence = np.where(coefficients.any(axis=1), PRESENCE(signs), 0)
    by_ridge = np.zeros(len(confidence), np.bool_)
    if ridge:
        second = np.where(others.any(axis=1), RIDGE(ridge_said), 0)
        by_ridge = surer_by_ridge(confidence, second)
        coefficients[by_ridge], confidence[by_ridge] = others[by_ridge], second[by_ridge]
    return Names(coefficients, confidence.astype(np.float32), by_ridge)


def surer_by_ridge(first: Floats, second: Floats) -> NDArray[np.bool_]:
    """Where (K,) the second way is heard, from the confidences (K,) of the two; 0 where one has no text."""
    heard: NDArray[np.bool_] = second > 0
    if second.mean() <= first.mean() + CLEARLY:
        heard &= (first < SURE) & (second > first)
    return heard


def ridge_naming(sums: NamingSums, text_embeddings: Floats) -> tuple[Floats, Doubles, Doubles]:
    """The second way: coefficients (K, T), those of the texts nearest to each direction by how much nearer
    they are than the first that is left out; and their signs (K, 2). And what embeddings know of
    each channel: the correlation (K,) of its activation with the direction that the other half gave.
    """
    fitted = [_ridge(one) for one in (*sums.embeddings, sums.all_embeddings())]
    directions = fitted[2]
    own = word_directions(directions, directions, "whole")  # without what all channels share
    near = similarity(own, text_embeddings)
    least = np.sort(near, axis=1)[:, -WORDS - 1, None] if near.shape[1] > WORDS else 0
    coefficients = np.maximum(near - least, 0)
    held = [_held_out(*pair) for pair in ((fitted[0], sums.embeddings[1]), (fitted[1], sums.embeddings[0]))]
    images = sum(one.images for one in sums.embeddings)
    known = (held[0] + held[1]) / 2
    return coefficients, ridge_signs(known, own, text_embeddings, images), known


def _ridge(moments: Moments) -> Floats:
    return ridge_directions(
        moments.embedding_covariance, moments.cross_covariance, moments.variance, shrinkage=RIDGE_SHRINKAGE
    ).direction


def _held_out(directions: Floats, judge: Moments) -> Doubles:
    """Correlation (K,) of activations with embeddings along ``directions`` (K, D), on the judge's images."""
    wide = directions.astype(np.float64)
    along = np.einsum("kd,dk->k", wide, judge.cross_covariance)
    spread = np.einsum("kd,kd->k", wide @ judge.embedding_covariance, wide) * judge.variance
    size = np.sqrt(np.maximum(spread, 0))
    made: Doubles = np.divide(along, size, out=np.zeros(len(wide)), where=size > 0)
    return made
