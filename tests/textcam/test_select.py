import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from store.errors import ConfigError, SchemaMismatch
from tests import oracles
from textcam.arrays import unit_rows
from textcam.select import (
    Quadratic,
    minimise,
    nearest_texts,
    select_texts,
    similarity,
    smaller_of_both,
    standardise,
)

B, T, D = 5, 37, 23


def bank(texts=T, dim=D, seed=0, cone=2.0):
    """Texts as encoders make them: all in one cone."""
    rng = np.random.default_rng(seed)
    common = cone * rng.standard_normal(dim) / np.sqrt(dim)
    return unit_rows(common + rng.standard_normal((texts, dim)) / np.sqrt(dim))


def directions(texts, seed=1, batch=B):
    """Differences: sums of two centred texts and noise; (targets, the two texts, the stronger first)."""
    rng = np.random.default_rng(seed)
    centred = texts - texts.mean(axis=0)
    pairs = np.array([rng.choice(len(texts), 2, replace=False) for _ in range(batch)])
    made = 3 * centred[pairs[:, 0]] + 2 * centred[pairs[:, 1]]
    return (made + 0.01 * rng.standard_normal(made.shape)).astype(np.float32), pairs


# --- the problem and its solution ---------------------------------------------------------------------------


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize(("sparsity", "decorrelation"), [(0.0, 0.1), (0.1, 0.01), (0.02, 0.5), (0.3, 2.0)])
def test_coefficients_are_those_of_non_negative_least_squares(sparsity, decorrelation, centre):
    texts = bank()
    targets, _ = directions(texts)
    made = select_texts(targets, texts, top=T, sparsity=sparsity, decorrelation=decorrelation, centre=centre)
    for b in range(B):
        length = np.linalg.norm(targets[b])
        expected = oracles.coefficients(targets[b] / length, texts, sparsity, decorrelation, centre)
        found = np.zeros(T)
        used = made.text_index[b] >= 0
        found[made.text_index[b][used]] = made.coefficients[b][used]
        assert_allclose(found, length * expected, atol=1e-5 * length)
        assert (np.diff(made.coefficients[b]) <= 0).all()


def test_no_other_amounts_of_a_tiny_bank_are_better():
    texts = bank(texts=4, dim=3)
    targets, _ = directions(texts)
    made = select_texts(targets, texts, top=4, sparsity=0.1, decorrelation=0.3)
    for b in range(B):
        target = targets[b] / np.linalg.norm(targets[b])
        best = min(
            oracles.objective(amounts, target, texts, 0.1, 0.3)
            for amounts in itertools.product(np.linspace(0, 1.2, 7), repeat=4)
        )
        found = np.zeros(4)
        used = made.text_index[b] >= 0
        found[made.text_index[b][used]] = made.coefficients[b][used] / np.linalg.norm(targets[b])
        assert oracles.objective(found, target, texts, 0.1, 0.3) <= best + 1e-6


def test_one_text_alone_has_the_coefficient_of_the_formula():
    # Orthogonal texts, not centred: b = (cosine - sparsity / 2) / (1 + decorrelation * 1), times the length.
    texts = np.eye(4, dtype=np.float32)
    made = select_texts(
        np.array([[3.0, 4.0, 0.0, 0.0]]), texts, top=3, sparsity=0.2, decorrelation=0.0, centre=False
    )
    assert made.text_index.tolist() == [[1, 0, -1]]
    assert_allclose(made.coefficients, [[5 * 0.7, 5 * 0.5, 0.0]], rtol=1e-6)
    assert_allclose(made.similarities, [[0.8, 0.6, 0.0]], rtol=1e-6)


def test_two_parts_of_a_direction_are_both_named_although_texts_share_a_cone():
    texts = bank(texts=211, dim=61, cone=3.0)
    targets, pairs = directions(texts, batch=41)
    made = select_texts(targets, texts)
    assert_array_equal(made.text_index[:, :2], pairs)
    # With the cone in, a second word would bring it in again, and is left out.
    assert (select_texts(targets, texts, centre=False).text_index[:, 1] == -1).mean() > 0.5


