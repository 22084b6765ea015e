"""Confidences: signs against a slow twin, curves by hand, and low where there is nothing to name."""

import numpy as np
import pytest

from textcam import confidence
from textcam.confidence import Curve, explanation_signs, group_confidence, name_signs
from textcam.names import NamingSums
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


def test_signs_of_names_by_hand() -> None:
    texts = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 1.0, 0], [0, 0, 1.0]])
    scores = np.array([[4.0, 3.0, 1.0, 2.0], [0.0, 1.0, 2.0, 0.5]])
    standing, told, known = np.array([3.0, -9.0]), np.array([0.4, 0.6]), np.array([0.8, 0.3])
    made = name_signs(scores, standing, texts, told, known)
    chance = np.sqrt(2 * np.log(4))
    # Of the first, text 1 means nearly the same, so text 3 is next; of the second, text 1 is too near text 2.
    assert made[0] == pytest.approx([3 - chance, 0.5, np.log(5)])
    assert made[1] == pytest.approx([-6, 0.75, np.log(10)])


def test_curves_by_hand() -> None:
    curve = Curve((1.0, 2.0), -1.0)
    made = curve(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1e9, 0.0]]))
    assert np.allclose(made, [1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-1)), 1.0], atol=1e-6)
    for name in ("NAME", "GROUP", "EXPLANATION", "CLASS"):
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
