"""Effects matched for what else images show, on worlds in which the truth is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from tests.textcam.worlds import Rows, edited
from textcam.matching import FOLDS, Matched, matched, matched_difference
from textcam.records import findings_of

SEEDS = 100
ALLOWED = 8  # of 100 intervals that may miss the truth: by chance 5, 8 or fewer in 94 of 100 draws


def world(kind: str, n: int, seed: int, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right (n,), shows the concept (n,), shows other texts (n, T): of the class's images. The concept adds
    ``effect`` to the chance of being right; others make images easier and show it more often."""
    rng = np.random.default_rng(seed)
    others = rng.random((n, {"one": 1, "none": 6}.get(kind, 3))) < 0.5
    first, second = others[:, 0], others[:, 1 % others.shape[1]]
    if kind == "one":
        shows, right = np.where(first, 0.8, 0.2), np.where(first, 0.9, 0.6)
    elif kind == "three":
        count = others.sum(axis=1)
        shows, right = expit(1.2 * (count - 1.5)), 0.9 * expit(1.2 * count)
    elif kind == "two together":
        shows, right = np.where(first & second, 0.8, 0.2), np.where(first & second, 0.9, 0.6)
    elif kind == "either":
        shows, right = np.where(first ^ second, 0.8, 0.2), np.where(first ^ second, 0.9, 0.6)
    else:
        shows, right = np.full(n, 0.3), np.full(n, 0.8)
    present = rng.random(n) < shows
    return rng.random(n) < right + effect * present, present, others


@pytest.mark.parametrize("kind", ["one", "three", "two together", "either", "none"])
@pytest.mark.parametrize(("n", "effect"), [(300, 0.0), (2000, 0.0), (300, 0.1)])
def test_intervals_hold_the_truth(kind: str, n: int, effect: float) -> None:
    missed, raw, found = 0, [], []
    for seed in range(SEEDS):
        hits, present, others = world(kind, n, seed, effect)
        one = matched_difference(hits, present, others)
        assert one.effect is not None
        missed += not one.low <= effect <= one.high
        found.append(one.effect)
        raw.append(hits[present].mean() - hits[~present].mean())
    assert missed <= ALLOWED
    assert np.mean(found) == pytest.approx(effect, abs=0.02)
    if kind != "none":  # there was something to take off
        assert np.mean(raw) > effect + 0.08


@pytest.mark.parametrize(("kind", "n"), [("one", 20_000), ("three", 4_000)])
def test_many_images_leave_no_bias_to_be_sure_of(kind: str, n: int) -> None:
    found = [matched_difference(*world(kind, n, seed)) for seed in range(20)]
    assert sum(not one.low <= 0 <= one.high for one in found) <= 3
    assert np.mean([one.effect for one in found]) == pytest.approx(0, abs=0.01)


def test_by_one_other_text_it_is_the_mean_over_both_sides_of_it() -> None:
    """Mantel and Haenszel's weighted mean, counted here stratum by stratum; ridge and folds cost a little."""
    hits, present, others = world("one", 5000, 7, effect=0.05)
    weights, differences = [], []
    for side in (True, False):
        mine = others[:, 0] == side
        with_, without = hits[mine & present], hits[mine & ~present]
        weights.append(len(with_) * len(without) / mine.sum())
        differences.append(with_.mean() - without.mean())
    expected = np.average(differences, weights=weights)
    found = matched_difference(hits, present, others)
    assert found.effect == pytest.approx(expected, abs=0.002)
    assert (found.n_with, found.n_without) == (present.sum(), (~present).sum())


def test_rates_of_one_are_not_taken_for_sure() -> None:
    _, present, others = world("one", 60, 0)
    found = matched_difference(np.ones(60, bool), present, others)
    assert found.effect == pytest.approx(0, abs=1e-12)
    assert found.low < -0.02
    assert found.high > 0.02


def test_images_without_their_like_are_left_out() -> None:
    """All images of the second text show the concept: they say nothing of it."""
    hits, present, _ = world("none", 2000, 1)
    sure = np.arange(2000) % 4 == 0
    found = matched_difference(hits, present | sure, np.stack([sure, np.roll(sure, 2)], axis=1))
    assert found.n_with + found.n_without < 2000 - sure.sum() / 2


@pytest.mark.parametrize("others", [np.zeros((40, 0), bool), np.zeros((40, 3), bool), np.ones((40, 3), bool)])
def test_without_other_texts_there_is_nothing_to_match_by(others: np.ndarray) -> None:
    hits, present, _ = world("none", 40, 0)
    assert matched_difference(hits, present, others) == Matched("nothing to match by", None, None, None, 0, 0)


def test_in_a_bank_of_one_kind_there_is_nothing_to_match_by(tmp_path: Path) -> None:
    def plain_words(rows: Rows) -> Rows:
        return [{**row, "kind": "other"} for row in rows]

    snapshot = edited(tmp_path / "s", {"texts": plain_words})
    found = matched(snapshot, findings_of(snapshot.table("findings")))
    assert found
    assert {one.outcome for one in found} == {"nothing to match by"}
    assert {one.effect for one in found} == {None}


@pytest.mark.parametrize("n", [1, 2, FOLDS, 40])
@pytest.mark.parametrize("shown", ["always", "never", "with the other text"])
def test_where_nothing_can_be_compared_it_says_so(n: int, shown: str) -> None:
    other = np.arange(n) % 2 == 0
    present = {"always": np.ones(n, bool), "never": np.zeros(n, bool), "with the other text": other}[shown]
    found = matched_difference(np.ones(n, bool), present, other[:, None])
    assert found.outcome == ("nothing to match by" if n == 1 else "nothing to compare")
    assert found[1:] == (None, None, None, 0, 0)
