import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from store.errors import ConfigError, SchemaMismatch
from tests import oracles
from textcam.arrays import unit_rows
from textcam.lda import (
    fit_directions,
    fit_directions_indexed,
    mean_difference,
    ridge_directions,
)

K, M, D = 7, 11, 43
GAMMAS = [0.001, 0.03, 0.1, 0.5, 0.9, 0.99]


def embeddings(rng, *shape):
    """Unit vectors in a cone with a falling spectrum, as image encoders make them."""
    spread = rng.standard_normal(shape) / np.sqrt(np.arange(1, shape[-1] + 1))
    return unit_rows(spread + np.linspace(1, -1, shape[-1]))


def world(channels=K, positives=M, negatives=M, dim=D, seed=0, shift=0.3):
    rng = np.random.default_rng(seed)
    made = embeddings(rng, channels, positives, dim), embeddings(rng, channels, negatives, dim)
    return unit_rows(made[0] + shift * rng.standard_normal((channels, 1, dim)) / np.sqrt(dim)), made[1]


def cosine(left, right):
    return np.sum(left * right, axis=-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)


# --- against the slow twins and scikit-learn ----------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(
    ("positives", "negatives", "dim"),
    [(M, M, D), (5, 17, D), (M, M, 3), (2, 2, 2), (1, 13, D), (7, 7, 7), (37, 41, 19), (1, 1, 5)],
)
def test_the_dual_solve_is_the_direct_one(gamma, positives, negatives, dim):
    p, n = world(positives=positives, negatives=negatives, dim=dim)
    if positives == negatives == 1:  # no spread inside the classes: only the mean difference is left
        expected = p[:, 0] - n[:, 0]
    else:
        expected = np.stack([oracles.direction(p[j], n[j], gamma) for j in range(K)])
    made = fit_directions(p, n, shrinkage=gamma).direction
    assert (cosine(made.astype(np.float64), expected) > 0.999999).all()
    assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_directions_are_those_of_scikit_learn(gamma):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    p, n = world(positives=13, negatives=9)
    made = fit_directions(p, n, shrinkage=gamma).direction.astype(np.float64)
    for j in range(K):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=gamma)
        model.fit(np.concatenate([p[j], n[j]]).astype(np.float64), [1] * 13 + [0] * 9)
        assert cosine(made[j], model.coef_[0]) > 0.999999


def test_ledoit_wolf_is_the_formula_and_scikit_learns_on_within_class_residuals():
    from sklearn.covariance import ledoit_wolf_shrinkage

    p, n = world(positives=13, negatives=9, shift=1.0)
    amounts = []
    for j in range(K):
        residuals = np.concatenate([p[j] - p[j].mean(axis=0), n[j] - n[j].mean(axis=0)]).astype(np.float64)
        amounts.append(oracles.ledoit_wolf(p[j], n[j]))
        assert amounts[j] == pytest.approx(ledoit_wolf_shrinkage(residuals, assume_centered=True), rel=1e-4)
    assert 0.01 < min(amounts) < max(amounts) < 0.99
    expected = np.stack([oracles.direction(p[j], n[j], amounts[j]) for j in range(K)])
    made = fit_directions(p, n, shrinkage="ledoit-wolf")
    assert (cosine(made.direction.astype(np.float64), expected) > 0.999999).all()


@pytest.mark.parametrize("gamma", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("positives", "negatives", "dim"), [(7, 5, 23), (2, 2, 5), (2, 9, 3), (5, 5, 5)])
@pytest.mark.parametrize("shift", [0.0, 0.2, 5.0])
def test_separation_is_what_refitting_without_each_pair_gives(gamma, positives, negatives, dim, shift):
    p, n = world(positives=positives, negatives=negatives, dim=dim, shift=shift)
    made = fit_directions(p, n, shrinkage=gamma).separation
    assert_allclose(made, [oracles.separation(p[j], n[j], gamma) for j in range(K)], atol=1e-6)


def test_separation_of_the_mean_difference_is_held_out_too():
    p, n = world(positives=7, negatives=5, shift=0.3)
    made = mean_difference(p, n).separation
    assert_allclose(made, [oracles.separation(p[j], n[j], 1 - 1e-6) for j in range(K)], atol=1e-6)


def test_separation_is_chance_where_nothing_separates_and_one_where_all_does():
    p, n = world(channels=199, positives=20, negatives=20, dim=61, shift=0.0)
    by_chance = fit_directions(p, n, shrinkage=0.5).separation
    # In-sample the 40 examples in 61 dimensions separate perfectly; held out they must not.
    assert np.median(by_chance) < 0.25
    assert (fit_directions(p + np.float32(1), n, shrinkage=0.5).separation == 1).all()


# --- data whose answer is known -----------------------------------------------------------------------------


def cross(center, arms):
    """Points center +- arms_k e_k: their covariance is diagonal, arms_k^2 / D."""
    return np.concatenate([center + np.diag(arms), center - np.diag(arms)])


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0])
def test_with_equal_spread_everywhere_the_direction_is_the_mean_difference(gamma):
    center, other = np.array([0.5, 0.1, 0.0, 0.2, 0.3]), np.array([0.1, 0.1, 0.4, 0.0, 0.3])
    made = fit_directions(
        cross(center, np.full(5, 0.2))[None], cross(other, np.full(5, 0.2))[None], shrinkage=gamma
    )
    assert_allclose(made.direction, unit_rows(center - other)[None], atol=1e-5)


