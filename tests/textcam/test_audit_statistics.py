"""Each statistic on rows that one counts by hand, unbalanced, and against its slow twin."""

import numpy as np
import pytest

from store.errors import SchemaMismatch
from tests.textcam import audit_oracles as slow
from textcam.statistics import (
    false_discovery,
    fisher_exact,
    mean_interval,
    rate_difference,
    rates,
    two_sides,
    wilson_interval,
)

Z95 = 1.959963984540054


def test_rates_of_seven_and_three_images():
    assert rates(np.array([4, 0]), np.array([7, 0]))[0] == 4 / 7
    assert np.isnan(rates(np.array([4, 0]), np.array([7, 0]))[1])


def test_difference_agrees_with_the_published_example():
    found = rate_difference(two_sides(56, 70, 48, 80))
    assert found.effect[0] == pytest.approx(0.2)
    assert found.low[0] == pytest.approx(0.0524, abs=5e-5)
    assert found.high[0] == pytest.approx(0.3339, abs=5e-5)


def test_difference_of_four_in_four_and_one_in_three():
    found = rate_difference(two_sides(4, 4, 1, 3))
    low_with, high_with = slow.wilson(4, 4, Z95)
    low_without, high_without = slow.wilson(1, 3, Z95)
    assert found.effect[0] == pytest.approx(2 / 3)
    assert found.low[0] == pytest.approx(2 / 3 - np.hypot(1 - low_with, high_without - 1 / 3))
    assert found.high[0] == pytest.approx(2 / 3 + np.hypot(high_with - 1, 1 / 3 - low_without))


def test_swapping_sides_turns_the_interval_round():
    one, other = rate_difference(two_sides(2, 9, 5, 6)), rate_difference(two_sides(5, 6, 2, 9))
    np.testing.assert_allclose(one.effect, -other.effect)
    np.testing.assert_allclose(one.low, -other.high)


def test_an_empty_side_has_no_difference_and_no_p():
    sides = two_sides([3, 0], [4, 0], [0, 2], [0, 5])
    assert np.isnan(rate_difference(sides).effect).all()
    assert np.isnan(rate_difference(sides).low).all()
    assert np.isnan(fisher_exact(sides)).all()


@pytest.mark.parametrize(("hits", "trials"), [(0, 5), (5, 5), (1, 3), (7, 11), (96, 97)])
def test_wilson_is_the_set_of_rates_not_rejected(hits, trials):
    low, high = wilson_interval(np.array([hits]), np.array([trials]))
    np.testing.assert_allclose([low[0], high[0]], slow.wilson(hits, trials, Z95), atol=1e-9)


def test_fisher_of_seven_images_by_hand():
    # 5 hits among 7 images, 4 of them with: 4, 3 or 2 hits with have chances 3/21, 12/21, 6/21.
    assert fisher_exact(two_sides(4, 4, 1, 3))[0] == pytest.approx(3 / 21)
    assert fisher_exact(two_sides(2, 4, 3, 3))[0] == pytest.approx(9 / 21)
    assert fisher_exact(two_sides(3, 4, 2, 3))[0] == pytest.approx(1)


def test_fisher_of_the_lady_tasting_tea():
    assert fisher_exact(two_sides(3, 4, 1, 4))[0] == pytest.approx(34 / 70)


def test_fisher_agrees_with_exact_arithmetic_on_unbalanced_tables():
    draw = np.random.default_rng(5)
    n_with, n_without = draw.integers(1, 13, 60), draw.integers(1, 211, 60)
    hits_with, hits_without = draw.integers(0, n_with + 1), draw.integers(0, n_without + 1)
    found = fisher_exact(two_sides(hits_with, n_with, hits_without, n_without))
    wanted = [slow.fisher(*map(int, x)) for x in zip(hits_with, n_with, hits_without, n_without, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_fisher_keeps_its_precision_among_a_million_images():
    p = fisher_exact(two_sides([30], [1300], [20_000], [1_280_000]))[0]
    assert 0.01 < p < 0.05  # 30 where 20.3 are expected
    assert fisher_exact(two_sides([1300], [1300], [0], [1_280_000]))[0] == 0.0  # below the smallest float
    assert fisher_exact(two_sides([20], [1300], [20_000], [1_280_000]))[0] == pytest.approx(1, abs=1e-6)


def test_false_discovery_of_four_tests_by_hand():
    np.testing.assert_allclose(false_discovery(np.array([0.01, 0.04, 0.03, 0.005])), [0.02, 0.04, 0.04, 0.02])


def test_false_discovery_agrees_with_the_definition():
    p = np.random.default_rng(7).random(13) ** 3
    np.testing.assert_allclose(false_discovery(p), slow.best_q(list(p)))


def test_what_was_not_tested_is_no_test():
    q = false_discovery(np.array([np.nan, 0.02, np.nan, 0.01]))
    np.testing.assert_allclose(q, [np.nan, 0.02, np.nan, 0.02])
    assert false_discovery(np.array([np.nan])).tolist() != [1.0]


def test_mean_interval_of_three_values():
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert high - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert 2 - low == pytest.approx(high - 2)
    assert mean_interval(np.array([1.5])) == (1.5, -np.inf, np.inf)


@pytest.mark.parametrize("counts", [(5, 4, 0, 3), (-1, 4, 0, 3), (1, 4, 4, 3)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(SchemaMismatch, match="hits in"):
        two_sides(*counts)


def test_sides_of_different_length_are_refused():
    with pytest.raises(SchemaMismatch, match="same number of pairs"):
        two_sides([1, 2], [3, 4], [1], [2])
