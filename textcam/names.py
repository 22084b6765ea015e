"""Names of channels: two questions, weighed by how well their answers hold on other images (ours).

*Which texts, shown together, foretell the channel?* (presence regression, ``naming``.) It keeps apart what
mostly comes together, as long as presence can be decided well. *Which text's direction is the channel's
pattern?* (``patterns``.) It decides nothing about single images and endures noise, but takes what goes
together in the data for what the channel means.

Which is to be trusted depends on the encoder, the bank and the number of images, and so does how much each
should be shrunk. All of it is asked of the data in one way: the images are in two halves, and a good answer
of one half *stands out* on the other. There, scores of a channel are standardised over texts; how far the
text that is first by one half stands above the rest by the other is the answer's *standing*. Of each question
the shrinkage that stands highest is taken (of presence, the lightest that stands nearly as high: heavy
shrinkage credits what merely comes along), and the two are added up with the square of the standing for a
weight.

On scenes that we drew, where presence is nearly sure, presence regression leads; on CLIP's own vectors of
photographs, where texts are thousands, overlap, and are off by more than images differ, patterns do. (An
earlier rule heard one or the other by fixed shrinkages and curves that were right for drawn scenes: on
photographs it named .09 to .26 of the channels where the mean difference named .55.)

All of it follows from sums over images that merge in any order to the same bits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from textcam.accumulate import Moments
from textcam.arrays import Doubles, Floats, Ids
from textcam.comparable import comparable_texts
from textcam.confidence import NAME, name_signs
from textcam.lda import ridge_directions
from textcam.naming import PresenceMoments
from textcam.patterns import pattern_scores
from textcam.ranking import splitmix64
from textcam.select import NO_TEXT

SHRINKAGES = (0.02, 0.1, 0.3, 0.6, 0.9, 0.99)
SLACKS = (0.03, 0.3, 3.0, 30.0, 300.0)
RIDGES = (0.05, 0.3, 0.8)  # shrinkages that tell what is known of a channel
WORDS = 5  # texts of a channel, at most
LEAST = 0.3  # of the first text's worth, for a further text
WAYS = ("presence", "pattern")
HEARD = 0.75  # of the standing of patterns
NEARLY = 0.9  # of the highest standing, for a lighter shrinkage of presence

Sums = TypeVar("Sums", PresenceMoments, Moments)


@dataclass(frozen=True)
class Names:
    """Texts of each channel, ``coefficients`` (K, T), not negative, the first text's is 1; ``confidence``
    (K,) in [0, 1] that the first is right, 0 for a channel without texts, made from ``signs`` (K, 3);
    ``weights`` of the two questions, presence and pattern, which add up to 1 or are both 0.
    """

    coefficients: Floats
    confidence: Floats
    signs: Doubles
    weights: tuple[float, float]

    @property
    def first(self) -> Ids:
        """The first text (K,) of each channel, -1 where there is none."""
        made: Ids = np.where(self.coefficients.any(axis=1), self.coefficients.argmax(axis=1), NO_TEXT)
        return made


class NamingSums:
    """All that naming K channels by T texts needs to know of the images: of each half, what is shown and
    what the embeddings (D) are when channels fire.
    """

    def __init__(self, texts: int, channels: int, dim: int) -> None:
        self.presence = (PresenceMoments(texts, channels), PresenceMoments(texts, channels))
        self.embeddings = (Moments(channels, dim), Moments(channels, dim))

    def update(
        self,
        image_ids: Ids,
        present: NDArray[np.bool_] | Doubles,
        pooled: NDArray[np.floating],
        embeddings: NDArray[np.floating],
    ) -> None:
        """Take in B images: ids (B,), ``present`` (B, T) as probabilities, ``pooled`` (B, K), unit
        ``embeddings`` (B, D).
        """
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


@dataclass(frozen=True)
class Answer:
    """Standardised scores (K, T) from all images, and from each half; and not negative ``amounts`` (K, T) of
    texts together.
    """

    whole: Doubles
    halves: tuple[Doubles, Doubles]
    amounts: Floats | Doubles

    @property
    def standing(self) -> Doubles:
        """How far (K,) what is first by one half stands out by the other; the mean of both directions."""
        one, other = self.halves
        rows = np.arange(len(one))
        made: Doubles = (one[rows, other.argmax(axis=1)] + other[rows, one.argmax(axis=1)]) / 2
        return made


def name_channels(sums: NamingSums, text_embeddings: Floats, *, ways: Sequence[str] = WAYS) -> Names:
    """Names of all channels by ``text_embeddings`` (T, D) of a whole bank; ``ways`` are the questions that
    are asked.
    """
    answers = ask(sums, text_embeddings, ways)
    weights = weigh({way: float(one.standing.mean()) for way, one in answers.items()})
    scores, *halves = (
        standardised(sum(weight * part for weight, part in zip(weights, parts, strict=True)))
        for parts in zip(*((one.whole, *one.halves) for one in answers.values()), strict=True)
    )
    both = Answer(scores, (halves[0], halves[1]), scores)
    coefficients = few_texts(both.whole, [one.amounts for one in answers.values()], weights)
    texts = comparable_texts(text_embeddings)
    told = told_by_first(sums, texts, both.whole.argmax(axis=1))
    signs = name_signs(both.whole, both.standing, texts, told, foretold(sums.embeddings))
    confidence = np.where(coefficients.any(axis=1), NAME(signs), 0).astype(np.float32)
    by_way = dict(zip(answers, weights.tolist(), strict=True))
    return Names(coefficients, confidence, signs, (by_way.get("presence", 0.0), by_way.get("pattern", 0.0)))


def weigh(standing: Mapping[str, float]) -> NDArray[np.float64]:
    """The weight of each way, in the order of ``standing``, their mean standings: its square, in all 1.

    What goes together in all images stands out in both halves, so patterns always seem surer than they are.
    They are heard in full where presence stands at most HEARD as high as they do, and less from there up to
    where it stands as high.
    """
    weights = {way: max(one, 0.0) ** 2 for way, one in standing.items()}
    if len(weights) == 2 and weights["pattern"] > 0:
        ahead = standing["presence"] / standing["pattern"]
        weights["pattern"] *= float(np.clip((1 - ahead) / (1 - HEARD), 0, 1))
    made = np.array(list(weights.values()))
    return made / max(made.sum(), 1e-12)


def ask(sums: NamingSums, text_embeddings: Floats, ways: Sequence[str] = WAYS) -> dict[str, Answer]:
    """The answers to both questions, each with the shrinkage under which it stands highest."""
    texts = comparable_texts(text_embeddings)
    made = {}
    if "presence" in ways:
        made["presence"] = _best(
            lambda one, amount: one.scores(amount),
            lambda one, amount: one.coefficients(shrinkage=amount),
            sums.presence,
            sums.all_presence(),
            SHRINKAGES,
            NEARLY,
        )
    if "pattern" in ways:
        made["pattern"] = _best(
            lambda one, amount: pattern_scores(one, texts, amount),
            lambda one, amount: np.maximum(pattern_scores(one, texts, amount), 0),
            sums.embeddings,
            sums.all_embeddings(),
            SLACKS,
            1.0,
        )
    return made


def _best(
    score: Callable[[Sums, float], Floats | Doubles],
    amounts: Callable[[Sums, float], Floats | Doubles],
    halves: tuple[Sums, Sums],
    whole: Sums,
    shrinkages: Sequence[float],
    nearly: float,
) -> Answer:
    """The answer with the lightest shrinkage that stands at least ``nearly`` times as high as the best."""
    found = [
        (standardised(score(halves[0], shrinkage)), standardised(score(halves[1], shrinkage)))
        for shrinkage in shrinkages
    ]
    standing = np.array([Answer(pair[0], pair, pair[0]).standing.mean() for pair in found])
    chosen = int(np.argmax(standing >= nearly * standing.max()))
    shrinkage = shrinkages[chosen]
    return Answer(standardised(score(whole, shrinkage)), found[chosen], amounts(whole, shrinkage))


def told_by_first(sums: NamingSums, texts: Doubles, first: Ids) -> Doubles:
    """What one text alone tells of each channel: the larger correlation (K,) of the activation with the
    probability of its ``first`` text (K,) and with that text's similarity.
    """
    whole, rows = sums.all_embeddings(), np.arange(len(first))
    of_presence = sums.all_presence().correlations()[1][first, rows]
    return np.maximum(of_presence, _along(texts[first], whole))


def foretold(halves: tuple[Moments, Moments]) -> Doubles:
    """What embeddings know of each channel: the correlation (K,) of its activation on one half of the images
    with the ridge regression on embeddings of the other half; the mean of both, under the best shrinkage of
    all channels.
    """
    one, other = halves
    made = [
        (_along(_ridge(one, amount), other) + _along(_ridge(other, amount), one)) / 2 for amount in RIDGES
    ]
    best: Doubles = max(made, key=lambda found: float(found.mean()))
    return best


def _ridge(moments: Moments, shrinkage: float) -> Doubles:
    covariance, cross = moments.embedding_covariance, moments.cross_covariance
    found = ridge_directions(covariance, cross, moments.variance, shrinkage=shrinkage)
    return found.direction.astype(np.float64)


def _along(directions: Doubles, judge: Moments) -> Doubles:
    """Correlation (K,) of activations with embeddings along ``directions`` (K, D), on the judge's images."""
    along = np.einsum("kd,dk->k", directions, judge.cross_covariance)
    spread = np.einsum("kd,kd->k", directions @ judge.embedding_covariance, directions) * judge.variance
    size = np.sqrt(np.maximum(spread, 0))
    made: Doubles = np.divide(along, size, out=np.zeros(len(directions)), where=size > 0)
    return made


