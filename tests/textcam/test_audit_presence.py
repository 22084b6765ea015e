import numpy as np
import pytest

from store.errors import ConfigError, SchemaMismatch
from tests.textcam import audit_oracles as slow
from textcam.presence import ConceptCounts, ConceptPresence, between_levels, free_texts, otsu
from textcam.statistics import fisher_exact, rate_difference

# label, prediction, has text 0, has text 1: class 0 seven times, class 1 twice, class 2 once
TEN = np.array(
    [
        (0, 0, 1, 0),
        (0, 0, 1, 0),
        (0, 0, 1, 1),
        (0, 0, 0, 0),
        (0, 1, 0, 1),
        (0, 2, 0, 0),
        (0, 0, 1, 0),
        (1, 0, 1, 0),
        (1, 1, 0, 0),
        (2, 2, 0, 1),
    ]
)


def counted(rows, labelled=True):
    counts = ConceptCounts(3, 2, labelled=labelled)
    counts.update(rows[:, 1], rows[:, 2:].astype(bool), rows[:, 0] if labelled else None)
    return counts


def flat(sides):
    return [int(x[0]) for x in sides]


def test_ten_images_counted_by_hand():
    counts = counted(TEN)
    first = np.array([0])
    assert flat(counts.accuracy(first, first)) == [4, 4, 1, 3]
    assert flat(counts.false_positives(first, first)) == [1, 1, 0, 2]
    assert flat(counts.predictions(first, first)) == [5, 5, 1, 5]
    assert flat(counts.accuracy(first, first + 1)) == [1, 2, 4, 5]
    assert flat(counts.false_positives(first, first + 1)) == [0, 1, 1, 2]
    assert flat(counts.accuracy(first + 2, first + 1)) == [1, 1, 0, 0]
    assert flat(counts.false_positives(first + 2, first)) == [0, 5, 1, 4]


def test_effect_and_p_of_the_ten_images():
    sides = counted(TEN).accuracy(np.array([0]), np.array([0]))
    assert rate_difference(sides).effect[0] == pytest.approx(1 - 1 / 3)
    assert fisher_exact(sides)[0] == pytest.approx(3 / 21)


def test_without_labels_only_predictions_count():
    counts = counted(TEN, labelled=False)
    assert flat(counts.predictions(np.array([0]), np.array([0]))) == [5, 5, 1, 5]
    assert counts.of_class.sum() == 0


def test_images_without_label_are_left_out_where_labels_exist():
    unlabelled = TEN.copy()
    unlabelled[7, 0] = -1
    counts = counted(unlabelled)
    assert flat(counts.false_positives(np.array([0]), np.array([0]))) == [0, 0, 0, 2]
    assert flat(counts.predictions(np.array([0]), np.array([0]))) == [4, 4, 1, 5]


def test_merging_shards_counts_the_same():
    whole, merged = counted(TEN), ConceptCounts(3, 2, labelled=True)
    for part in (TEN[7:], TEN[:2], TEN[2:7]):
        merged.merge(counted(part))
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(merged, name), value)


def test_counts_refuse_what_does_not_fit():
    with pytest.raises(ConfigError, match="needs labels"):
        ConceptCounts(3, 2, labelled=True).update(TEN[:, 1], TEN[:, 2:].astype(bool))
    with pytest.raises(SchemaMismatch, match="prediction goes from 0 to 2"):
        ConceptCounts(2, 2, labelled=False).update(TEN[:, 1], TEN[:, 2:].astype(bool))
    with pytest.raises(ConfigError, match="present has shape"):
        ConceptCounts(3, 3, labelled=False).update(TEN[:, 1], TEN[:, 2:].astype(bool))


def test_texts_of_a_kind_compete():
    texts = np.eye(5)
    presence = ConceptPresence(texts, ["scene", "colour", "scene", "colour", "scene"], tolerance=0.05)
    images = np.array([[0.5, 0.1, 0.48, 0.3, 0.2], [0.1, 0.6, 0.3, 0.2, 0.2]])
    assert presence(images).tolist() == [[True, False, True, True, False], [False, True, True, False, False]]
    np.testing.assert_allclose(
        presence.relative_similarities(images), [[0, -0.2, -0.02, 0, -0.3], [-0.2, 0, 0, -0.4, -0.1]]
    )


def test_an_image_may_have_nothing_of_a_kind():
    texts = np.eye(3)
    # The first text is nearest in every image, but only two images are near it.
    sample = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.2, 0.1, 0.0], [0.2, 0.0, 0.1], [0.1, 0.0, 0.0]])
    alone = ConceptPresence(texts, ["artefact"] * 3)
    assert alone(sample)[:, 0].tolist() == [True] * 5
    presence = ConceptPresence(texts, ["artefact"] * 3, sample=sample)
    assert presence(sample)[:, 0].tolist() == [True, True, False, False, False]


def test_texts_of_equal_similarity_are_present_together():
    presence = ConceptPresence(np.array([[1.0, 0], [1.0, 0], [0, 1.0]]), ["scene"] * 3, tolerance=0.0)
    assert presence(np.array([[0.8, 0.6]])).tolist() == [[True, True, False]]


