import numpy as np
import pytest
import torch

from store.errors import ConfigError, SchemaMismatch
from tests.textcam import audit_oracles as slow
from tests.textcam.tiny_networks import GapLinear, seeded
from textcam.whatif import Pairs, WhatIf, logits_of, neutral_head, project_out, what_if

K, C, T, N = 7, 3, 5, 61


@pytest.fixture
def head():
    draw = np.random.default_rng(2)
    return draw.normal(size=(C, K)).astype(np.float32), draw.normal(size=C).astype(np.float32)


@pytest.fixture
def pooled():
    return np.random.default_rng(4).normal(1, 2, size=(N, K)).astype(np.float16)


def test_what_if_by_hand():
    weights, bias = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]]), np.array([0.5, 0.0])
    found = what_if(np.array([[1.0, 1.0, 1.0]]), weights, bias, np.array([1]), np.array([9.0, 4.0, 9.0]))
    assert found.tolist() == [[1 + 8 + 3 + 0.5, -4 + 1]]


def test_what_if_is_the_head_on_changed_activations(head, pooled):
    weights, bias = head
    mean, channels = pooled.astype(np.float64).mean(axis=0), np.array([0, 3, 4])
    changed = pooled.astype(np.float64)
    changed[:, channels] = mean[channels]
    np.testing.assert_allclose(what_if(pooled, weights, bias, channels, mean), changed @ weights.T + bias)


@pytest.mark.parametrize("act", ["mean", "projection"])
def test_what_if_agrees_with_a_forward_pass_through_hooked_channels(act):
    """From activations as the store keeps them, in half precision, against the network with its maps changed
    on the way: a group set to its mean, a direction taken out of every cell."""
    network, draw = seeded(GapLinear()), np.random.default_rng(3)
    images = torch.from_numpy(draw.normal(size=(23, 3, 40, 40)).astype(np.float32))
    maps = network.body(images)
    stored = maps.mean((2, 3)).numpy().astype(np.float16)
    weights, bias = network.fc.weight.numpy(), network.fc.bias.numpy()
    mean, channels = stored.astype(np.float64).mean(axis=0), np.array([1, 4, 9])
    direction = draw.normal(size=11)
    along = torch.from_numpy((direction / np.linalg.norm(direction)).astype(np.float32))
    rest = torch.from_numpy(mean.astype(np.float32))

    def changed(module, inputs, output):
        if act == "mean":
            output = output.clone()
            output[:, channels] = rest[channels][:, None, None]
            return output
        amount = torch.einsum("bkhw,k->bhw", output - rest[:, None, None], along)
        return output - amount[:, None] * along[:, None, None]

    with torch.no_grad():
        plain = network(images).numpy()
        hook = network.body.register_forward_hook(changed)
        wanted = network(images).numpy()
        hook.remove()
    head = (
        neutral_head(weights, bias, channels, mean)
        if act == "mean"
        else project_out(weights, bias, direction, mean)
    )
    found = logits_of(stored, *head)
    assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert np.linalg.norm(plain - wanted) > 1e-2 * np.linalg.norm(wanted)


def test_no_channels_change_nothing(head, pooled):
    weights, bias = head
    same, same_bias = neutral_head(weights, bias, np.zeros(0, np.int64), np.ones(K))
    np.testing.assert_array_equal(same, weights)
    np.testing.assert_array_equal(same_bias, bias)


def test_projection_is_blind_to_its_direction_and_keeps_the_mean(head, pooled):
    weights, bias = head
    direction, mean = np.arange(1.0, K + 1), pooled.astype(np.float64).mean(axis=0)
    blind = project_out(weights, bias, direction, mean)
    before = logits_of(pooled, *blind)
    np.testing.assert_allclose(logits_of(pooled + 3.7 * direction, *blind), before)
    np.testing.assert_allclose(logits_of(mean[None], *blind), logits_of(mean[None], weights, bias))
    across = np.array([7.0, 0, 0, 0, 0, 0, -1.0])  # at right angles: must pass unchanged
    shift = logits_of(pooled + across, *blind) - before
    np.testing.assert_allclose(shift, np.broadcast_to(weights.astype(np.float64) @ across, shift.shape))


