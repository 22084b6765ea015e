import numpy as np
import pytest

from store.errors import ConfigError
from tests import oracles
from textcam.cam import (
    channel_contributions,
    gradcam,
    gradcam_plus_plus,
    group_maps,
    pool,
    saliency_map,
    xgradcam,
)

B, K, G, H, W = 2, 5, 3, 7, 11


@pytest.fixture
def maps():
    return np.random.default_rng(0).standard_normal((B, K, H, W)).astype(np.float32)


@pytest.fixture
def weights():
    return np.random.default_rng(1).standard_normal((B, K)).astype(np.float32)


def test_pool_by_hand():
    assert pool(np.array([[[[1.0, 2.0, 6.0]], [[0.0, -3.0, 0.0]]]])).tolist() == [[3.0, -1.0]]


def test_contributions_of_average_pooling_and_a_linear_head_add_up_to_the_logit(maps):
    rng = np.random.default_rng(2)
    head, bias = rng.standard_normal((13, K)).astype(np.float32), rng.standard_normal(13)
    classes = np.array([12, 4])
    pooled = pool(maps)
    logits = maps.mean(axis=(2, 3)) @ head.T + bias
    total = channel_contributions(head[classes], pooled).sum(axis=1)
    np.testing.assert_allclose(total, logits[[0, 1], classes] - bias[classes], rtol=1e-5)


def test_saliency_map_agrees_with_its_twin_and_keeps_sign_and_scale(maps, weights):
    made = saliency_map(maps, weights)
    np.testing.assert_allclose(made, oracles.saliency_map(maps, weights), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(saliency_map(maps, -3 * weights), -3 * made, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made.mean(axis=(1, 2)), (weights * pool(maps)).sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("group_of", [[0, 1, 2, 0, 1], [2, 2, 2, 2, 2], [0, 0, 0, 2, 2]])
def test_group_maps_add_up_and_hold_only_their_channels(maps, weights, group_of):
    group_of = np.array(group_of)
    made = group_maps(maps, weights, group_of, G)
    np.testing.assert_allclose(made.sum(axis=1), saliency_map(maps, weights), rtol=1e-4, atol=1e-5)
    for g in range(G):
        alone = oracles.saliency_map(maps[:, group_of == g], weights[:, group_of == g])
        np.testing.assert_allclose(made[:, g], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group_of", [[0, 1, 2, 3, 0], [0, -1, 0, 0, 0]])
def test_group_ids_out_of_range_are_refused(maps, weights, group_of):
    with pytest.raises(ConfigError, match="expected 0 to 2"):
        group_maps(maps, weights, np.array(group_of), G)


def test_gradcam_and_xgradcam_of_average_pooling_and_a_linear_head_are_the_head(maps, weights):
    # logit = sum_j w_j mean(A_j), so its gradient is w_j / (h w) in every cell.
    gradients = np.broadcast_to(weights[:, :, None, None] / (H * W), maps.shape)
    np.testing.assert_allclose(gradcam(gradients), weights, rtol=1e-5)
    np.testing.assert_allclose(xgradcam(gradients, maps), weights, rtol=1e-3)


def test_xgradcam_contributions_are_gradient_times_activation(maps):
    gradients = np.random.default_rng(3).standard_normal(maps.shape).astype(np.float32)
    contributions = xgradcam(gradients, maps) * pool(maps)
    np.testing.assert_allclose(contributions, (gradients * maps).sum(axis=(2, 3)), rtol=1e-3, atol=1e-4)


def test_gradcam_plus_plus_agrees_with_its_twin(maps):
    gradients = np.random.default_rng(3).standard_normal(maps.shape).astype(np.float32)
    for positive in (maps, np.abs(maps)):
        np.testing.assert_allclose(
            gradcam_plus_plus(gradients, positive), oracles.gradcam_plus_plus(gradients, positive), rtol=1e-3
        )


def test_a_dead_channel_has_weight_zero_or_half_its_positive_gradient():
    dead, gradients = np.zeros((1, 1, 2, 2)), np.array([[[[1.0, -1.0], [3.0, 0.0]]]])
    assert xgradcam(gradients, dead).tolist() == [[0.0]]
    assert gradcam(gradients).tolist() == [[3.0]]
    assert gradcam_plus_plus(gradients, dead).tolist() == [[2.0]]


def test_weights_agree_with_pytorch_grad_cam_up_to_its_scale(maps):
    reference = pytest.importorskip("pytorch_grad_cam")
    gradients = np.random.default_rng(5).standard_normal(maps.shape).astype(np.float32)
    positive = np.abs(maps)

    def theirs(kind):
        return kind.get_cam_weights(None, None, None, None, positive, gradients)

    np.testing.assert_allclose(gradcam(gradients) / (H * W), theirs(reference.GradCAM), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(xgradcam(gradients, positive) / (H * W), theirs(reference.XGradCAM), rtol=1e-3)
    # Theirs adds 1e-7 to the denominator, which matters where a gradient is tiny and its share is too.
    np.testing.assert_allclose(
        gradcam_plus_plus(gradients, positive), theirs(reference.GradCAMPlusPlus), rtol=1e-2, atol=1e-3
    )


def test_maps_and_weights_of_other_shapes_are_refused(maps, weights):
    with pytest.raises(ConfigError, match="weights has shape"):
        saliency_map(maps, weights[:, :-1])
    with pytest.raises(ConfigError, match="maps has shape"):
        pool(maps[0])
    with pytest.raises(ConfigError, match="pooled has shape"):
        channel_contributions(weights, weights.T)