def standardised(scores: Floats | Doubles) -> Doubles:
    """Scores (K, T) minus their mean over texts, in their spread over texts; 0 where all are equal."""
    wide = np.asarray(scores, np.float64)
    rest = wide - wide.mean(axis=1, keepdims=True)
    spread = rest.std(axis=1, keepdims=True)
    made: Doubles = np.divide(rest, spread, out=np.zeros_like(rest), where=spread > 1e-12)
    return made


def few_texts(scores: Doubles, by_way: Sequence[Floats | Doubles], weights: NDArray[np.floating]) -> Floats:
    """(K, T) the texts of each channel, at most WORDS: the one with the highest of the ``scores`` (K, T) and
    those that are nearly as good, each with its score as a part of the first one's; none where no score is
    positive.

    ``by_way`` are not negative amounts (K, T): as parts of the first text's, and by ``weights`` of the ways,
    they add up to what a further text is worth; it is kept from LEAST on. What only goes together with the
    first text is as good by patterns and worth nothing by presence, so it falls out where presence is
    trusted.
    """
    rows, first = np.arange(len(scores)), scores.argmax(axis=1)
    worth = np.zeros_like(scores)
    for weight, amount in zip(weights, by_way, strict=True):
        own = amount[rows, first][:, None]
        worth += weight * np.clip(np.divide(amount, own, out=np.zeros_like(scores), where=own > 0), 0, 1)
    worth[rows, first] = 1.0
    best = scores[rows, first][:, None]
    part = np.divide(scores, best, out=np.zeros_like(scores), where=(best > 0) & (worth >= LEAST))
    least = np.sort(part, axis=1)[:, -min(WORDS, part.shape[1]), None]
    made: Floats = np.where((part > 0) & (part >= least), part, 0.0).astype(np.float32)
    return made
