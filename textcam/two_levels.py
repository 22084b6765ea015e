"""Is a value on the high level or on the low one? The probability, from a sample of values (ours).

A text's similarity with images lies on two levels: that of images which show it and that of all others. Where
one ends and the other begins differs from text to text, so each is fitted on its own, a mixture of two normal
distributions, by expectation and maximisation (Dempster, Laird and Rubin 1977). Alone, that would split any
unimodal spread in the middle; so the fit starts from what is usual, and leaves it as far as the sample
insists (maximum a posteriori): that few images show a text, how far apart the levels are, and that the high
level is about as wide as the low level is for most texts. The weights of what is usual are parts of the
sample and not numbers of images: a mixture of normals is wrong in its details, and more images do not make it
right.

Values were chosen on CLIP's vectors of photographs and products and on rendered scenes (docs/truth.md); the
best fifty of 486 settings differed by less than .01.
"""

from dataclasses import dataclass

import numpy as np

from textcam.arrays import Doubles

SHARE, SHARE_WEIGHT = 0.1, 0.2  # of images on the high level
GAP, GAP_WEIGHT = 2.5, 0.004  # between the levels, in spreads of the low one
SPREAD_WEIGHT = 0.12  # of the usual spread, for the high level
POINTS = 256  # that stand for the values of a column
_ROUNDS, _CLOSE = 80, 1e-5


@dataclass(frozen=True)
class TwoLevels:
    """The fit of T columns: ``share`` (T,) of values on the high level; the means and spreads (T,) of both
    levels. A column that does not vary has share 0.
    """

    share: Doubles
    low: Doubles
    low_spread: Doubles
    high: Doubles
    high_spread: Doubles

    def log_odds(self, values: Doubles) -> Doubles:
        """(B, T): how much likelier the high level is than the low one; never falls as ``values`` (B, T)
        rise.

        The log odds of two normals are a parabola; beyond its vertex they stay what they are there.
        """
        square, linear, constant = self._parabola()
        vertex = np.divide(-linear, 2 * square, out=np.zeros_like(square), where=square != 0)
        value = np.where(square < 0, np.minimum(values, vertex), values)
        value = np.where(square > 0, np.maximum(value, vertex), value)
        made: Doubles = (square * value + linear) * value + constant
        return made

    def probability(self, values: Doubles) -> Doubles:
        """(B, T) that ``values`` (B, T) are on the high level."""
        made: Doubles = 1 / (1 + np.exp(-np.clip(self.log_odds(values), -50, 50)))
        return np.where(self.share > 0, made, 0.0)

    def cut(self, probability: float) -> Doubles:
        """The values (T,) above which the high level is likelier than ``probability``; infinite where it
        never is, minus infinity where it always is.
        """
        square, linear, constant = self._parabola()
        constant = constant - np.log(probability / (1 - probability))
        below = linear**2 - 4 * square * constant
        # The root where the parabola rises, in the form that endures a square near 0.
        rising = -2 * constant / np.maximum(linear + np.sqrt(np.maximum(below, 0)), 1e-300)
        never = np.where(square < 0, np.inf, -np.inf)
        cut = np.where(below > 0, rising, never)
        made: Doubles = np.where(self.share > 0, cut, np.inf)
        return made

    def _parabola(self) -> tuple[Doubles, Doubles, Doubles]:
        with np.errstate(divide="ignore"):
            odds = np.log(self.share) - np.log1p(-self.share)
        a, b = 1 / self.low_spread**2, 1 / self.high_spread**2
        constant = (a * self.low**2 - b * self.high**2) / 2 + np.log(self.low_spread / self.high_spread)
        return (a - b) / 2, b * self.high - a * self.low, constant + np.maximum(odds, -50)


def fit_two_levels(sample: Doubles) -> TwoLevels:
    """Of each column of ``sample`` (n, T), finite; the same whatever the order of rows."""
    points = _points(np.asarray(sample, np.float64))
    whole = points.std(axis=0)
    varies = whole > 1e-9 * np.maximum(np.abs(points).max(axis=0, initial=0), 1e-30)
    whole = np.where(varies, whole, 1.0)
    low = np.median(points, axis=0)
    below = np.sqrt(2 * np.mean(np.minimum(points - low, 0) ** 2, axis=0))  # as if all above it were shown
    spread = np.clip(below, 0.5 * whole, whole)
    fit = TwoLevels(np.full(len(low), SHARE), low, spread, low + GAP * spread, spread)
    for _ in range(_ROUNDS):
        before, fit = fit, _improved(fit, points, whole, varies)
        if np.abs(fit.low - before.low).max(initial=0) < _CLOSE and np.allclose(
            fit.share, before.share, atol=_CLOSE
        ):
            break
    return TwoLevels(np.where(varies, fit.share, 0.0), fit.low, fit.low_spread, fit.high, fit.high_spread)


def _points(sample: Doubles) -> Doubles:
    """At most POINTS values a column, the means of equally many neighbours in order."""
    ordered = np.sort(sample, axis=0)
    if len(ordered) <= POINTS:
        return ordered
    edges = np.linspace(0, len(ordered), POINTS + 1).astype(int)[:-1]
    counts = np.diff([*edges, len(ordered)])[:, None]
    made: Doubles = np.add.reduceat(ordered, edges, axis=0) / counts
    return made


def _improved(fit: TwoLevels, points: Doubles, whole: Doubles, varies: Doubles) -> TwoLevels:
    """One round: which level each point is on, and then the levels."""
    p = np.where(points <= fit.low, 0.0, fit.probability(points))
    shown = p.mean(axis=0)
    rest = np.maximum(1 - shown, 1e-9)
    share = (shown + SHARE_WEIGHT * SHARE) / (1 + SHARE_WEIGHT)
    low = ((1 - p) * points).mean(axis=0) / rest
    least = 0.05 * whole  # a level is never a point
    low_spread = np.maximum(np.sqrt(((1 - p) * (points - low) ** 2).mean(axis=0) / rest), least)
    high = ((p * points).mean(axis=0) + GAP_WEIGHT * (low + GAP * low_spread)) / (shown + GAP_WEIGHT)
    usual = np.median(low_spread[varies]) if varies.any() else 1.0
    prior = np.minimum(low_spread, usual) ** 2
    spread = ((p * (points - high) ** 2).mean(axis=0) + SPREAD_WEIGHT * prior) / (shown + SPREAD_WEIGHT)
    return TwoLevels(share, low, low_spread, high, np.maximum(np.sqrt(spread), least))
