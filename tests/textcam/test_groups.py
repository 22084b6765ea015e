import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from store.errors import ConfigError, SchemaMismatch
from textcam.arrays import unit_rows
from textcam.groups import greedy_groups, group_by_text, group_channels, group_directions

K, D = 47, 13


def clusters(meanings=5, channels=K, dim=D, noise=0.1, seed=0):
    """Channels around a few meanings, in mixed order: (directions, true meaning of each)."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((dim, meanings)))[0].T
    of = rng.permutation(np.arange(channels) % meanings)
    return unit_rows(centres[of] + noise * rng.standard_normal((channels, dim)) / np.sqrt(dim)), of


def by_first(labels):
    seen = list(dict.fromkeys(labels.tolist()))
    return np.array([seen.index(label) for label in labels])


# --- one clustering per store -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_meanings_are_found_and_numbered_by_their_smallest_channel(method):
    directions, of = clusters()
    made = group_channels(directions, 5, method=method)
    assert made.dtype == np.int32
    assert_array_equal(made, by_first(of))


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_channels_without_a_direction_share_the_last_group(method):
    directions, of = clusters()
    dead = np.array([0, 7, 31])
    directions[dead] = 0
    made = group_channels(directions, 6, method=method)
    assert (made[dead] == 5).all()
    alive = np.setdiff1d(np.arange(K), dead)
    assert_array_equal(made[alive], by_first(of[alive]))


def test_the_length_of_directions_does_not_matter():
    directions, _ = clusters(noise=1.0)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (K, 1))
    assert_array_equal(group_channels(directions, 5), group_channels(directions * lengths, 5))


def test_the_same_call_gives_the_same_groups_and_another_seed_may_not():
    directions = unit_rows(np.random.default_rng(0).standard_normal((211, D)))
    first = group_channels(directions, 17)
    assert_array_equal(first, group_channels(directions, 17))
    assert any((group_channels(directions, 17, seed=seed) != first).any() for seed in (1, 2))


def test_weights_say_which_channels_groups_are_made_for():
    # Three channels near each other against one far away; two groups. Weight decides what is kept apart.
    directions = unit_rows([[1.0, 0.0], [0.9, 0.3], [0.0, 1.0], [0.2, 1.0]])
    left = group_channels(directions, 3, weights=np.array([100.0, 100.0, 1.0, 1.0]))
    right = group_channels(directions, 3, weights=np.array([1.0, 1.0, 100.0, 100.0]))
    assert left.tolist() == [0, 1, 2, 2]
    assert right.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (3, 3), (5, 5), (64, 47)])
def test_ids_fill_the_range_and_never_pass_the_count(count, expected):
    directions, _ = clusters(noise=1.0)
    assert sorted(set(group_channels(directions, count).tolist())) == list(range(expected))


def test_fewer_different_directions_than_groups():
    directions = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    assert group_channels(directions, 8).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    directions[-1] = 0
    assert group_channels(directions, 8).tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3]


def test_all_channels_dead_and_one_group_for_all():
    assert group_channels(np.zeros((5, D)), 3).tolist() == [0] * 5
    half = np.zeros((5, D))
    half[2, 0] = 1
    assert group_channels(half, 1).tolist() == [0] * 5
    assert group_channels(half, 2).tolist() == [1, 1, 0, 1, 1]


def test_wrong_requests_are_refused():
    directions, _ = clusters()
    with pytest.raises(ConfigError, match="0 groups"):
        group_channels(directions, 0)
    with pytest.raises(ConfigError, match="Unknown grouping method"):
        group_channels(directions, 3, method="magic")
    with pytest.raises(ConfigError, match="take no weights"):
        group_channels(directions, 3, method="agglomerative", weights=np.ones(K))
    with pytest.raises(ConfigError, match="must not be negative"):
        group_channels(directions, 3, weights=-np.ones(K))
    directions[3, 4] = np.nan
    with pytest.raises(SchemaMismatch, match=r"directions\[3"):
        group_channels(directions, 3)


# --- directions of groups -----------------------------------------------------------------------------------


def test_group_directions_by_hand():
    directions = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])
    group_of = np.array([0, 0, 2, 2])
    assert_allclose(
        group_directions(directions, group_of, 4),
        [[0.5**0.5, 0.5**0.5, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
        atol=1e-7,
    )
    weighted = group_directions(directions, group_of, 4, weights=np.array([3.0, 4.0, 2.0, 1.0]))
    assert_allclose(weighted, [[0.6, 0.8, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]], atol=1e-7)


def test_group_ids_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        group_directions(np.eye(3), np.array([0, 1, 2]), 2)
    with pytest.raises(ConfigError, match="group_of has shape"):
        group_directions(np.eye(3), np.array([0, 1]), 2)


# --- groups of one image ------------------------------------------------------------------------------------


def test_greedy_groups_are_led_by_what_contributes_most_and_differs_most():
    directions = unit_rows([[1.0, 0.1, 0], [1, 0, 0], [0, 1, 0.1], [0, 1, 0], [0, 0, 1]])
    contributions = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    made = greedy_groups(contributions, directions, groups=2)
    assert [group.tolist() for group in made] == [[0, 1], [2, 3, 4]]
    made = greedy_groups(contributions, directions, groups=3)
    assert [group.tolist() for group in made] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("groups", [1, 3, 8, 100])
def test_greedy_groups_share_out_every_channel_once(groups):
    rng = np.random.default_rng(groups)
    directions, _ = clusters(noise=1.0)
    directions[[3, 11]] = 0
    contributions = rng.standard_normal(K).astype(np.float32)
    made = greedy_groups(contributions, directions, groups=groups)
    assert_array_equal(np.sort(np.concatenate(made)), np.arange(K))
    assert len(made) <= groups
    totals = [float(contributions[group].sum()) for group in made]
    assert totals == sorted(totals, reverse=True)
    assert sum(totals) == pytest.approx(float(contributions.sum()), abs=1e-4)


def test_greedy_groups_find_the_meanings_of_an_image():
    directions, of = clusters(channels=53)
    contributions = np.random.default_rng(0).uniform(0.5, 1.0, 53).astype(np.float32)
    made = greedy_groups(contributions, directions, groups=5)
    assert {frozenset(group.tolist()) for group in made} == {
        frozenset(np.nonzero(of == meaning)[0].tolist()) for meaning in range(5)
    }


def test_where_nothing_speaks_for_the_class_all_channels_are_one_group():
    made = greedy_groups(np.array([-1.0, -2.0, 0.0]), np.eye(3), groups=3)
    assert [group.tolist() for group in made] == [[0, 1, 2]]


def test_channels_of_the_same_text_are_a_group_and_others_join_the_nearest() -> None:
    directions = np.array([[1, 0], [1, 0.1], [0, 1], [0, 0], [0.1, 1], [0.9, 0.5]], np.float32)
    first = np.array([7, 7, 3, 9, 3, -1])
    assert group_by_text(first, directions, 5).tolist() == [0, 0, 1, 2, 1, 0]
    assert group_by_text(first[[0, 1, 2, 4]], directions[[0, 1, 2, 4]], 1).tolist() == [0, 0, 0, 0]
    many = np.array([5, 5, 2, 2, 1])
    along = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0.2, 1]], np.float32)
    assert group_by_text(many, along, 2).tolist() == [0, 0, 1, 1, 1], "the rarest text has no group"
    unnamed = group_by_text(np.full(5, -1), along, 2)
    assert (unnamed == group_channels(along, 2)).all()
