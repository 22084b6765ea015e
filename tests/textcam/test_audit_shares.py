import numpy as np
import pytest

from store.errors import SchemaMismatch
from textcam.shares import CellSums, ClassMeans, GroupShares, TextShares


def four_images():
    """Class 0 three times, class 2 once, class 1 never; three texts."""
    class_id = np.array([0, 0, 2, 0])
    text_index = np.array([[2, 0], [2, -1], [1, 2], [-1, -1]])
    coefficients = np.array([[3.0, 1.0], [2.0, 0.0], [0.5, 1.5], [0.0, 0.0]], np.float32)
    return class_id, text_index, coefficients


def test_text_shares_by_hand():
    shares = TextShares(3, 3)
    shares.update(*four_images())
    np.testing.assert_allclose(shares.share, [[1 / 6, 0, 5 / 6], [0, 0, 0], [0, 0.25, 0.75]])
    np.testing.assert_allclose(shares.contribution, [[1 / 3, 0, 5 / 3], [0, 0, 0], [0, 0.5, 1.5]])
    assert shares.n.tolist() == [[1, 0, 2], [0, 0, 0], [0, 1, 1]]
    assert shares.images.tolist() == [3, 0, 1]


def test_excess_is_over_the_other_classes_that_have_images():
    shares = TextShares(3, 3)
    shares.update(*four_images())
    np.testing.assert_allclose(shares.excess[0], [1 / 6, -0.25, 5 / 6 - 0.75])
    np.testing.assert_allclose(shares.excess[2], [-1 / 6, 0.25, 0.75 - 5 / 6])


def test_rows_are_the_texts_that_were_words():
    shares = TextShares(3, 3)
    shares.update(*four_images())
    rows = shares.rows()
    assert list(zip(rows.class_id, rows.text_index, rows.n, strict=True)) == [
        (0, 0, 1),
        (0, 2, 2),
        (2, 1, 1),
        (2, 2, 1),
    ]
    np.testing.assert_allclose(rows.share, [1 / 6, 5 / 6, 0.25, 0.75])
    np.testing.assert_allclose(rows.contribution, [1 / 3, 5 / 3, 0.5, 1.5])


def test_any_cut_of_the_images_gives_the_same_bits():
    draw = np.random.default_rng(3)
    n, classes, texts, groups = 211, 5, 13, 7
    class_id = draw.integers(0, classes, n)
    text_index = np.array([draw.permutation(texts)[:3] for _ in range(n)])
    coefficients = (draw.random((n, 3)) * 10.0 ** draw.integers(-6, 4, (n, 3))).astype(np.float32)
    contributions = draw.normal(size=(n, groups)).astype(np.float32)

    def gather(order, shards):
        texts_seen, groups_seen, means = (
            TextShares(classes, texts),
            GroupShares(classes, groups),
            ClassMeans(classes, groups),
        )
        for part in np.array_split(order, shards):
            shard = TextShares(classes, texts), GroupShares(classes, groups), ClassMeans(classes, groups)
            shard[0].update(class_id[part], text_index[part], coefficients[part])
            shard[1].update(class_id[part], contributions[part])
            shard[2].update(class_id[part], contributions[part])
            texts_seen.merge(shard[0])
            groups_seen.merge(shard[1])
            means.merge(shard[2])
        found = (
            texts_seen.share,
            texts_seen.contribution,
            groups_seen.share,
            groups_seen.against,
            means.mean,
        )
        return b"".join(array.tobytes() for array in found)

    whole = gather(np.arange(n), 1)
    assert gather(draw.permutation(n), 2) == whole
    assert gather(draw.permutation(n), 7) == whole


def test_cell_sums_agrees_with_fractions_and_carries():
    values = np.array([0.1, -0.3, 1e-7, 65504.0, -2.5, 1 / 3], np.float32)
    total = CellSums((2,))
    for _ in range(3):
        total.add_cells((np.array([0, 0, 1, 0, 1, 1]),), values)
    wanted = [
        3 * float(values[[0, 1, 3]].astype(np.float64).sum()),
        3 * float(values[[2, 4, 5]].astype(np.float64).sum()),
    ]
    np.testing.assert_allclose(total.value, wanted, atol=1e-11)
    assert (total.part >= 0).all()
    assert (total.part < 1 << 40).all()


def test_cell_sums_survives_more_summands_than_one_integer_takes():
    total = CellSums((1,))
    almost_one = np.full(1 << 20, np.float32(1 - 2**-24))
    for _ in range(9):  # 9 * 2^60 would not fit
        total.add_cells((np.zeros(1 << 20, np.int64),), almost_one)
    assert total.value[0] == 9 * (1 << 20) * (1 - 2**-24)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e13])
def test_values_that_cannot_be_summed_are_refused(bad):
    with pytest.raises(SchemaMismatch, match="not finite, or too large"):
        GroupShares(2, 1).update(np.array([0]), np.array([[bad]]))
    with pytest.raises(SchemaMismatch, match="not finite, or too large"):
        ClassMeans(2, 1).update(np.array([0]), np.array([[bad]]))


def test_group_shares_keep_evidence_for_and_against_apart():
    shares = GroupShares(2, 3)
    shares.update(np.array([0, 0, 1]), np.array([[2.0, -1.0, 0.0], [1.0, 1.0, -4.0], [-1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(shares.share, [[0.75, 0.25, 0], [0, 0, 0]])
    np.testing.assert_allclose(shares.against, [[0, 0.25, 1.0], [0, 0, 0]])
    np.testing.assert_allclose(shares.contribution, [[1.5, 0, -2], [-1, 0, 0]])


def test_class_means_by_hand():
    means = ClassMeans(3, 2)
    means.update(np.array([2, 0, 2]), np.array([[1.0, 4.0], [5.0, 6.0], [2.0, -1.0]]))
    assert means.mean.tolist() == [[5, 6], [0, 0], [1.5, 1.5]]
    np.testing.assert_allclose(means.overall, [8 / 3, 3])


def test_nothing_seen_is_zero_not_nan():
    shares = TextShares(2, 3)
    shares.update(np.zeros(0, np.int64), np.zeros((0, 4), np.int64), np.zeros((0, 4), np.float32))
    assert shares.share.tolist() == np.zeros((2, 3)).tolist()
    assert ClassMeans(2, 3).overall.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("class_id", "text_index", "coefficients", "message"),
    [
        ([3], [[0, 1]], [[1, 1]], "class_id goes from 3 to 3"),
        ([0], [[0, 5]], [[1, 1]], "text_index goes from 0 to 5"),
        ([0], [[-2, 1]], [[1, 1]], "text_index goes from -2 to 1"),
        ([0], [[1, 1]], [[1, 2]], "named twice"),
        ([0], [[0, 1]], [[1, -2]], "negative"),
        ([0, 1], [[0, 1]], [[1, 1]], "beside 1 rows"),
    ],
)
def test_rows_that_make_no_sense_are_refused(class_id, text_index, coefficients, message):
    with pytest.raises(SchemaMismatch, match=message):
        TextShares(3, 5).update(np.array(class_id), np.array(text_index), np.array(coefficients, np.float32))