def test_projecting_one_channel_out_is_setting_it_to_its_mean(head, pooled):
    weights, bias = head
    mean = pooled.astype(np.float64).mean(axis=0)
    one, other = (
        project_out(weights, bias, np.eye(K)[2] * 5, mean),
        neutral_head(weights, bias, np.array([2]), mean),
    )
    np.testing.assert_allclose(one[0], other[0], atol=1e-12)
    np.testing.assert_allclose(one[1], other[1])


def test_a_direction_of_nothing_is_refused(head):
    with pytest.raises(SchemaMismatch, match="length 0"):
        project_out(*head, np.zeros(K), np.ones(K))


def world(head, pooled):
    draw = np.random.default_rng(6)
    weights, bias = head
    labels = np.where(
        draw.random(N) < 0.7, logits_of(pooled, weights, bias).argmax(axis=1), draw.integers(0, C, N)
    )
    pairs = Pairs(np.array([0, 0, 2, 1]), np.array([4, 1, 1, 0]), np.array([1, 0, 2, 1]))
    group_of = np.array([0, 1, 1, 2, 0, 2, 1])
    return (
        weights,
        bias,
        group_of,
        pooled.astype(np.float64).mean(axis=0),
        pairs,
        labels,
        draw.random((N, T)) < 0.4,
    )


def test_flips_agree_with_one_image_at_a_time(head, pooled):
    weights, bias, group_of, mean, pairs, labels, present = world(head, pooled)
    flips = WhatIf(weights, bias, group_of, mean, pairs)
    flips.update(pooled, present, labels)
    for i in range(len(pairs)):
        pair = int(pairs.class_id[i]), int(pairs.text_index[i]), int(pairs.group_id[i])
        wanted = slow.flips(pooled, weights, bias, group_of, mean, labels, present, *pair)
        found = flips.carrying[i], flips.carrying_flips[i], flips.others[i], flips.other_flips[i]
        assert tuple(map(int, found)) == wanted
        assert flips.flip_rate[i] == wanted[1] / wanted[0]
        assert flips.other_flip_rate[i] == wanted[3] / wanted[2]
    assert flips.carrying_flips.sum() > 0  # or nothing was compared
    assert flips.class_flip_rate[0, 1] == (flips.carrying_flips + flips.other_flips)[0] / flips.images[0]


def test_flips_are_the_same_for_any_cut(head, pooled):
    weights, bias, group_of, mean, pairs, labels, present = world(head, pooled)
    whole, merged = WhatIf(weights, bias, group_of, mean, pairs), WhatIf(weights, bias, group_of, mean, pairs)
    whole.update(pooled, present, labels)
    for part in np.array_split(np.random.default_rng(8).permutation(N), 7):
        shard = WhatIf(weights, bias, group_of, mean, pairs)
        shard.update(pooled[part], present[part], labels[part])
        merged.merge(shard)
    for name in ("images", "flips", "carrying", "carrying_flips", "others", "other_flips"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_without_labels_every_image_counts_under_its_prediction(head, pooled):
    weights, bias, group_of, mean, pairs, _, present = world(head, pooled)
    flips = WhatIf(weights, bias, group_of, mean, pairs)
    flips.update(pooled, present)
    prediction = logits_of(pooled, weights, bias).argmax(axis=1)
    assert flips.images.tolist() == np.bincount(prediction, minlength=C).tolist()
    assert flips.images.sum() == N


def test_images_without_label_do_not_count_among_labelled_ones(head, pooled):
    weights, bias, group_of, mean, pairs, _, present = world(head, pooled)
    flips = WhatIf(weights, bias, group_of, mean, pairs)
    flips.update(pooled, present, np.full(N, -1))
    assert flips.images.sum() == 0
    assert np.isnan(flips.flip_rate).all()


def test_shapes_are_checked_where_numpy_would_broadcast(head):
    pairs = Pairs(np.array([0]), np.array([0]), np.array([0]))
    with pytest.raises(ConfigError, match="replacement has shape"):
        WhatIf(*head, np.zeros(K, np.int64), np.ones(1), pairs)
