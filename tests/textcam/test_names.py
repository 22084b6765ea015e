"""Names of channels: two questions and how they are weighed, on worlds whose answers are known."""

import numpy as np
import pytest

from store.errors import ConfigError
from tests.textcam.test_confidence import CHANNELS, DIM, TEXTS, sums_of, world
from textcam import confidence
from textcam.names import (
    HEARD,
    LEAST,
    WORDS,
    Answer,
    NamingSums,
    ask,
    few_texts,
    foretold,
    name_channels,
    standardised,
    told_by_first,
    weigh,
)


def test_right_names_are_sure_and_names_of_shuffled_activations_are_not() -> None:
    ids, present, pooled, embeddings, texts = world()
    right = name_channels(sums_of(ids, present, pooled, embeddings), texts)
    assert (right.first == np.arange(CHANNELS)).all()
    shuffled = pooled[np.random.default_rng(0).permutation(len(pooled))]
    wrong = name_channels(sums_of(ids, present, shuffled, embeddings), texts)
    assert right.confidence.min() > wrong.confidence.max()
    assert wrong.confidence.mean() < confidence.UNSURE
    assert right.confidence.mean() > 0.7


def test_a_channel_that_never_varies_has_no_name_and_no_confidence() -> None:
    ids, present, pooled, embeddings, texts = world()
    pooled[:, 4] = 0.5
    names = name_channels(sums_of(ids, present, pooled, embeddings), texts)
    assert not names.coefficients[4].any()
    assert names.first[4] == -1
    assert names.confidence[4] == 0
    assert names.confidence[3] > confidence.UNSURE


def test_patterns_are_heard_where_presence_cannot_be_decided() -> None:
    ids, _, pooled, embeddings, texts = world(2003)
    astray = np.random.default_rng(1).random((len(ids), TEXTS)) < 0.3
    names = name_channels(sums_of(ids, astray, pooled, embeddings), texts)
    assert (names.first == np.arange(CHANNELS)).all()
    assert names.weights[1] > 0.95
    alone = name_channels(sums_of(ids, astray, pooled, embeddings), texts, ways=("presence",))
    assert (alone.first == np.arange(CHANNELS)).mean() < 0.5
    assert alone.weights[1] == 0


def test_presence_keeps_apart_what_mostly_comes_together() -> None:
    """Text 1 comes with text 0 in nearly all images; the channel follows text 0, and so does its pattern."""
    rng = np.random.default_rng(8)
    ids, present, _, _, texts = world(1501)
    present[:, 1] = np.where(rng.random(len(ids)) < 0.95, present[:, 0], ~present[:, 0])
    pooled = np.maximum(present[:, :CHANNELS] + 0.2 * rng.normal(size=(len(ids), CHANNELS)), 0).astype(
        np.float32
    )
    embeddings = present @ texts + 0.1 * rng.normal(size=(len(ids), DIM))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    sums = sums_of(ids, present, pooled, embeddings)
    names, answers = name_channels(sums, texts), ask(sums, texts)
    assert names.first[:2].tolist() == [0, 1]
    assert names.weights[0] > 0.6
    assert names.coefficients[0, 1] == 0
    by_presence, by_pattern = answers["presence"].amounts[0], answers["pattern"].amounts[0]
    assert by_presence[1] < 0.1 * by_presence[0]
    assert by_pattern[1] > 0.3 * by_pattern[0]


def test_standing_is_what_the_other_half_says_of_the_first() -> None:
    one = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    other = np.array([[2.5, 0.0, 1.0], [1.0, -0.5, 4.0]])
    # row 0: both put text 0 first; row 1: one puts 1 first, the other 2
    assert Answer(one, (one, other), one).standing == pytest.approx([(3.0 + 2.5) / 2, (1.0 - 0.5) / 2])