def test_a_text_without_rivals_is_cut_by_the_sample():
    texts = np.eye(3)
    sample = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.9], [0.1, 0.9, 0.8], [0.1, 0.9, 0.1]])
    presence = ConceptPresence(texts, ["scene", "scene", "artefact"], sample=sample)
    assert presence(sample)[:, 2].tolist() == [False, False, True, True, False]
    assert presence(sample)[:, 0].tolist() == [True, False, True, False, False]


def test_other_excludes_nothing():
    texts = np.eye(2)
    sample = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    sample = np.concatenate([sample, np.full((4, 1), 0.0)], axis=1)
    texts = np.concatenate([np.eye(2), np.zeros((2, 1))], axis=1)
    several = np.vstack([texts, [[0, 0, 1.0]] * 9])  # a bank in which two texts do not move the mean much
    presence = ConceptPresence(several, ["other"] * 2 + ["scene"] * 9, sample=sample)
    assert presence(sample)[:, :2].tolist() == [[True, True], [False, False], [True, False], [False, True]]


def test_a_text_without_rivals_needs_a_sample():
    with pytest.raises(ConfigError, match="needs a sample"):
        ConceptPresence(np.eye(3), ["scene", "scene", "artefact"])


def test_presence_does_not_hang_on_the_block():
    draw = np.random.default_rng(11)
    texts, images = (
        draw.normal(size=(17, 13)).astype(np.float32),
        draw.normal(size=(101, 13)).astype(np.float16),
    )
    presence = ConceptPresence(texts, (["scene", "colour"] * 9)[:17])
    whole = presence(images)
    np.testing.assert_array_equal(np.vstack([presence(part) for part in np.array_split(images, 7)]), whole)
    best = [np.argmax((images[i].astype(float) @ texts.T.astype(float))[::2]) for i in range(101)]
    assert all(whole[i, 2 * best[i]] for i in range(101))


def test_otsu_by_hand_and_against_its_twin():
    assert otsu(np.array([0.0, 0.1, 0.0, 5.0, 5.2])) == 5.0
    assert otsu(np.array([2.0, 2.0, 2.0])) == np.inf
    assert otsu(np.array([2.0])) == np.inf
    for seed in range(5):
        values = np.random.default_rng(seed).normal(size=23).round(1)
        assert otsu(values) == slow.cut_in_two(values)


def test_of_many_other_texts_an_image_shows_only_those_that_stand_out():
    """Ten texts that nothing excludes; each image holds two, and all share a component that makes all
    near.
    """
    rng = np.random.default_rng(2)
    texts = np.linalg.qr(rng.normal(size=(16, 11)))[0].T  # ten meanings and what all share
    shown = np.zeros((300, 10), bool)
    for row in shown:
        row[rng.choice(10, 2, replace=False)] = True
    images = shown @ texts[:10] + 2 * texts[10] + 0.05 * rng.normal(size=(300, 16))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    named = texts[:10] + texts[10]
    presence = ConceptPresence(named / np.sqrt(2), ("other",) * 10, sample=images)
    found = presence(images)
    assert (found.sum(1) <= 5).all()
    assert found[shown].mean() > 0.98
    assert found[~shown].mean() < 0.05


def pictures_of(shown: np.ndarray, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Texts (T, 17) and unit embeddings (n, 17) of images that hold ``shown`` (n, T) and what all share."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(17, 17)))[0]
    images = shown @ axes[: shown.shape[1]] + 2 * axes[-1] + noise * rng.normal(size=(len(shown), 17))
    return axes[: shown.shape[1]], images / np.linalg.norm(images, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["colour", "other"])
def test_where_many_of_a_kind_are_shown_at_once_they_do_not_compete(kind):
    shown = np.random.default_rng(3).random((300, 12)) < 0.5
    texts, images = pictures_of(shown, 0.03)
    found = ConceptPresence(texts, [kind] * 12, sample=images)(images)
    assert (shown.sum(1) > 6).any()
    assert found[shown].mean() > 0.98
    assert found[~shown].mean() < 0.02


def test_where_one_of_a_kind_is_shown_at_a_time_they_compete():
    shown = np.eye(7, dtype=bool)[np.random.default_rng(4).integers(7, size=300)]
    texts, images = pictures_of(shown, 0.3)
    assert not free_texts(images @ texts.T, np.array([otsu(one) for one in texts @ images.T])).any()
    assert ConceptPresence(texts, ["colour"] * 7, tolerance=0.0, sample=images)(images).sum(1).max() == 1


def test_a_text_that_no_image_shows_stays_a_rival_of_those_that_are_free():
    shown = np.random.default_rng(5).random((300, 6)) < 0.5
    shown[:, 5] = False
    texts, images = pictures_of(shown, 0.03)
    free = free_texts(images @ texts.T, np.array([otsu(one) for one in texts @ images.T]))
    assert free.tolist() == [True] * 5 + [False]
    assert ConceptPresence(texts, ["colour"] * 6, sample=images)(images)[:, 5].mean() < 0.1


def test_between_levels_by_hand():
    assert between_levels(np.array([0.0, 0.0, 1.0, 1.0]), 1.0) == 1.0
    assert between_levels(np.array([0.0, 1.0, 2.0, 3.0]), 2.0) == pytest.approx(0.8)
    assert between_levels(np.array([1.0, 2.0]), 3.0) == between_levels(np.array([1.0, 1.0]), 0.0) == 0.0