def test_of_synonyms_one_is_taken_and_the_place_goes_to_another_meaning():
    rng = np.random.default_rng(0)
    texts = bank(texts=41, dim=61, cone=1.0)
    texts[7] = unit_rows(texts[3] + 0.15 * rng.standard_normal(61) / np.sqrt(61))
    centred = texts - texts.mean(axis=0)
    target = (centred[3] + 0.9 * centred[7] + 0.8 * centred[11])[None].astype(np.float32)
    near = nearest_texts(target, texts, top=2).text_index[0]
    assert set(near.tolist()) == {3, 7}
    apart = select_texts(target, texts, top=2, decorrelation=5.0).text_index[0]
    assert set(apart.tolist()) in ({3, 11}, {7, 11})


# --- what must not change the answer ------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(T)))
def test_the_order_of_texts_does_not_matter(order):
    texts = bank()
    targets, _ = directions(texts)
    made, other = select_texts(targets, texts), select_texts(targets, texts[list(order)])
    assert_array_equal(made.text_index, np.where(other.text_index < 0, -1, np.array(order)[other.text_index]))
    assert_allclose(made.coefficients, other.coefficients, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 64, 65])
def test_a_target_has_the_same_words_whatever_batch_it_comes_in(batch):
    texts = bank(texts=211)
    targets, _ = directions(texts, batch=130)
    whole = select_texts(targets, texts)
    for start in range(0, 130, batch):
        part = select_texts(targets[start : start + batch], texts)
        rows = slice(start, start + batch)
        assert part.text_index.tobytes() == whole.text_index[rows].tobytes()
        assert part.coefficients.tobytes() == whole.coefficients[rows].tobytes()
        assert part.similarities.tobytes() == whole.similarities[rows].tobytes()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_length_of_a_target_scales_coefficients_and_changes_no_word(scale):
    texts = bank()
    targets, _ = directions(texts)
    made, scaled = select_texts(targets, texts), select_texts(targets * np.float32(scale), texts)
    assert_array_equal(made.text_index, scaled.text_index)
    assert_allclose(scaled.coefficients, made.coefficients * scale, rtol=1e-3)


def test_a_quadratic_made_by_columns_is_the_whole_one(monkeypatch):
    texts = bank(texts=211)
    targets, _ = directions(texts, batch=17)
    made = select_texts(targets, texts, screen=53)
    monkeypatch.setattr("textcam.select._WHOLE_GRAM", 10)
    other = select_texts(targets, texts, screen=53)
    assert_array_equal(made.text_index, other.text_index)
    assert_allclose(made.coefficients, other.coefficients, rtol=1e-5)


# --- screening, and no words --------------------------------------------------------------------------------


def test_screening_keeps_the_answer_when_it_is_among_the_nearest():
    texts = bank(texts=211, dim=61)
    targets, _ = directions(texts)
    assert_array_equal(
        select_texts(targets, texts, screen=20, top=2).text_index,
        select_texts(targets, texts, screen=211, top=2).text_index,
    )


def test_other_scores_decide_which_texts_are_considered():
    texts = bank()
    targets, pairs = directions(texts)
    scores = np.zeros((B, T))
    scores[np.arange(B), pairs[:, 1]] = 1.0
    made = select_texts(targets, texts, screen=1, scores=scores)
    assert_array_equal(made.text_index[:, 0], pairs[:, 1])
    assert (made.text_index[:, 1:] == -1).all()
    assert_array_equal(nearest_texts(targets, texts, top=1, scores=scores).text_index[:, 0], pairs[:, 1])


def test_no_words_fit_is_an_answer():
    texts = np.eye(4, dtype=np.float32)
    targets = np.array([[0.0, 0, 0, 0], [-1, -1, -1, -1], [1, 0, 0, 0]])
    made = select_texts(targets, texts, top=2, centre=False)
    assert made.text_index.tolist() == [[-1, -1], [-1, -1], [0, -1]]
    assert made.coefficients[:2].tolist() == made.similarities[:2].tolist() == [[0, 0], [0, 0]]
    assert (select_texts(targets, texts, sparsity=2.0, centre=False).text_index == -1).all()


def test_words_far_weaker_than_the_best_can_be_left_out():
    texts = np.eye(4, dtype=np.float32)
    target = np.array([[1.0, 0.4, 0.2, 0.0]])
    all_words = select_texts(target, texts, centre=False, sparsity=0.0)
    strong = select_texts(target, texts, centre=False, sparsity=0.0, relative_sparsity=0.3)
    assert all_words.text_index[0, :4].tolist() == [0, 1, 2, -1]
    assert strong.text_index[0, :3].tolist() == [0, 1, -1]