def test_weights_by_hand() -> None:
    assert weigh({"presence": 1.0, "pattern": 2.0}) == pytest.approx([0.2, 0.8])
    assert weigh({"presence": 2.0, "pattern": 2.0}) == pytest.approx([1.0, 0.0])
    assert weigh({"presence": -1.0, "pattern": 2.0}) == pytest.approx([0.0, 1.0])
    half = 1 - (1 - HEARD) / 2  # halfway between being heard in full and not at all
    square = half**2
    assert weigh({"presence": half, "pattern": 1.0}) == pytest.approx(
        [square / (square + 0.5), 0.5 / (square + 0.5)]
    )
    assert weigh({"presence": 0.0, "pattern": 0.0}) == pytest.approx([0.0, 0.0])


def test_few_texts_by_hand() -> None:
    scores = np.array([[1.0, 4.0, 3.0, 2.0], [-1.0, -2.0, -3.0, -4.0]])
    presence = np.array([[0.0, 1.0, 0.0, 0.9], [0.0, 0.0, 0.0, 0.0]])
    pattern = np.array([[0.1, 2.0, 1.8, 1.0], [0.0, 0.0, 0.0, 0.0]])
    made = few_texts(scores, (presence, pattern), np.array([0.9, 0.1]))
    # text 2 is worth .1 * .9 = .09, text 3 .9 * .9 + .1 * .5 = .86; each is said with its score
    assert made[0].tolist() == [0.0, 1.0, 0.0, 0.5]
    assert not made[1].any()
    assert LEAST < 0.86
    many = few_texts(np.arange(20.0, 0, -1)[None], (np.ones((1, 20)),), np.ones(1))
    assert np.count_nonzero(many) == WORDS


def test_what_is_told_and_known_by_the_slow_way() -> None:
    ids, present, pooled, embeddings, texts = world()
    pooled = np.rint(pooled * 2**10).astype(np.float32) / 2**10
    sums = sums_of(ids, present, pooled, embeddings)
    first = np.array([3, 0, 2, 5, 4, 6, 1])
    made = told_by_first(sums, texts.astype(np.float64), first)
    for channel, text in enumerate(first):
        a = pooled[:, channel]
        by_presence = np.corrcoef(present[:, text], a)[0, 1]
        by_similarity = np.corrcoef(embeddings @ texts[text], a)[0, 1]
        assert made[channel] == pytest.approx(max(by_presence, by_similarity), abs=2e-3)
    known = foretold(sums.embeddings)
    assert (known > 0.7).all()
    astray = pooled[np.random.default_rng(0).permutation(len(pooled))]
    assert np.abs(foretold(sums_of(ids, present, astray, embeddings).embeddings)).max() < 0.3


def test_the_lightest_shrinkage_that_stands_is_taken() -> None:
    """Few noisy images ask for heavy shrinkage, many clean ones for light: presence by far more texts than
    images.
    """
    rng = np.random.default_rng(4)
    present = rng.random((120, 90)) < 0.4
    present[:, 45:] = np.where(rng.random((120, 45)) < 0.9, present[:, :45], ~present[:, :45])
    pooled = (present[:, :5] + 0.8 * rng.normal(size=(120, 5))).clip(0).astype(np.float32)
    sums = NamingSums(90, 5, 6)
    sums.update(rng.permutation(10**6)[:120], present, pooled, rng.normal(size=(120, 6)) / 3)
    texts = np.eye(90, 6) + 0.01
    found = ask(sums, texts, ("presence",))["presence"]
    heaviest = standardised(sums.all_presence().scores(0.99))
    lightest = standardised(sums.all_presence().scores(0.02))
    assert not np.allclose(found.whole, lightest)
    assert np.corrcoef(found.whole.ravel(), heaviest.ravel())[0, 1] > 0.9


def test_order_and_merges_do_not_matter() -> None:
    ids, present, pooled, embeddings, texts = world()
    rows = np.array_split(np.random.default_rng(2).permutation(len(ids)), 3)
    parts = [sums_of(ids[one], present[one], pooled[one], embeddings[one]) for one in rows]
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    one = name_channels(sums_of(ids, present, pooled, embeddings), texts)
    other = name_channels(parts[2], texts)
    assert (one.coefficients == other.coefficients).all()
    assert (one.confidence == other.confidence).all()
    with pytest.raises(ConfigError):
        parts[0].merge(NamingSums(TEXTS + 1, CHANNELS, DIM))
