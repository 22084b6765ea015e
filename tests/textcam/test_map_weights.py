"""Weights of a map drawn elsewhere: planted ones come back, and what is in no sum of the maps stays over."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from store.errors import ConfigError, SchemaMismatch
from textcam.map_weights import weights_of_map

K, H, W = 13, 5, 7
rng = np.random.default_rng(3)
MAPS = np.maximum(rng.standard_normal((K, H, W)), 0).astype(np.float32)
PLANTED = np.where(np.arange(K) % 3 == 0, 0.0, rng.uniform(0.5, 3, K)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_planted_weights_come_back(scale):
    weights, residual = weights_of_map(np.tensordot(scale * PLANTED, MAPS, 1), MAPS)
    assert weights == pytest.approx(scale * PLANTED, abs=1e-4 * scale)
    assert residual < 1e-5


def test_maps_with_both_signs_do_as_well():
    maps = rng.standard_normal((K, H, W)).astype(np.float32)
    weights, residual = weights_of_map(np.tensordot(PLANTED, maps, 1), maps)
    assert weights == pytest.approx(PLANTED, abs=1e-4)
    assert residual < 1e-5


def test_a_map_as_tools_draw_it_gives_the_same_weights():
    small = torch.tensor(np.tensordot(PLANTED, MAPS, 1))[None, None]
    for size in ((40, 40), (23, 7), (224, 224)):
        large = torch.nn.functional.interpolate(small, size=size, mode="bilinear", align_corners=False)
        weights, residual = weights_of_map(large[0, 0].numpy(), MAPS)
        assert weights == pytest.approx(PLANTED, abs=1e-3)
        assert residual < 1e-4


def test_what_no_sum_of_the_maps_gives_stays_over():
    maps = MAPS.copy()
    maps[:, 0] = 0  # nothing fires in the first row
    outside = np.zeros((H, W), np.float32)
    outside[0] = 1
    weights, residual = weights_of_map(outside, maps)
    assert (weights.max(), residual) == (0, pytest.approx(1))
    inside = np.tensordot(PLANTED, maps, 1)
    both = inside + outside * np.linalg.norm(inside) / np.linalg.norm(outside)
    weights, residual = weights_of_map(both, maps)
    assert weights == pytest.approx(PLANTED, abs=1e-4)
    assert residual == pytest.approx(0.5**0.5, abs=1e-4)
    assert weights_of_map(-inside, maps)[1] == pytest.approx(1)


def test_it_is_the_least_squares_solution():
    target = rng.random((H, W)).astype(np.float32)
    weights, residual = weights_of_map(target, MAPS)
    expected = lsq_linear(
        MAPS.reshape(K, -1).T.astype(float), target.ravel().astype(float), (0, np.inf), tol=1e-12
    )
    assert weights == pytest.approx(expected.x, abs=1e-4)
    assert residual == pytest.approx(np.sqrt(2 * expected.cost) / np.linalg.norm(target), rel=1e-4)
    assert 0.1 < residual < 0.9


def test_more_channels_than_cells_leave_many_answers_of_which_it_gives_a_small_one():
    maps = np.abs(rng.standard_normal((97, H, W))).astype(np.float32)
    weights, residual = weights_of_map(np.tensordot(rng.random(97, np.float32), maps, 1), maps)
    assert residual < 1e-5
    assert (weights > 0).sum() <= H * W


@pytest.mark.parametrize("shape", [(H - 1, W), (H, W - 1), (1, H, W), (H * W,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ConfigError, match="saliency_map has shape"):
        weights_of_map(np.ones(shape, np.float32), MAPS)


def test_a_map_of_nothing_and_one_that_is_not_finite_are_refused():
    with pytest.raises(ConfigError, match="zero everywhere"):
        weights_of_map(np.zeros((H, W), np.float32), MAPS)
    broken = np.ones((H, W), np.float32)
    broken[2, 3] = np.nan
    with pytest.raises(SchemaMismatch, match="NaN"):
        weights_of_map(broken, MAPS)