def test_banks_of_one_and_two_texts():
    target = np.array([[1.0, 0.5, 0.0]])
    one = select_texts(target, np.array([[1.0, 0.0, 0.0]]), top=2)
    assert one.text_index.tolist() == [[0, -1]]
    two = select_texts(target, np.eye(3, dtype=np.float32)[:2], top=3)
    assert two.text_index.tolist() == [[0, 1, -1]]


def test_duplicate_texts_share_a_word_and_bring_no_nan():
    texts = np.repeat(bank(texts=5), 2, axis=0)
    targets, _ = directions(texts)
    made = select_texts(targets, texts)
    assert np.isfinite(made.coefficients).all()
    all_equal = select_texts(targets, np.repeat(texts[:1], 4, axis=0))
    assert (all_equal.text_index == -1).all()


def test_nan_and_wrong_amounts_are_refused():
    texts = bank()
    targets, _ = directions(texts)
    targets[1, 2] = np.nan
    with pytest.raises(SchemaMismatch, match=r"targets\[1, 2\]"):
        select_texts(targets, texts)
    for wrong in (
        {"sparsity": -1},
        {"decorrelation": -1},
        {"top": 0},
        {"screen": 0},
        {"relative_sparsity": 1},
    ):
        with pytest.raises(ConfigError, match="must be"):
            select_texts(targets, texts, **wrong)
    with pytest.raises(ConfigError, match="no texts"):
        select_texts(targets[:1], np.zeros((0, D)))
    with pytest.raises(ConfigError, match="targets has shape"):
        select_texts(targets[:, :-1], texts)


# --- ranking ------------------------------------------------------------------------------------------------


def test_similarity_is_the_cosine_and_declared_by_axis_also_where_sizes_are_equal():
    rng = np.random.default_rng(0)
    targets, texts = rng.standard_normal((7, 7)), rng.standard_normal((7, 7))
    expected = [
        [t @ s / np.linalg.norm(t) / np.linalg.norm(s) for s in texts.astype(np.float64)] for t in targets
    ]
    assert_allclose(similarity(targets, texts), expected, atol=1e-6)
    assert not np.allclose(similarity(targets, texts), similarity(texts, targets))


def test_nearest_texts_by_hand():
    made = nearest_texts(np.array([[0.0, 2.0, 1.0], [0, 0, 0]]), np.eye(3), top=4)
    assert made.text_index.tolist() == [[1, 2, 0, -1], [-1, -1, -1, -1]]
    assert_allclose(made.similarities[0], [2 / 5**0.5, 1 / 5**0.5, 0, 0], rtol=1e-6)
    assert_array_equal(made.coefficients, made.similarities)


def test_ties_go_to_the_first_text_even_with_rounding_noise():
    texts = np.eye(3, dtype=np.float32)
    made = nearest_texts(np.array([[1.0, 1.0 + 1e-7, 1.0 - 1e-7]]), texts, top=3)
    assert made.text_index.tolist() == [[0, 1, 2]]


def test_standard_scores_by_hand():
    assert_allclose(standardise(np.array([[1.0, 2.0, 3.0]])), [[-(1.5**0.5), 0, 1.5**0.5]], rtol=1e-6)
    assert standardise(np.full((2, 7), 0.1)).tolist() == [[0.0] * 7] * 2


def test_a_text_must_fit_both():
    whole, region = np.array([[5.0, 4.0, 0.0, 0.0]]), np.array([[0.0, 2.0, 2.0, 0.0]])
    assert int(np.argmax(smaller_of_both(whole, region))) == 1
    assert_array_equal(smaller_of_both(whole, region), smaller_of_both(10 * whole + 3, region))


# --- the solver ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_solutions_meet_the_optimality_conditions(sparsity):
    rng = np.random.default_rng(0)
    texts, apart = rng.standard_normal((29, 13)), rng.standard_normal((29, 7))
    quadratic = Quadratic(texts, apart, 0.2, expected=1000)
    candidates = np.tile(np.arange(29), (7, 1))
    linear = rng.standard_normal((7, 13)) @ texts.T - sparsity
    solution = minimise(quadratic, candidates, linear)
    full = texts @ texts.T + 0.2 * (apart @ apart.T) ** 2
    gradient = linear - solution @ full
    assert (solution >= 0).all()
    assert (solution > 0).any(axis=1).all()
    assert (gradient < 1e-6).all()
    assert_allclose(gradient[solution > 0], 0, atol=1e-6)
