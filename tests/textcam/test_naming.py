"""Presence regression, against the formula written out and on a case that is decided by hand."""

import numpy as np
import pytest
from scipy.optimize import nnls

from store.errors import ConfigError
from textcam.naming import FEWEST, PresenceMoments, foretelling_shrinkage, named_directions


def world(n: int = 211, texts: int = 5, channels: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    present = rng.random((n, texts)) < (0.1, 0.3, 0.5, 0.7, 0.2)[:texts]
    pooled = np.maximum(
        present @ rng.normal(size=(texts, channels)) + 0.3 * rng.normal(size=(n, channels)), 0
    )
    return present, (np.rint(pooled * 2**15) / 2**15).astype(np.float32)


def slow_scores(present: np.ndarray, pooled: np.ndarray, shrinkage: float) -> np.ndarray:
    """The regression one channel at a time, on standardised columns."""
    p = (present - present.mean(0)) / present.std(0)
    made = []
    for a in pooled.T.astype(float):
        z = (a - a.mean()) / a.std()
        left = (1 - shrinkage) * p.T @ p / len(p) + shrinkage * np.eye(p.shape[1])
        made.append(np.linalg.inv(left) @ (p.T @ z / len(p)))
    return np.array(made)


def test_agrees_with_the_formula() -> None:
    present, pooled = world()
    moments = PresenceMoments(5, 7)
    moments.update(present, pooled)
    assert np.allclose(moments.scores(0.1), slow_scores(present, pooled, 0.1), atol=1e-6)


def test_any_order_and_any_merge_give_the_same_bits() -> None:
    present, pooled = world()
    whole = PresenceMoments(5, 7)
    whole.update(present, pooled)
    parts = [PresenceMoments(5, 7) for _ in range(3)]
    order = np.random.default_rng(0).permutation(len(present))
    for part, rows in zip(parts, np.array_split(order, 3), strict=True):
        part.update(present[rows], pooled[rows])
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    assert (parts[2].scores() == whole.scores()).all()
    assert parts[2].images == len(present)


def test_the_rare_images_that_show_only_one_of_two_decide() -> None:
    rng = np.random.default_rng(1)
    cause = rng.random(2000) < 0.5
    companion = np.where(rng.random(2000) < 0.97, cause, ~cause)
    pooled = np.stack([cause + 0.1 * rng.random(2000), rng.random(2000)], 1).astype(np.float32)
    moments = PresenceMoments(2, 2)
    moments.update(np.stack([cause, companion], 1), pooled)
    alone = moments.correlations()[1][:, 0]
    assert alone.min() > 0.9, "alone, both texts go with the channel"
    together = moments.scores()[0]
    assert together[1] < 0.35 * together[0]


def test_texts_that_hardly_vary_and_channels_that_do_not_score_zero() -> None:
    present = np.zeros((100, 3), bool)
    present[: FEWEST - 1, 0] = True
    present[:50, 1] = True
    present[:, 2] = True
    pooled = np.stack([present[:, 0], present[:, 1], np.ones(100)], 1).astype(np.float32)
    moments = PresenceMoments(3, 3)
    moments.update(present, pooled)
    scores = moments.scores()
    assert (scores[:, [0, 2]] == 0).all()
    assert (scores[2] == 0).all()
    assert scores[1, 1] > 0.9


def test_refuses_what_it_cannot_use() -> None:
    moments = PresenceMoments(2, 1)
    with pytest.raises(ConfigError, match="NaN"):
        moments.update(np.ones((1, 2), bool), np.full((1, 1), np.nan, np.float32))
    with pytest.raises(ConfigError, match="Shrinkage"):
        moments.scores(0.0)
    with pytest.raises(ConfigError, match="merged"):
        moments.merge(PresenceMoments(3, 1))


@pytest.mark.parametrize("sparsity", [0.0, 0.3])
def test_coefficients_are_those_of_a_slow_solver(sparsity: float) -> None:
    present, pooled = world()
    moments = PresenceMoments(5, 7)
    moments.update(present, pooled)
    between, with_channels = moments.correlations()
    root = np.linalg.cholesky(0.9 * between + 0.1 * np.eye(5))
    for made, linear in zip(
        moments.coefficients(shrinkage=0.1, sparsity=sparsity), with_channels.T, strict=True
    ):
        wanted = nnls(root.T, np.linalg.solve(root, linear - sparsity * max(linear.max(), 0)))[0]
        assert np.allclose(made, wanted, atol=1e-5)
        assert (made >= 0).all()


def test_a_channel_that_goes_with_no_text_has_no_coefficients() -> None:
    rng = np.random.default_rng(5)
    present = rng.random((400, 3)) < 0.4
    pooled = np.stack([1.0 - present[:, 0], present[:, 0]], 1).astype(np.float32)
    pooled[:, 0] -= 0.5 * (present[:, 1] | present[:, 2])
    moments = PresenceMoments(3, 2)
    moments.update(present, pooled)
    against, along = moments.coefficients()
    assert not against.any()
    assert along[0] > 0.7
    assert (along[1:] < 0.1).all()


def test_directions_of_names_by_hand() -> None:
    texts = np.eye(3, dtype=np.float32)
    coefficients = np.array([[2, 0, 0], [0, 0, 0], [1, 1, 0]], np.float32)
    made = named_directions(coefficients, texts)
    assert np.allclose(made[0], np.array([2, -1, -1]) / 6**0.5, atol=1e-6)
    assert (made[1] == 0).all()
    assert np.allclose(made[2], np.array([1, 1, -2]) / 6**0.5, atol=1e-6)


def test_effects_are_the_regression_of_the_logits() -> None:
    """With hardly any shrinkage: least squares of each logit on the presence of all texts at once."""
    present, pooled = world()
    head = np.random.default_rng(4).normal(size=(3, 7)).astype(np.float32)
    moments = PresenceMoments(5, 7)
    moments.update(present, pooled)
    given = np.column_stack([present, np.ones(len(present))])
    wanted = np.linalg.lstsq(given, pooled @ head.T, rcond=None)[0][:5].T
    assert np.allclose(moments.effects(head, 1e-9), wanted, atol=1e-4)


def test_the_shrinkage_that_foretells_best_by_the_slow_way() -> None:
    present, pooled = world(97, 5, 3)
    halves = tuple(PresenceMoments(5, 3) for _ in range(2))
    parts = (slice(0, 50), slice(50, 97))
    for half, rows in zip(halves, parts, strict=True):
        half.update(present[rows], pooled[rows])
    amounts = (0.02, 0.3, 0.9)

    def foretold(amount: float) -> float:
        total = 0.0
        for fitted, judge in (parts, parts[::-1]):
            b = slow_scores(present[fitted], pooled[fitted], amount)
            seen = present[judge] / present[judge].std(axis=0)
            total += np.mean(
                [np.corrcoef(seen @ one, a)[0, 1] for one, a in zip(b, pooled[judge].T, strict=True)]
            )
        return total

    assert foretelling_shrinkage(halves, amounts) == max(amounts, key=foretold)


def test_probabilities_count_by_their_amount() -> None:
    rng = np.random.default_rng(2)
    steps = rng.integers(0, 257, size=(150, 4)) / 256
    pooled = (np.rint(rng.random((150, 3)) * 2**15) / 2**15).astype(np.float32)
    moments = PresenceMoments(4, 3)
    moments.update(steps, pooled)
    between, with_channels = moments.correlations()
    assert np.allclose(between, np.corrcoef(steps.T), atol=1e-9)
    both = np.corrcoef(np.hstack([steps, pooled]).T)
    assert np.allclose(with_channels, both[:4, 4:], atol=1e-9)
    assert np.allclose(moments.presence_spread, steps.std(axis=0), atol=1e-12)
    with pytest.raises(ConfigError, match="Probabilities"):
        moments.update(steps + 1, pooled)
