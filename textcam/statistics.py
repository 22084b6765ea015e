"""Rates on both sides of a line: difference, interval, Fisher's exact test, false-discovery rate.

Everything here works on counts and is exact or in closed form, so that equal counts give equal bits: no
resampling, no seeds. Only scipy.special is imported (scipy.stats takes half a second to load).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri, stdtrit

from store.errors import SchemaMismatch

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CONFIDENCE = 0.95
_EQUAL = 1e-7  # two tables count as equally likely within this relative difference


class TwoSides(NamedTuple):
    """Counts with and without something, for P pairs at once; each (P,) int64.

    ``hits_with`` of ``n_with`` trials on the side that has it, ``hits_without`` of ``n_without`` on the
    other.
    """

    hits_with: Ints
    n_with: Ints
    hits_without: Ints
    n_without: Ints


class Difference(NamedTuple):
    """Rate with minus rate without, in [-1, 1], and its interval; each (P,), NaN where a side is empty."""

    effect: Floats
    low: Floats
    high: Floats


def two_sides(hits_with: object, n_with: object, hits_without: object, n_without: object) -> TwoSides:
    """Counts (P,) or scalars as a checked `TwoSides`. Raises SchemaMismatch if hits are below 0 or above
    n."""
    sides = TwoSides(
        *(np.atleast_1d(np.asarray(x, np.int64)) for x in (hits_with, n_with, hits_without, n_without))
    )
    for hits, trials, name in ((*sides[:2], "with"), (*sides[2:], "without")):
        if hits.shape != sides.n_with.shape or trials.shape != sides.n_with.shape:
            raise SchemaMismatch("The two sides do not have the same number of pairs", where=f"side {name}")
        if np.any(hits < 0) or np.any(hits > trials):
            row = int(np.argmax((hits < 0) | (hits > trials)))
            raise SchemaMismatch(
                f"{hits[row]} hits in {trials[row]} trials", where=f"side {name}, pair {row}"
            )
    return sides


def rates(hits: Ints, trials: Ints) -> Floats:
    """hits / trials (P,), NaN where there were no trials."""
    return np.where(trials > 0, hits / np.maximum(trials, 1), np.nan)


def wilson_interval(hits: Ints, trials: Ints, confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
    """Score interval of a rate (Wilson 1927, no continuity correction): low (P,), high (P,), NaN where trials
    is 0."""
    z = float(ndtri(0.5 + confidence / 2))
    rate, n = rates(hits, trials), np.maximum(trials, 1)
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def rate_difference(sides: TwoSides, confidence: float = CONFIDENCE) -> Difference:
    """Rate with minus rate without and its hybrid score interval (Newcombe 1998, method 10): from the Wilson
    intervals of both rates, honest for small n and for rates at 0 or 1."""
    with_, without = rates(*sides[:2]), rates(*sides[2:])
    low_with, high_with = wilson_interval(*sides[:2], confidence)
    low_without, high_without = wilson_interval(*sides[2:], confidence)
    effect = with_ - without
    low = effect - np.hypot(with_ - low_with, high_without - without)
    high = effect + np.hypot(high_with - with_, without - low_without)
    return Difference(effect, low, high)


def fisher_exact(sides: TwoSides) -> Floats:
    """Two-sided p (P,) of "the rate is the same on both sides" (Fisher's exact test: the sum over all tables
    with these margins that are no likelier than the one seen). NaN where a side is empty: nothing was
    tested."""
    tables, back = np.unique(
        np.stack(sides, axis=1), axis=0, return_inverse=True
    )  # (U, 4): many pairs look alike
    largest = tables[:, 1], tables[:, 3], tables[:, 0] + tables[:, 2]
    most = max(int(one.max(initial=0)) for one in largest)
    log_factorial = gammaln(np.arange(1.0, most + 2))  # a million pairs share it
    p = np.array([_fisher_one(log_factorial, *(int(x) for x in table)) for table in tables], np.float64)
    return p[back.reshape(-1)]


def _fisher_one(
    log_factorial: Floats, hits_with: int, n_with: int, hits_without: int, n_without: int
) -> float:
    if not n_with or not n_without:
        return float("nan")
    hits = hits_with + hits_without
    first, last = max(0, hits - n_without), min(n_with, hits)  # of hits_with that the margins allow
    chance = -(  # log hypergeometric probability, up to a constant
        log_factorial[first : last + 1]
        + log_factorial[n_with - last : n_with - first + 1][::-1]
        + log_factorial[hits - last : hits - first + 1][::-1]
        + log_factorial[n_without - hits + first : n_without - hits + last + 1]
    )
    weight = np.exp(chance - chance.max())
    this = weight[hits_with - first]
    return float(min(1.0, weight[weight <= this * (1 + _EQUAL)].sum() / weight.sum()))


def false_discovery(p: Floats) -> Floats:
    """q-values (P,) of Benjamini and Hochberg (1995) over all pairs tested; NaN (not tested) stays NaN and
    does not count as a test."""
    q = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return q


def mean_interval(values: Floats, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Mean of values (n,) with its t interval: (mean, low, high). From one value the interval is infinite."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, -np.inf, np.inf
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
