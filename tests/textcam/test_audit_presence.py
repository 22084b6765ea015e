import numpy as np
import pytest

from store.errors import ConfigError, SchemaMismatch
from textcam.presence import STEPS, ConceptCounts, ConceptPresence
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


def pictures_of(shown: np.ndarray, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Texts (T, 17) and unit embeddings (n, 17) of images that hold ``shown`` (n, T) and what all share."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(17, 17)))[0]
    images = shown @ axes[: shown.shape[1]] + 2 * axes[-1] + noise * rng.normal(size=(len(shown), 17))
    return axes[: shown.shape[1]], images / np.linalg.norm(images, axis=1, keepdims=True)


@pytest.mark.parametrize("share", [0.02, 0.15, 0.5, 0.7])
def test_what_is_rare_and_what_is_common_is_found(share):
    shown = np.random.default_rng(3).random((600, 12)) < share
    texts, images = pictures_of(shown, 0.03)
    found = ConceptPresence(texts, sample=images)(images)
    assert found[shown].mean() > 0.97
    assert found[~shown].mean() < 0.02


def test_a_narrow_text_and_its_broader_neighbour_are_present_together():
    """Of the dogs some are shepherd dogs: there the narrow text is nearer, and the broad one present."""
    rng = np.random.default_rng(6)
    dog = rng.random(800) < 0.25
    shepherd = dog & (rng.random(800) < 0.3)
    others = rng.random((800, 9)) < 0.15
    axes = np.linalg.qr(rng.normal(size=(17, 17)))[0]
    texts = np.vstack([axes[0], (axes[0] + axes[1]) / np.sqrt(2), axes[2:11]])
    images = np.outer(dog, axes[0]) + np.outer(shepherd, axes[1]) + others @ axes[2:11] + 2 * axes[-1]
    images = images + 0.1 * rng.normal(size=images.shape)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    found = ConceptPresence(texts, sample=images)(images)
    assert found[dog, 0].mean() > 0.95
    assert found[shepherd, :2].all(axis=1).mean() > 0.95
    assert found[~dog, 0].mean() < 0.05


def test_a_hub_takes_nothing_from_other_texts():
    """One text is raised in every image alike: by raw cosine it would be the nearest everywhere."""
    shown = np.random.default_rng(4).random((500, 6)) < 0.2
    texts, images = pictures_of(shown, 0.03)
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(17, 17)))[0]
    hub = axes[5] + 2 * axes[-1]
    texts = np.vstack([texts[:5], hub / np.linalg.norm(hub)])
    assert ((images @ texts.T).argmax(axis=1) == 5).mean() > 0.9
    found, others = ConceptPresence(texts, sample=images)(images)[:, :5], shown[:, :5]
    assert found[others].mean() > 0.97
    assert found[~others].mean() < 0.03


def test_probabilities_are_whole_steps_and_half_is_the_cut():
    shown = np.random.default_rng(5).random((400, 6)) < 0.3
    texts, images = pictures_of(shown, 0.25)
    presence = ConceptPresence(texts, sample=images)
    made = presence.probability(images)
    assert (made * STEPS == np.rint(made * STEPS)).all()
    assert made.min() >= 0
    assert made.max() <= 1
    assert ((made > 0.02) & (made < 0.98)).any()
    np.testing.assert_array_equal(presence(images), made > 0.5)


def test_a_text_that_all_images_show_alike_tells_nothing():
    shown = np.random.default_rng(5).random((300, 6)) < 0.5
    texts, images = pictures_of(shown, 0.0)
    same = np.repeat(images[:1], 50, axis=0)
    assert not ConceptPresence(texts, sample=same)(same).any()


def test_presence_needs_a_sample():
    with pytest.raises(ConfigError, match="needs a sample"):
        ConceptPresence(np.eye(3), sample=np.zeros((0, 3)))
    with pytest.raises(ConfigError, match="sample has shape"):
        ConceptPresence(np.eye(3), sample=np.zeros((5, 4)))


def test_presence_does_not_hang_on_the_block():
    draw = np.random.default_rng(11)
    texts, images = (
        draw.normal(size=(17, 13)).astype(np.float32),
        draw.normal(size=(101, 13)).astype(np.float16),
    )
    presence = ConceptPresence(texts, sample=images)
    whole = presence.probability(images)
    parts = [presence.probability(part) for part in np.array_split(images, 7)]
    np.testing.assert_array_equal(np.vstack(parts), whole)
