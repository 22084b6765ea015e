"""Texts without what they share: against the formula written out, and what it is for."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from textcam.comparable import EVENNESS, comparable_texts


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("texts", "dim"), [(29, 11), (7, 13), (2, 5)])
def test_is_the_formula(texts: int, dim: int) -> None:
    rng = np.random.default_rng(texts)
    bank = unit(rng.normal(size=(texts, dim)) + 2 * rng.normal(size=dim))
    rest = unit(np.array([one - (1 - 1 / texts) * bank.mean(axis=0) for one in bank]))
    second = sum(np.outer(one, one) for one in rest) / texts
    even = (1 - EVENNESS) * second + EVENNESS * np.trace(second) / dim * np.eye(dim)
    wanted = unit(rest @ np.linalg.inv(np.real(sqrtm(even))))
    np.testing.assert_allclose(comparable_texts(bank), wanted, atol=1e-8)


def test_one_text_alone_keeps_its_direction() -> None:
    text = unit(np.array([[3.0, 4.0, 0.0]]))
    np.testing.assert_allclose(comparable_texts(text), text, atol=1e-12)


def test_directions_in_which_many_texts_lie_weigh_less() -> None:
    """Forty texts along one axis and four along others: a hub between is no longer near everything."""
    rng = np.random.default_rng(2)
    axes = np.eye(12)
    many = axes[0] * rng.choice([-1, 1], size=(40, 1)) + 0.3 * rng.normal(size=(40, 12))
    bank = unit(np.vstack([many, axes[1:5]]))
    made = comparable_texts(bank)
    before = unit(bank - bank.mean(axis=0))
    assert np.abs(made[:40] @ made[:40].T).mean() < 0.8 * np.abs(before[:40] @ before[:40].T).mean()


def test_equal_texts_stay_equal_and_zeros_zero() -> None:
    bank = unit(np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]]))
    made = comparable_texts(bank)
    np.testing.assert_array_equal(made[0], made[1])
    assert comparable_texts(np.zeros((0, 4))).shape == (0, 4)
