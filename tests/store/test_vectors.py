"""Nearest neighbours in every tier, against a plain matrix product."""

import io

import numpy as np
import pytest

from store.errors import SchemaMismatch
from store.vectors import TIERS, VectorIndex, recall_at_10, tier_for
from tests.store.worlds import unit


def clustered(count, dim, seed=0):
    """Unit vectors around a few centres, as embeddings lie; ids are large, odd and out of order."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, count // 50), dim))
    rows = unit(centres[random.integers(0, len(centres), count)] + 0.5 * random.normal(size=(count, dim)))
    ids = random.permutation(count).astype(np.int64) * 2 + (1 << 62)
    return ids, rows


def nearest(ids, rows, query, top):
    """The definition, one query at a time."""
    similarity = rows @ query
    order = np.lexsort((ids, -similarity))[:top]
    return ids[order], similarity[order]


def test_flat_is_exact():
    ids, rows = clustered(997, 13)
    index = VectorIndex.build(ids, rows)
    assert (index.tier, len(index), index.dim) == ("flat", 997, 13)
    found, similarities = index.search(rows[:17], 7)
    for query, got, similarity in zip(rows[:17], found, similarities, strict=True):
        expected_ids, expected = nearest(ids, rows, query, 7)
        np.testing.assert_array_equal(got, expected_ids)
        np.testing.assert_allclose(similarity, expected, atol=1e-5)
    assert recall_at_10(index, lambda: [(ids, rows)]) == 1.0


@pytest.mark.parametrize(
    ("tier", "least", "count", "dim"),
    [("sqfp16", 0.98, 4_999, 24), ("hnsw", 0.95, 4_999, 24), ("opq-ivf-pq", 0.9, 2_999, 16)],
)
def test_other_tiers_find_most(tier, least, count, dim):
    ids, rows = clustered(count, dim)
    index = VectorIndex.build(ids, rows, tier=tier)
    recall = recall_at_10(index, lambda: [(ids, rows)])
    assert least <= recall <= 1.0
    hits = 0
    for i in range(0, count, count // 10 + 1):
        expected = set(nearest(ids, rows, rows[i], 11)[0]) - {ids[i]}
        hits += len(expected & (set(index.search(rows[i], 11)[0][0]) - {ids[i]}))
    assert hits / 100 >= least - 0.1
    assert set(index.ids) == set(ids)


@pytest.mark.parametrize("tier", TIERS)
def test_a_written_index_answers_as_before(tier):
    ids, rows = clustered(503, 4)
    index = VectorIndex.build(ids, rows, tier=tier)
    file = io.BytesIO()
    index.write(file)
    file.seek(0)
    again = VectorIndex.read(file, tier)
    for one, other in zip(index.search(rows[:31], 5), again.search(rows[:31], 5), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(index.ids, again.ids)


def test_recall_counts_by_hand():
    """Five vectors in a plane; an index that lacks two of them finds only the others."""
    angles = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ids = np.arange(5)
    whole = VectorIndex.build(ids, rows)
    assert recall_at_10(whole, lambda: [(ids, rows)]) == 1.0
    turned = VectorIndex.build(ids, rows[[3, 4, 0, 1, 2]])  # five vectors, under each other's ids
    # The exact four nearest of each are all the others, and all five are always returned.
    assert recall_at_10(turned, lambda: [(ids, rows)]) == 1.0
    lost = VectorIndex.build([0, 1, 2, 99, 98], rows)  # two answers have ids that the table does not know
    found = recall_at_10(lost, lambda: [(ids, rows)])
    assert found == pytest.approx((2 + 2 + 2 + 3 + 3) / 20)


def test_batches_give_the_same_index_as_the_whole():
    ids, rows = clustered(503, 4)

    def batches():
        for start in range(0, 503, 101):
            yield ids[start : start + 101], rows[start : start + 101]
        yield ids[:0], rows[:0]

    for tier in ("flat", "opq-ivf-pq"):
        one = VectorIndex.build(ids, rows, tier=tier)
        other = VectorIndex.build_from(batches, 503, 4, tier)
        np.testing.assert_array_equal(one.search(rows[:53], 6)[0], other.search(rows[:53], 6)[0])
        assert recall_at_10(one, lambda: [(ids, rows)]) == recall_at_10(other, batches)


def test_short_and_empty_indexes():
    ids, similarities = VectorIndex.build([7, 3], [[1, 0], [0, 1]]).search([[1, 0]], 5)
    assert ids.tolist() == [[7, 3, -1, -1, -1]]
    assert similarities[0, :2].tolist() == [1.0, 0.0]
    assert np.isneginf(similarities[0, 2:]).all()
    empty = VectorIndex.build(np.empty(0), np.empty((0, 4)))
    assert empty.search(np.ones((2, 4)), 3)[0].tolist() == [[-1] * 3] * 2
    assert recall_at_10(empty, lambda: []) == 1.0
    assert VectorIndex.build([1], [[1.0]]).search(np.empty((0, 1)), 2)[0].shape == (0, 2)


def test_equals_come_by_id():
    ids, _ = VectorIndex.build([9, 2, 5], [[1, 0], [1, 0], [1, 0]]).search([1, 0], 3)
    assert ids.tolist() == [[2, 5, 9]]


def test_vectors_come_back_by_id():
    ids, rows = clustered(101, 6)
    index = VectorIndex.build(ids, rows)
    np.testing.assert_array_equal(index.vectors(ids[[50, 3, 3]]), rows[[50, 3, 3]])


@pytest.mark.parametrize(
    ("ids", "rows", "tier"),
    [
        ([1, 1], [[1, 0], [0, 1]], "auto"),
        ([-1, 1], [[1, 0], [0, 1]], "auto"),
        ([1], [[1, 0], [0, 1]], "auto"),
        ([1, 2], [1, 0], "auto"),
        ([1, 2], [[1, 0], [0, 1]], "best"),
    ],
)
def test_what_does_not_fit_is_refused(ids, rows, tier):
    with pytest.raises(SchemaMismatch):
        VectorIndex.build(ids, rows, tier=tier)


def test_a_query_of_another_length_is_refused():
    with pytest.raises(SchemaMismatch, match="3 numbers, the index 2"):
        VectorIndex.build([1], [[1, 0]]).search([1, 0, 0], 1)


@pytest.mark.parametrize(
    ("rows", "tier"),
    [(0, "flat"), (200_000, "flat"), (200_001, "sqfp16"), (1_000_001, "hnsw"), (4_000_001, "opq-ivf-pq")],
)
def test_tiers_follow_size(rows, tier):
    assert tier_for(rows) == tier
