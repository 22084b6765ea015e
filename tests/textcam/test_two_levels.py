"""The mixture of two levels: against scikit-learn where no prior speaks, by hand, and what a posterior must
keep.
"""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from textcam import two_levels
from textcam.two_levels import POINTS, TwoLevels, fit_two_levels


def two_heaps(n: int, share: float, gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    high = rng.random(n) < share
    return rng.normal(size=n) + gap * high, high


def test_without_priors_it_is_the_mixture_of_largest_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHARE_WEIGHT", "GAP_WEIGHT", "SPREAD_WEIGHT"):
        monkeypatch.setattr(two_levels, name, 0.0)
    monkeypatch.setattr(two_levels, "_ROUNDS", 2000)
    monkeypatch.setattr(two_levels, "_CLOSE", 1e-9)
    values, _ = two_heaps(251, 0.3, 6.0)
    made = fit_two_levels(values[:, None])
    wanted = GaussianMixture(2, tol=1e-9, max_iter=2000, reg_covar=0, random_state=0).fit(values[:, None])
    order = np.argsort(wanted.means_[:, 0])
    assert made.low[0] == pytest.approx(wanted.means_[order[0], 0], abs=1e-3)
    assert made.high[0] == pytest.approx(wanted.means_[order[1], 0], abs=1e-3)
    assert made.share[0] == pytest.approx(wanted.weights_[order[1]], abs=1e-3)
    assert made.low_spread[0] == pytest.approx(np.sqrt(wanted.covariances_[order[0], 0, 0]), abs=1e-3)
    assert made.high_spread[0] == pytest.approx(np.sqrt(wanted.covariances_[order[1], 0, 0]), abs=1e-3)


def test_log_odds_by_hand() -> None:
    fit = TwoLevels(*(np.array([one]) for one in (0.25, 0.0, 1.0, 4.0, 1.0)))
    # log(1/3) + (v^2 - (v - 4)^2) / 2 = log(1/3) + 4 v - 8
    values = np.array([[-3.0], [0.0], [2.0], [5.0]])
    assert fit.log_odds(values) == pytest.approx(np.log(1 / 3) + 4 * values - 8)
    wide = TwoLevels(*(np.array([one]) for one in (0.5, 0.0, 1.0, 4.0, 2.0)))
    # -log 2 + v^2 / 2 - (v - 4)^2 / 8, whose vertex is at -4 / 3: there it stays
    at = -4 / 3
    least = -np.log(2) + at**2 / 2 - (at - 4) ** 2 / 8
    assert wide.log_odds(np.array([[-9.0]]))[0, 0] == pytest.approx(least)
    assert wide.log_odds(np.array([[1.0]]))[0, 0] == pytest.approx(-np.log(2) + 0.5 - 9 / 8)


@pytest.mark.parametrize(("low_spread", "high_spread"), [(1.0, 0.3), (0.3, 1.0), (0.5, 0.5)])
def test_a_higher_value_is_never_less_likely_high(low_spread: float, high_spread: float) -> None:
    fit = TwoLevels(*(np.array([one]) for one in (0.2, 0.0, low_spread, 1.0, high_spread)))
    made = fit.log_odds(np.linspace(-20, 20, 4001)[:, None])
    assert (np.diff(made, axis=0) >= -1e-9).all()


@pytest.mark.parametrize("share", [0.03, 0.1, 0.4, 0.7])
def test_two_heaps_are_told_apart(share: float) -> None:
    values, high = two_heaps(3000, share, 7.0)
    found = fit_two_levels(values[:, None]).probability(values[:, None])[:, 0] > 0.5
    assert (found == high).mean() > 0.995


def test_one_heap_is_not_split_in_the_middle() -> None:
    values = np.random.default_rng(1).normal(size=(4000, 5))
    assert (fit_two_levels(values).probability(values) > 0.5).mean() < 0.1


def test_probabilities_are_true_where_the_mixture_is() -> None:
    values, high = two_heaps(20_000, 0.15, 3.5)
    made = fit_two_levels(values[:, None]).probability(values[:, None])[:, 0]
    for low, top in ((0.1, 0.3), (0.3, 0.7), (0.7, 0.9)):
        mine = (made > low) & (made < top)
        assert high[mine].mean() == pytest.approx(made[mine].mean(), abs=0.12)


def test_the_order_of_rows_does_not_matter_and_many_values_stand_for_themselves() -> None:
    values, _ = two_heaps(POINTS * 7 + 3, 0.2, 5.0)
    one, other = fit_two_levels(values[:, None]), fit_two_levels(values[::-1, None])
    assert all((getattr(one, name) == getattr(other, name)).all() for name in vars(one))
    twice = fit_two_levels(np.repeat(values, 2)[:, None])
    assert twice.high[0] == pytest.approx(one.high[0], abs=0.02)


def test_a_column_that_does_not_vary_is_nowhere_high() -> None:
    values = np.stack([np.full(40, 0.3), np.arange(40.0)], axis=1)
    fit = fit_two_levels(values)
    assert fit.share[0] == 0
    assert not fit.probability(values)[:, 0].any()
    assert fit.share[1] > 0
    assert fit_two_levels(np.array([[2.0]])).share[0] == 0


@pytest.mark.parametrize("spreads", [(1.0, 0.3), (0.3, 1.0), (0.5, 0.5), (0.5, 0.5 + 1e-12)])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_above_the_cut_the_high_level_is_likelier(spreads: tuple[float, float], share: float) -> None:
    fit = TwoLevels(*(np.array([one]) for one in (share, 0.0, spreads[0], 1.0, spreads[1])))
    values = np.linspace(-5, 5, 20001)[:, None]
    for probability in (0.2, 0.5, 0.9):
        likelier = fit.probability(values)[:, 0] > probability
        assert (likelier == (values[:, 0] > fit.cut(probability)[0])).mean() > 0.9999


def test_cuts_that_are_nowhere() -> None:
    columns = np.array([[0.2, 0.0], [0.0, 0.0], [1.0, 1.0], [0.01, 1.0], [0.1, 1.0]])
    rare = TwoLevels(*columns)  # two levels that are almost one, and a column that does not vary
    assert rare.cut(0.999)[0] == np.inf
    assert rare.cut(0.5)[1] == np.inf
