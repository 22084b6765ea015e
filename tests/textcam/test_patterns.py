"""Scores of patterns: the likelihood written out, and when which slack is right."""

import numpy as np
import pytest

from textcam.accumulate import Moments
from textcam.patterns import pattern_scores

CHANNELS, TEXTS, DIM = 5, 17, 7


def moments_of(pooled: np.ndarray, embeddings: np.ndarray) -> Moments:
    made = Moments(pooled.shape[1], embeddings.shape[1])
    made.update(pooled, embeddings)
    return made


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(211, DIM)) * np.geomspace(1, 0.1, DIM)
    embeddings = np.rint(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) * 2**10) / 2**10
    pooled = np.rint(np.abs(rng.normal(size=(211, CHANNELS))) * 2**10) / 2**10
    texts = rng.normal(size=(TEXTS, DIM))
    return pooled, embeddings, texts / np.linalg.norm(texts, axis=1, keepdims=True)


@pytest.mark.parametrize("slack", [0.03, 1.0, 300.0])
def test_is_the_best_amount_in_units_of_its_error(slack: float) -> None:
    """Generalised least squares of each pattern on each text alone, one at a time."""
    pooled, embeddings, texts = world()
    covariance = np.cov(embeddings.T, bias=True)
    noise = covariance + slack * np.trace(covariance) / DIM * np.eye(DIM)
    made = pattern_scores(moments_of(pooled.astype(np.float32), embeddings), texts, slack)
    for channel, a in enumerate(pooled.T):
        pattern = np.array([np.cov(one, a, bias=True)[0, 1] for one in embeddings.T]) / a.std()
        for at, x in enumerate(texts):
            weight = np.linalg.inv(noise)
            amount = x @ weight @ pattern / (x @ weight @ x)
            error = (x @ weight @ x) ** -0.5
            assert made[channel, at] == pytest.approx(amount / error, rel=1e-4, abs=1e-6)


def test_noise_of_images_is_taken_out_by_small_slack() -> None:
    """Images vary much along one axis that no channel means: from few images, the pattern strays along it."""
    right = {0.03: 0, 300.0: 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shown = rng.random((60, 6)) < 0.3
        texts = np.linalg.qr(rng.normal(size=(9, 9)))[0]
        embeddings = 0.1 * shown @ texts[:6] + rng.normal(size=(60, 1)) * texts[8] * 0.5
        embeddings += 0.02 * rng.normal(size=embeddings.shape)
        bank = np.vstack([texts[:6], (texts[8] + 0.3 * texts[7]) / np.hypot(1, 0.3)])
        found = moments_of(shown.astype(np.float32), embeddings)
        for slack in right:
            right[slack] += int((pattern_scores(found, bank, slack).argmax(axis=1) == np.arange(6)).sum())
    assert right[0.03] > 1.2 * right[300.0]


def test_constant_channels_and_zero_texts_score_nothing() -> None:
    pooled, embeddings, texts = world()
    pooled[:, 2] = 0.5
    texts[3] = 0
    made = pattern_scores(moments_of(pooled.astype(np.float32), embeddings), texts, 1.0)
    assert not made[2].any()
    assert not made[:, 3].any()
    assert np.isfinite(made).all()
