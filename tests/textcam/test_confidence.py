"""Confidences: signs against a slow twin, curves by hand, and low where there is nothing to name."""

import numpy as np
import pytest

from store.errors import ConfigError
from textcam import confidence
from textcam.confidence import Curve, explanation_signs, group_confidence, presence_signs
from textcam.names import NamingSums, half_of, name_channels, ridge_naming, surer_by_ridge
from textcam.select import Selection

TEXTS, CHANNELS, DIM = 11, 7, 13


def world(n: int = 501, noise: float = 0.3, seed: int = 3):
    """Ids, presence (n, T), activations (n, K) that follow texts 0 to 6 in turn, embeddings and texts."""
    rng = np.random.default_rng(seed)
    texts = np.linalg.qr(rng.normal(size=(DIM, TEXTS)))[0].T.astype(np.float32)
    present = rng.random((n, TEXTS)) < 0.3
    pooled = np.maximum(present[:, :CHANNELS] + noise * rng.normal(size=(n, CHANNELS)), 0).astype(np.float32)
    embeddings = present @ texts + 0.2 * rng.normal(size=(n, DIM))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return rng.permutation(10**6)[:n].astype(np.int64), present, pooled, embeddings.astype(np.float32), texts


def sums_of(ids, present, pooled, embeddings) -> NamingSums:
    made = NamingSums(TEXTS, pooled.shape[1], DIM)
    made.update(ids, present, pooled, embeddings)
    return made


def slow_signs(ids, present, pooled, sums: NamingSums, known) -> np.ndarray:
    """One channel at a time, from the images themselves."""
    second = half_of(ids)
    coefficients = sums.all_presence().coefficients()
    made = []
    for channel, b in enumerate(coefficients):
        a = pooled[:, channel].astype(float)
        held = 0.0
        for half, others in ((0, second), (1, ~second)):
            fitted = sums.presence[half].coefficients()[channel]
            seen = present[others] / present[others].std(0)
            held += np.corrcoef(seen @ fitted, a[others])[0, 1] / 2
        r = np.array([np.corrcoef(present[:, t], a)[0, 1] for t in range(TEXTS)])
        first = int(b.argmax())
        lead = r[first] - max(np.delete(r, first).max(), 0)
        root = len(ids) ** 0.5
        held = max(held, 0)
        part = held / max(known[channel], held) if held else 0
        made.append([min(root * held, 8) * part, np.log1p(min(root * max(lead, 0), 8))])
    return np.array(made)


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_signs_are_those_of_the_slow_twin(noise: float) -> None:
    ids, present, pooled, embeddings, texts = world(noise=noise)
    pooled = (np.rint(pooled * 2**15) / 2**15).astype(np.float32)
    sums = sums_of(ids, present, pooled, embeddings)
    whole = sums.all_presence()
    known = ridge_naming(sums, texts)[2]
    made = presence_signs(sums.presence, whole, whole.coefficients(), known)
    assert np.allclose(made, slow_signs(ids, present, pooled, sums, known), atol=2e-4)


def test_right_names_are_sure_and_names_of_shuffled_activations_are_not() -> None:
    ids, present, pooled, embeddings, texts = world()
    right = name_channels(sums_of(ids, present, pooled, embeddings), texts)
    assert (right.coefficients.argmax(1) == np.arange(CHANNELS)).all()
    assert (right.confidence > 0.8).all()
    shuffled = pooled[np.random.default_rng(0).permutation(len(pooled))]
    wrong = name_channels(sums_of(ids, present, shuffled, embeddings), texts)
    assert (wrong.confidence < confidence.UNSURE).mean() >= 0.8
    assert wrong.confidence.mean() < 0.4


def test_a_channel_that_never_varies_has_no_name_and_no_confidence() -> None:
    ids, present, pooled, embeddings, texts = world()
    pooled[:, 4] = 0.5
    names = name_channels(sums_of(ids, present, pooled, embeddings), texts)
    assert not names.coefficients[4].any()
    assert names.confidence[4] == 0
    assert names.confidence[3] > 0.8


def test_ridge_is_heard_where_presence_cannot_be_decided() -> None:
    ids, _, pooled, embeddings, texts = world(2003)
    nothing = np.random.default_rng(1).random((len(ids), TEXTS)) < 0.3  # presence gone astray
    sums = sums_of(ids, nothing, pooled, embeddings)
    alone, both = name_channels(sums, texts, ridge=False), name_channels(sums, texts)
    assert (both.coefficients.argmax(1) == np.arange(CHANNELS)).all()
    assert both.by_ridge.all()
    assert (both.confidence >= alone.confidence).all()
    assert not alone.by_ridge.any()
    assert (ridge_naming(sums, texts)[0].argmax(1) == np.arange(CHANNELS)).all()


def test_the_surer_way_is_heard_by_channel_or_by_all() -> None:
    first, second = np.array([0.6, 0.9, 0.5, 0.0]), np.array([0.65, 0.95, 0.4, 0.0])
    assert surer_by_ridge(first, second).tolist() == [True, False, False, False]
    second = np.array([0.85, 0.98, 0.85, 0.0])  # more than .15 on the mean: all that it has a text for
    assert second.mean() > first.mean() + 0.15
    assert surer_by_ridge(first, second).tolist() == [True, True, True, False]


def test_order_and_merges_do_not_matter() -> None:
    ids, present, pooled, embeddings, texts = world()
    rows = np.array_split(np.random.default_rng(2).permutation(len(ids)), 3)
    parts = [sums_of(ids[one], present[one], pooled[one], embeddings[one]) for one in rows]
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    one, other = (
        name_channels(sums_of(ids, present, pooled, embeddings), texts),
        name_channels(parts[2], texts),
    )
    assert (one.coefficients == other.coefficients).all()
    assert (one.confidence == other.confidence).all()
    with pytest.raises(ConfigError):
        parts[0].merge(NamingSums(TEXTS + 1, CHANNELS, DIM))


def test_curves_by_hand() -> None:
    curve = Curve((1.0, 2.0), -1.0)
    made = curve(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1e9, 0.0]]))
    assert np.allclose(made, [1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-1)), 1.0], atol=1e-6)
    for name in ("PRESENCE", "RIDGE", "GROUP", "EXPLANATION", "CLASS"):
        assert min(getattr(confidence, name).weights) >= 0, f"{name} must rise with each sign"


def test_signs_of_explanations_by_hand() -> None:
    sure = np.array([1.0, 0.0, 0.5], np.float32)
    contributions = np.array([[2, 1, 1], [-1, -1, -1], [0, 3, -9]], np.float32)
    words = Selection(
        np.array([[4, 2], [-1, -1], [1, -1]]),
        np.array([[2.0, 0.5], [0, 0], [3.0, 0]], np.float32),
        np.zeros((3, 2), np.float32),
    )
    assert np.allclose(explanation_signs(contributions, sure, words), [[2.5 / 4, 0.75], [0, 0], [0, 1]])
    assert confidence.explanation_confidence(contributions, sure, words)[1] == 0


def test_groups_count_their_channels() -> None:
    sure = np.array([0.9, 0.7, 0.2], np.float32)
    made = group_confidence(sure, np.array([3, 5, 3]), np.array([0, 0, 1]), np.array([3, 3, -1])[:2])
    wanted = confidence.GROUP(np.array([[0.8, 0.45], [0.2, 0.2]]))
    assert np.allclose(made, wanted)
    assert group_confidence(sure, np.array([3, 5, 3]), np.zeros(3, int), np.array([-1]))[0] == 0