@pytest.mark.parametrize("gamma", [0.01, 0.2, 0.6, 1.0])
def test_with_unequal_spread_dimensions_count_by_one_over_their_shrunk_variance(gamma):
    center, other = np.array([0.5, 0.1, 0.0]), np.array([0.1, 0.2, 0.4])
    arms = np.array([0.1, 0.2, 0.4])
    variance = arms**2 / 3
    expected = (center - other) / ((1 - gamma) * variance + gamma * variance.mean())
    made = fit_directions(cross(center, arms)[None], cross(other, arms)[None], shrinkage=gamma)
    assert_allclose(made.direction[0], unit_rows(expected), atol=1e-5)


def test_swapping_the_sides_turns_the_direction_around():
    p, n = world()
    made, swapped = fit_directions(p, n, shrinkage=0.3), fit_directions(n, p, shrinkage=0.3)
    assert_allclose(made.direction, -swapped.direction, atol=1e-5)
    assert_allclose(made.separation, swapped.separation, atol=1e-6)


def test_a_cone_that_all_embeddings_share_does_not_matter():
    p, n = world()
    off = np.random.default_rng(3).standard_normal(D).astype(np.float32)
    made, moved = fit_directions(p, n, shrinkage=0.3), fit_directions(p + off, n + off, shrinkage=0.3)
    assert_allclose(made.direction, moved.direction, atol=1e-4)


def test_directions_turn_with_the_embeddings():
    p, n = world()
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((D, D)))[0]
    made, turned = fit_directions(p, n, shrinkage=0.3), fit_directions(p @ turn, n @ turn, shrinkage=0.3)
    assert_allclose(made.direction @ turn, turned.direction, atol=1e-4)


# --- a catalogue of what goes wrong -------------------------------------------------------------------------


def test_channels_without_examples_on_a_side_have_no_direction():
    p, n = world()
    counts = np.array([0, M, 0, M, 1, 2, M])
    made = fit_directions(p, n, shrinkage=0.5, positive_counts=counts, negative_counts=counts[::-1].copy())
    has = (counts > 0) & (counts[::-1] > 0)
    assert_array_equal(made.direction.any(axis=1), has)
    assert (made.separation[~has] == 0).all()


def test_places_beyond_the_counts_may_hold_anything():
    p, n = world(positives=M, negatives=13)
    counts_p, counts_n = np.array([3, 1, M, 5, 2, 7, 4]), np.array([2, 13, 5, 1, 3, 11, 7])
    for j in range(K):
        p[j, counts_p[j] :], n[j, counts_n[j] :] = np.nan, np.inf
    made = fit_directions(p, n, shrinkage=0.2, positive_counts=counts_p, negative_counts=counts_n)
    for j in range(K):
        alone_p, alone_n = p[j, : counts_p[j]], n[j, : counts_n[j]]
        assert cosine(made.direction[j], oracles.direction(alone_p, alone_n, 0.2)) > 0.999999
        if min(counts_p[j], counts_n[j]) > 1:
            expected = oracles.separation(alone_p, alone_n, 0.2)
            assert made.separation[j] == pytest.approx(expected, abs=1e-6)


def test_a_single_example_has_a_direction_but_nothing_held_out():
    p, n = world(positives=1, negatives=M)
    made = fit_directions(p, n, shrinkage=0.5)
    assert made.direction.any(axis=1).all()
    assert (made.separation == 0).all()


def test_equal_means_and_all_images_equal_have_no_direction():
    same = np.full((1, M, D), 0.125, np.float32)
    symmetric = np.array([[[1.0, 0.0], [-1.0, 0.0]]])
    for positives, negatives in ((same, same), (symmetric, symmetric[:, :, ::-1].copy())):
        made = fit_directions(positives, negatives, shrinkage=0.5)
        assert not made.direction.any()
        assert made.separation.tolist() == [0.0]


