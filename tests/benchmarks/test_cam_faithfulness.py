"""The measures of the CAM benchmark, on orders and curves that one can work out."""

import numpy as np
import pytest
import torch

from benchmarks.cam_faithfulness import (
    area,
    blurred,
    channel_curve,
    curve,
    object_shares,
    order_of,
    probability,
)
from benchmarks.small_networks import MODELS, SIDE, TRANSFORMERS, train
from demo.pictures import picture_set
from demo.scenes import render, scenes
from textcam.classifier import load_classifier


def test_cells_come_from_the_highest_down_and_ties_in_one_random_order() -> None:
    maps = np.array([[[1.0, -2.0], [3.0, 0.0]]], np.float32)
    assert order_of(maps).tolist() == [[2, 0, 3, 1]]
    level = np.zeros((2, 4, 4), np.float32)
    tied = order_of(level)
    assert sorted(tied[0].tolist()) == list(range(16))
    assert tied[0].tolist() != tied[1].tolist()
    assert np.array_equal(tied, order_of(level + 5))


def test_the_area_under_a_line() -> None:
    assert area(np.array([[1.0, 0.5, 0.0], [0.25, 0.25, 0.25]])).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_curve_goes_from_one_picture_to_the_other_cell_by_cell(name: str) -> None:
    classifier = load_classifier(
        f"python:benchmarks.small_networks:{name}", weights="random", two_sided=False
    )
    assert classifier.map_size == (8, 8)
    assert classifier.head is None
    before, after = np.random.default_rng(0).integers(0, 256, (2, 3, 3, SIDE, SIDE), np.uint8)
    order = order_of(np.random.default_rng(1).random((3, 8, 8)).astype(np.float32))
    class_ids = np.array([4, 0, 7])
    made = curve(classifier, before, after, order, class_ids)

    def seen(pixels: np.ndarray) -> np.ndarray:
        powers = np.exp(classifier.forward(pixels).logits.astype(float))
        return (powers / powers.sum(1, keepdims=True))[range(3), class_ids]

    half = before.copy()
    for image, cells in enumerate(order[:, :32]):
        for y, x in zip(*divmod(cells, 8), strict=True):
            half[image, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = after[
                image, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8
            ]
    expected = np.stack([seen(before), seen(half), seen(after)], axis=1)
    assert made[:, [0, 8, 16]] == pytest.approx(expected, rel=1e-4)


def test_channels_become_their_mean_in_order() -> None:
    classifier = load_classifier(
        "python:benchmarks.small_networks:pooling_vit", weights="random", two_sided=False
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, SIDE, SIDE), np.uint8)
    order = np.stack([np.random.default_rng(seed).permutation(96) for seed in range(3)])
    class_ids = np.array([5, 5, 5])
    made = channel_curve(classifier, pixels, order, class_ids)
    output = classifier.forward(pixels)
    assert made[:, 0] == pytest.approx(probability(output.logits, class_ids))
    # The head sees the pooled map alone, so half of it may as well be replaced in the vector.
    pooled = torch.from_numpy(output.pooled)
    half = pooled.clone()
    for row, gone in enumerate(order[:, :48]):
        half[row, gone] = pooled.mean(0)[gone]
    network = classifier._module
    logits = network.head(network.fc_norm(half)).detach().numpy()
    assert made[:, 8] == pytest.approx(probability(logits, class_ids), rel=1e-4)
    assert made[:, 16] == pytest.approx(np.full(3, made[0, 16]))
    assert np.abs(made[:, 0] - made[0, 0]).max() > 1e-4


def test_the_object_lies_where_its_cells_say_and_blur_takes_it_away() -> None:
    drawn = list(scenes("held-out", 1, 2))
    shares = object_shares(drawn, (8, 8))
    masks = [render(scene).masks["object"] for scene in drawn]
    assert shares.mean(1) == pytest.approx([mask.mean() for mask in masks])
    assert shares[0].reshape(8, 8)[2, 3] == masks[0][32:48, 48:64].mean()
    pixels = picture_set(drawn, 2, SIDE).pixels.transpose(0, 3, 1, 2)
    assert np.abs(np.diff(blurred(pixels).astype(int), axis=3)).max() < 30
    assert np.abs(np.diff(pixels.astype(int), axis=3)).max() > 60


def test_training_twice_gives_the_same_network() -> None:
    pictures = picture_set(scenes("training", 0, 128), 128, SIDE)
    network = train("class_token_vit", pictures, 3)
    again = train("class_token_vit", pictures, 3)
    one, other = (dict(each.state_dict()) for each in (network, again))
    assert all(bool((one[name] == other[name]).all()) for name in one)
    fresh = MODELS["class_token_vit"]()[0].state_dict()
    assert not all(bool((one[name] == fresh[name]).all()) for name in one)
