import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from store.errors import ConfigError, SchemaMismatch
from textcam.arrays import unit_rows
from textcam.cam import channel_contributions
from textcam.explain import (
    class_direction,
    contrast,
    explain,
    explanation_direction,
    group_contributions,
    mean_baseline,
    word_directions,
)
from textcam.select import select_texts

B, K, D, C, T, G = 5, 11, 17, 3, 29, 4


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    return {
        "contributions": rng.standard_normal((B, K)).astype(np.float32),
        "directions": unit_rows(rng.standard_normal((K, D))),
        "texts": unit_rows(rng.standard_normal((T, D))),
        "group_of": np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]),
        "head": rng.standard_normal((C, K)).astype(np.float32),
        "pooled": rng.random((B, K)).astype(np.float32),
    }


# --- directions of images and classes -----------------------------------------------------------------------


def test_a_direction_is_the_sum_of_channel_directions_by_contribution(world):
    made = explanation_direction(world["contributions"], world["directions"])
    for b in range(B):
        expected = sum(
            float(world["contributions"][b, j]) * world["directions"][j].astype(float) for j in range(K)
        )
        assert_allclose(made[b], expected, atol=1e-5)


def test_shapes_are_declared_and_not_guessed_where_all_sizes_are_equal():
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    turned = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    assert_array_equal(explanation_direction(square, turned), square @ turned)
    assert not np.array_equal(square @ turned, square @ turned.T)


def test_sign_and_scale_are_kept_and_can_be_cut(world):
    made = explanation_direction(world["contributions"], world["directions"])
    assert_allclose(
        explanation_direction(-2 * world["contributions"], world["directions"]), -2 * made, rtol=1e-5
    )
    positive = explanation_direction(world["contributions"], world["directions"], positive_only=True)
    negative = explanation_direction(-world["contributions"], world["directions"], positive_only=True)
    assert_allclose(positive - negative, made, atol=1e-5)


def test_the_class_form_is_the_mean_of_its_images_when_the_head_is_linear(world):
    mean_pooled = world["pooled"].mean(axis=0)
    by_class = class_direction(world["head"], world["directions"], mean_pooled)
    for c in range(C):
        weights = np.tile(world["head"][c], (B, 1))
        images = explanation_direction(channel_contributions(weights, world["pooled"]), world["directions"])
        assert_allclose(by_class[c], images.mean(axis=0), atol=1e-5)
    assert_allclose(
        class_direction(world["head"], world["directions"]), world["head"] @ world["directions"], rtol=1e-5
    )


def test_contrast_takes_out_what_all_classes_have():
    made = contrast(np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))
    assert made.tolist() == [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]


def test_the_baseline_is_the_mean_explanation_over_classes(world):
    each = [
        explanation_direction(
            channel_contributions(np.tile(row, (B, 1)), world["pooled"]), world["directions"]
        )
        for row in world["head"]
    ]
    baseline = mean_baseline(world["head"], world["pooled"], world["directions"])
    assert_allclose(baseline, np.mean(each, axis=0), atol=1e-5)


# --- the directions that words are chosen by ----------------------------------------------------------------


def test_forms_of_channel_directions_by_hand():
    whole = np.array([[1.0, 0, 0], [0, 1, 0]])
    region = np.array([[0.0, 0, 1], [0, 0, 0]])
    assert word_directions(whole, region, "whole", centre=False).tolist() == whole.tolist()
    assert word_directions(whole, region, "region", centre=False).tolist() == [[0, 0, 1], [0, 1, 0]]
    both = word_directions(whole, region, "both", centre=False)
    assert_allclose(both, [[0.5**0.5, 0, 0.5**0.5], [0, 1, 0]], atol=1e-6)
    names = np.array([[0.0, 1, 0], [0, 0, 0]])
    named = word_directions(whole, region, "named", centre=False, named=names)
    assert_allclose(named, [[0, 0.5**0.5, 0.5**0.5], [0, 1, 0]], atol=1e-6)
    assert word_directions(whole, region, "named", centre=False).tolist() == both.tolist()
    with pytest.raises(ConfigError, match="Unknown form"):
        word_directions(whole, region, "half")


def test_what_all_channels_share_is_taken_out_of_each_form(world):
    shared = 5 * np.eye(D, dtype=np.float32)[0]
    region = unit_rows(world["directions"] + shared)
    made = word_directions(world["directions"], region, "region")
    assert abs(made.mean(axis=0)[0]) < 0.2 < region.mean(axis=0)[0]
    assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)


# --- explanations -------------------------------------------------------------------------------------------


def test_group_contributions_add_up_to_the_logit(world):
    made = group_contributions(world["contributions"], world["group_of"], G)
    assert_allclose(made.sum(axis=1), world["contributions"].sum(axis=1), rtol=1e-4, atol=1e-5)
    assert_allclose(made[:, 3], world["contributions"][:, 3] + world["contributions"][:, 7], rtol=1e-5)


def test_an_explanation_holds_its_direction_words_and_groups(world):
    made = explain(
        world["contributions"], world["directions"], world["texts"], world["group_of"], top=3, sparsity=0.02
    )
    direction = explanation_direction(world["contributions"], world["directions"])
    words = select_texts(direction, world["texts"], top=3, sparsity=0.02)
    assert_array_equal(made.direction, direction)
    assert_array_equal(made.selection.text_index, words.text_index)
    assert_array_equal(made.selection.coefficients, words.coefficients)
    assert made.group_contributions.shape == (B, G)


def test_words_are_chosen_off_the_baseline_and_the_direction_is_with_it(world):
    baseline = world["texts"][7] * 3
    plain = explain(world["contributions"], world["directions"], world["texts"], world["group_of"])
    moved = explain(
        world["contributions"], world["directions"], world["texts"], world["group_of"], baseline=-baseline
    )
    assert_array_equal(moved.direction, plain.direction)
    expected = select_texts(plain.direction + baseline, world["texts"])
    assert_array_equal(moved.selection.text_index, expected.text_index)
    assert (moved.selection.text_index[:, 0] == 7).sum() > (plain.selection.text_index[:, 0] == 7).sum()


def test_an_image_gets_the_same_explanation_alone_and_in_a_batch(world):
    arguments = (world["directions"], world["texts"], world["group_of"])
    whole = explain(world["contributions"], *arguments)
    for b in range(B):
        alone = explain(world["contributions"][b : b + 1], *arguments)
        assert_array_equal(alone.selection.text_index[0], whole.selection.text_index[b])
        assert_allclose(alone.selection.coefficients[0], whole.selection.coefficients[b], rtol=1e-5)


def test_unused_last_groups_are_kept_where_their_number_is_told(world):
    made = explain(
        world["contributions"], world["directions"], world["texts"], np.zeros(K, np.int32), groups=3
    )
    assert made.group_contributions.shape == (B, 3)
    assert (made.group_contributions[:, 1:] == 0).all()


def test_an_image_without_contributions_has_no_words(world):
    made = explain(np.zeros((1, K)), world["directions"], world["texts"], world["group_of"])
    assert (made.selection.text_index == -1).all()
    assert not made.direction.any()


def test_nan_and_other_shapes_are_refused(world):
    bad = world["contributions"].copy()
    bad[2, 3] = np.nan
    with pytest.raises(SchemaMismatch, match=r"contributions\[2, 3\]"):
        explanation_direction(bad, world["directions"])
    with pytest.raises(ConfigError, match="contributions has shape"):
        explanation_direction(world["contributions"][:, :-1], world["directions"])
    with pytest.raises(ConfigError, match="group_of"):
        group_contributions(world["contributions"], world["group_of"], 2)