def test_duplicate_images_on_each_side_leave_the_mean_difference():
    p, n = world(positives=1, negatives=1)
    made = fit_directions(np.repeat(p, 5, axis=1), np.repeat(n, 3, axis=1), shrinkage=0.1)
    assert_allclose(made.direction, unit_rows(p[:, 0] - n[:, 0]), atol=1e-6)
    assert (made.separation == 1).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_embeddings_does_not_matter(scale):
    p, n = world()
    made = fit_directions(p * np.float32(scale), n * np.float32(scale), shrinkage=0.3)
    assert_allclose(made.direction, fit_directions(p, n, shrinkage=0.3).direction, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_among_real_examples_is_refused_by_its_place(bad):
    p, n = world()
    n[5, 2, 7] = bad
    with pytest.raises(SchemaMismatch, match="channel 5, example 2"):
        fit_directions(p, n, shrinkage=0.5)


@pytest.mark.parametrize("shrinkage", [0, -0.1, 1.1, np.nan])
def test_shrinkage_outside_its_range_is_refused(shrinkage):
    p, n = world()
    with pytest.raises(ConfigError, match="not in"):
        fit_directions(p, n, shrinkage=shrinkage)


def test_shrinkage_below_what_float64_can_solve_is_refused():
    p, n = world(dim=3)
    flat = np.ones(3) / np.sqrt(3)
    p, n = p - (p @ flat)[..., None] * flat, n - (n @ flat)[..., None] * flat
    with pytest.raises(ConfigError, match="too small"):
        fit_directions(p, n, shrinkage=1e-30)


def test_other_shapes_and_counts_are_refused():
    p, n = world()
    with pytest.raises(ConfigError, match="negatives has shape"):
        fit_directions(p, n[:, :, :-1], shrinkage=0.5)
    with pytest.raises(ConfigError, match="positive_counts must lie in 0 to 11"):
        fit_directions(p, n, shrinkage=0.5, positive_counts=np.full(K, 12))


# --- blocks, threads, rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, "ledoit-wolf"])
def test_blocks_and_threads_do_not_change_a_bit(shrinkage):
    p, n = world(channels=13)
    one = fit_directions(p, n, shrinkage=shrinkage, block=1)
    for block, threads in ((3, 1), (4, 2), (64, 3)):
        other = fit_directions(p, n, shrinkage=shrinkage, block=block, threads=threads)
        assert one.direction.tobytes() == other.direction.tobytes()
        assert one.separation.tobytes() == other.separation.tobytes()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_rows_of_a_matrix_give_what_gathered_examples_give(kind):
    rng = np.random.default_rng(1)
    images = embeddings(rng, 101, D).astype(kind)
    positive_rows, negative_rows = rng.integers(0, 101, (K, M)), rng.integers(0, 101, (K, 5))
    counts = np.array([M, 3, M, 0, 7, 2, M])
    positive_rows[np.arange(M) >= counts[:, None]] = -1
    made = fit_directions_indexed(images, positive_rows, negative_rows, shrinkage=0.3, block=3)
    gathered = fit_directions(
        images[positive_rows], images[negative_rows], shrinkage=0.3, positive_counts=counts
    )
    assert made.direction.tobytes() == gathered.direction.tobytes()
    assert made.separation.tobytes() == gathered.separation.tobytes()


def test_rows_that_do_not_exist_are_refused():
    images, rows = np.zeros((5, D)), np.array([[0, 5]])
    with pytest.raises(ConfigError, match="positive_rows"):
        fit_directions_indexed(images, rows, rows, shrinkage=0.5)


# --- ridge from all images ----------------------------------------------------------------------------------


def test_ridge_directions_are_the_regression_of_activations_on_embeddings():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((211, 13)) * np.linspace(0.2, 2, 13)
    activations = images @ rng.standard_normal((13, 5)) + rng.standard_normal((211, 5))
    centred, moved = images - images.mean(axis=0), activations - activations.mean(axis=0)
    covariance, cross_covariance = centred.T @ centred / 211, centred.T @ moved / 211
    made = ridge_directions(covariance, cross_covariance, activations.var(axis=0), shrinkage=0.1)
    ridge = 211 * 0.1 / 0.9 * np.trace(covariance) / 13
    solved = np.linalg.solve(centred.T @ centred + ridge * np.eye(13), centred.T @ moved)
    assert_allclose(made.direction, unit_rows(solved.T), atol=1e-5)
    for j in range(5):
        seen = np.corrcoef(images @ made.direction[j], activations[:, j])[0, 1]
        assert made.separation[j] == pytest.approx(seen, abs=1e-5)


def test_ridge_directions_separate_what_a_mean_difference_confounds():
    # Activation follows dimension 0; dimension 1 goes with it except on a few counter-examples.
    rng = np.random.default_rng(0)
    cue = rng.random(2003) < 0.5
    with_it = np.where(rng.random(2003) < 0.05, ~cue, cue)
    images = np.stack([cue, with_it, rng.random(2003) < 0.5], axis=1).astype(float)
    activation = cue[:, None].astype(float)
    centred = images - images.mean(axis=0)
    made = ridge_directions(
        centred.T @ centred / 2003,
        centred.T @ (activation - activation.mean()) / 2003,
        activation.var(axis=0),
        shrinkage=0.001,
    )
    confounded = mean_difference(images[None, cue], images[None, ~cue])
    assert confounded.direction[0, 1] > 0.6
    assert abs(made.direction[0, 1]) < 0.05
    assert made.direction[0, 0] > 0.99


def test_channels_that_do_not_vary_have_no_ridge_direction():
    covariance = np.diag([1.0, 2.0, 3.0])
    cross_covariance = np.array([[1.0, 1e-17], [0.0, 0.0], [0.0, 0.0]])
    made = ridge_directions(covariance, cross_covariance, np.array([2.0, 0.0]), shrinkage=0.5)
    assert made.direction.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert made.separation[1] == 0
    dead = ridge_directions(np.zeros((3, 3)), np.zeros((3, 2)), np.zeros(2), shrinkage=0.5)
    assert not dead.direction.any()
