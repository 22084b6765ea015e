"""Which text tells best when a channel fires: presence regression (ours).

A direction says what a channel's examples have and others have not; which of the texts near it names the
channel is then a matter of how the encoder happens to place texts. But whether an image *shows* a text can
be read off its embedding well (``presence``), and so the question can be put directly: from the texts that
an image shows, predict what the channel does. Activations and presence are standardised over all images,
and the coefficients are those of a ridge regression,

    b_k = ((1 - gamma) R + gamma I)^-1 r_k,

with R (T, T) the correlations between the presence of texts and r_k (T,) theirs with channel k. Alone, a
text that mostly comes along with another would be as good as that one; together, the rare images that show
only one of the two decide.

On rendered scenes (benchmarks/truth) this named channels better than every way of reading the nearest text
off a direction, and as well as one that is given the true labels.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError
from textcam.accumulate import ACTIVATION_BITS, LARGEST_ACTIVATION
from textcam.arrays import Doubles, Floats, Ids, as_floats, check_shape, unit_rows
from textcam.exact import EXACT, ExactSum
from textcam.presence import STEPS
from textcam.select import minimise

SHRINKAGE, SPARSITY = 0.05, 0.2
_BLOCK = 64  # channels solved together
FEWEST = 8  # images that show a text, and that do not, before it may name anything


class PresenceMoments:
    """How likely T texts are shown, alone and together, and what K channels do then, over all images.

    Activations are rounded to steps of 2**-15 and probabilities to steps of 1/256; from there all is integer,
    so the order of images, batches and merges does not matter. Memory is O(T T + T K).
    """

    def __init__(self, texts: int, channels: int) -> None:
        if texts < 1 or channels < 1:
            raise ConfigError(f"Presence of {texts} texts and {channels} channels cannot be kept.")
        self.texts, self.channels = texts, channels
        self.images = 0
        self.shown = np.zeros(texts, np.int64)  # in steps
        self.together = np.zeros((texts, texts), np.int64)  # in steps by steps
        self._activation = ExactSum((channels,))
        self._squared = ExactSum((channels,))
        self._when_present = ExactSum((texts, channels))

    def update(self, present: NDArray[np.bool_] | Doubles, pooled: Floats) -> None:
        """Take in B images: ``present`` (B, T), yes or no or probabilities, and ``pooled`` (B, K), finite and
        at most 65504 in magnitude.
        """
        check_shape("present", present, (None, self.texts))
        check_shape("pooled", pooled, (len(present), self.channels))
        if not (np.abs(pooled) <= LARGEST_ACTIVATION).all():
            raise ConfigError("Activations are NaN or beyond float16.", where="pooled")
        if not ((present >= 0) & (present <= 1)).all():
            raise ConfigError("Probabilities are NaN or not from 0 to 1.", where="present")
        step = int(EXACT // (STEPS * LARGEST_ACTIVATION * 2**ACTIVATION_BITS))  # rows whose sum is exact
        for start in range(0, len(present), step):
            self._add(present[start : start + step], pooled[start : start + step])

    def _add(self, present: NDArray[np.bool_] | Doubles, pooled: Floats) -> None:
        steps = np.rint(STEPS * present.astype(np.float64))
        shown = np.flatnonzero(steps.any(axis=0))  # few of many texts are in a batch
        p = steps[:, shown]
        a = np.rint(np.ldexp(pooled.astype(np.float64), ACTIVATION_BITS))
        largest = float(np.abs(a).max(initial=0.0)) * len(a)
        self.shown[shown] += p.sum(axis=0).astype(np.int64)
        self.together[np.ix_(shown, shown)] += (p.T @ p).astype(np.int64)
        whole = np.zeros((self.texts, self.channels))
        whole[shown] = p.T @ a
        self._when_present.add(whole, largest * STEPS)
        self._activation.add(a.sum(axis=0), largest)
        self._squared.add_rows(a.astype(np.int64) ** 2)
        self.images += len(present)

    def merge(self, other: Self) -> None:
        """Take in everything that ``other`` has seen; it must be of other images."""
        if (self.texts, self.channels) != (other.texts, other.channels):
            raise ConfigError("Presence of other texts or channels cannot be merged.", where="merge")
        self.images += other.images
        self.shown += other.shown
        self.together += other.together
        for name in ("_activation", "_squared", "_when_present"):
            getattr(self, name).merge(getattr(other, name))

    def correlations(self) -> tuple[Doubles, Doubles]:
        """R (T, T) between texts, and r (T, K) of texts with channels; 0 where one of the two does not
        vary, and for texts that fewer than FEWEST images show or lack, as far as can be expected.
        """
        n = max(self.images, 1)
        share = self.shown / (STEPS * n)
        usable = (share * n >= FEWEST) & ((1 - share) * n >= FEWEST) & (self.presence_spread > 0)
        spread = np.where(usable, self.presence_spread, 1.0)
        between = self.together / (STEPS * STEPS * n) - np.outer(share, share)
        between = np.where(np.outer(usable, usable), between / np.outer(spread, spread), 0.0)
        unit = 2.0**-ACTIVATION_BITS
        mean = self._activation.floats() * unit / n
        varies = self.variance > 0
        size = np.where(varies, np.sqrt(self.variance), 1.0)
        with_channels = self._when_present.floats() * unit / (STEPS * n) - np.outer(share, mean)
        with_channels = np.where(np.outer(usable, varies), with_channels / np.outer(spread, size), 0.0)
        return between, with_channels

    def coefficients(self, *, shrinkage: float = SHRINKAGE, sparsity: float = SPARSITY) -> Floats:
        """b (K, T), float32, not negative and mostly 0: the texts whose presence makes each channel fire.

        As ``scores``, with b >= 0 and a price of ``sparsity`` (0 to 1) times the best text's correlation for
        each unit of b, so that a channel is one or a few texts. All 0 where no text goes with the channel.
        Raises ConfigError for amounts out of range.
        """
        if not (0 < shrinkage <= 1 and 0 <= sparsity < 1):
            raise ConfigError(
                f"Shrinkage {shrinkage!r} or sparsity {sparsity!r} is out of range.", where="naming"
            )
        between, with_channels = self.correlations()
        known = np.flatnonzero(np.diagonal(between) > 0)
        made = np.zeros((self.channels, self.texts), np.float32)
        system = _Columns((1 - shrinkage) * between[np.ix_(known, known)] + shrinkage * np.eye(len(known)))
        linear = with_channels[known].T  # (K, T')
        linear = linear - sparsity * np.maximum(linear.max(axis=1, keepdims=True, initial=0.0), 0.0)
        for start in range(0, self.channels if len(known) else 0, _BLOCK):
            rows = slice(start, start + _BLOCK)
            candidates = np.broadcast_to(np.arange(len(known)), linear[rows].shape)
            made[rows, known] = minimise(system, candidates, linear[rows])
        return made

    def scores(self, shrinkage: float = SHRINKAGE) -> Floats:
        """b (K, T), float32: how well the presence of each text predicts each channel, beside the other
        texts.

        0 where nothing can be said. Raises ConfigError for a shrinkage outside (0, 1].
        """
        if not 0 < shrinkage <= 1:
            raise ConfigError(f"Shrinkage {shrinkage!r} is not in (0, 1].", where="shrinkage")
        between, with_channels = self.correlations()
        known = np.flatnonzero(np.diagonal(between) > 0)
        made = np.zeros((self.channels, self.texts), np.float32)
        if len(known):
            system = (1 - shrinkage) * between[np.ix_(known, known)] + shrinkage * np.eye(len(known))
            made[:, known] = np.linalg.solve(system, with_channels[known]).T
        return made

    def effects(self, head: Floats, shrinkage: float = SHRINKAGE) -> Floats:
        """(C, T), float32: by how many logits a class rises with the presence of a text, others held.

        ``head`` (C, K) are the weights of a linear head: its logits are a sum over channels, and so is the
        regression of them. Signed; 0 where nothing can be said. On rendered scenes these agree with what
        happens when the picture is drawn again without the thing (Spearman .8 and more).
        """
        spread = self.presence_spread
        size = np.sqrt(self.variance)
        standard = self.scores(shrinkage) * size[:, None]  # (K, T), activation by presence in its spreads
        wide = as_floats("head", head, (None, self.channels)).astype(np.float64) @ standard
        made: Floats = np.divide(wide, spread, out=np.zeros_like(wide), where=spread > 0).astype(np.float32)
        return made

    @property
    def presence_spread(self) -> Doubles:
        """Standard deviation (T,) of the probability of each text."""
        squares, total = np.diagonal(self.together).astype(object), self.shown.astype(object)
        exact = (self.images * squares - total * total).astype(np.float64)
        spread: Doubles = np.sqrt(exact) / (STEPS * max(self.images, 1))
        return spread

    @property
    def variance(self) -> Doubles:
        """Variance (K,) of the activations, exactly 0 for a constant channel."""
        total, squares = self._activation.integers(), self._squared.integers()
        exact = (self.images * squares - total * total) / max(self.images, 1) ** 2
        variance: Doubles = exact.astype(np.float64) * 4.0**-ACTIVATION_BITS
        return variance


def foretelling_shrinkage(halves: tuple[PresenceMoments, PresenceMoments], amounts: Sequence[float]) -> float:
    """The one of ``amounts`` under which regression on one half of the images foretells the channels best on
    the other half: by the mean correlation of all channels, both ways.
    """

    def foretold(amount: float) -> float:
        one, other = halves
        return float((_foretold(one, other, amount) + _foretold(other, one, amount)).mean())

    return max(amounts, key=foretold)


def _foretold(fitted: PresenceMoments, judge: PresenceMoments, amount: float) -> Doubles:
    """Correlation (K,) of channels with what the fitted regression says, on the judge's images; 0 where it
    says nothing.
    """
    between, with_channels = judge.correlations()
    wide = fitted.scores(amount).astype(np.float64)
    along = (wide * with_channels.T).sum(axis=1)
    size = np.sqrt(np.maximum(((wide @ between) * wide).sum(axis=1), 0.0))
    made: Doubles = np.divide(along, size, out=np.zeros(len(wide)), where=size > 0)
    return made


class _Columns:
    """A matrix (T, T) as ``minimise`` asks for it."""

    def __init__(self, matrix: Doubles) -> None:
        self._matrix = matrix

    def column(self, rows: Ids, column: Ids) -> Doubles:
        """matrix[rows[b], column[b]] (b, S) for ``rows`` (b, S) and ``column`` (b,)."""
        picked: Doubles = self._matrix[rows, column[:, None]]
        return picked


def named_directions(coefficients: Floats, text_embeddings: Floats) -> Floats:
    """Unit directions (K, D): of each channel the sum of its texts, ``coefficients`` (K, T) times the unit
    embeddings (T, D) without their mean; zeros for a channel without texts.
    """
    texts = as_floats("text_embeddings", text_embeddings, (None, None)).astype(np.float64)
    amounts = as_floats("coefficients", coefficients, (None, len(texts))).astype(np.float64)
    return unit_rows(amounts @ (texts - texts.mean(axis=0)))
