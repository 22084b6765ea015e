import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from store.errors import ConfigError, ImageError
from tests import oracles
from textcam.accumulate import ACTIVATION_BITS, EMBEDDING_BITS, Moments, TopK
from textcam.exact import ExactSum
from textcam.ranking import key_activations, sort_keys, splitmix64

# What goes wrong in practice, one column (channel) each; eleven images.
ROWS = 11
DEGENERATE = {
    "all different": np.linspace(-1, 1, ROWS),
    "constant": np.full(ROWS, 0.5),
    "dead": np.zeros(ROWS),
    "all negative": -1.0 - np.arange(ROWS),
    "fires once": np.eye(ROWS)[3],
    "fires three times": np.where(np.arange(ROWS) % 4 == 1, 2.0, 0.0),
    "saturated": np.minimum(np.arange(ROWS), 2.0),
    "tie in the middle": np.clip(np.arange(ROWS) - 5.0, -1, 1),
    "two values": np.arange(ROWS) % 2.0,
    "signed zeros": np.where(np.arange(ROWS) % 2 == 0, 0.0, -0.0),
    "huge and tiny": np.array([65504.0, -65504.0, 6e-8, -6e-8, *np.zeros(ROWS - 4)]),
}
IDS = np.array([5, 2**62, 17, 0, 99, 3, 2**40 + 1, 8, 1, 2**63 - 1, 42], dtype=np.int64)
POOLED = np.stack(list(DEGENERATE.values()), axis=1).astype(np.float32)


def summary(ids, pooled, examples, batches=(ROWS,)):
    made, start = TopK(pooled.shape[1], examples), 0
    for size in batches:
        made.update(ids[start : start + size], pooled[start : start + size])
        start += size
    return made


def listed(side, channel):
    count = side.counts[channel]
    assert_array_equal(side.image_ids[channel, count:], -1)
    assert np.isnan(side.activations[channel, count:]).all()
    return [
        (int(i), float(a))
        for i, a in zip(side.image_ids[channel, :count], side.activations[channel, :count], strict=True)
    ]


def assert_same_arrays(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name


# --- examples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [1, 2, 3, 5, 6, 7, 11, 13])
def test_examples_agree_with_sorting_on_every_degenerate_channel(examples):
    made = summary(IDS, POOLED, examples, (4, 7))
    positives, negatives = made.sides()
    for channel in range(POOLED.shape[1]):
        upper, lower = oracles.examples(IDS, POOLED[:, channel], examples)
        assert listed(positives, channel) == upper, list(DEGENERATE)[channel]
        assert listed(negatives, channel) == lower, list(DEGENERATE)[channel]


def test_examples_by_hand():
    made = TopK(1, 2)
    made.update(np.array([10, 11, 12, 13, 14]), np.array([[-3.0], [-1.0], [-2.0], [-5.0], [-4.0]]))
    assert listed(made.positives, 0) == [(11, -1.0), (12, -2.0)]
    assert listed(made.negatives, 0) == [(13, -5.0), (14, -4.0)]


def test_fewer_images_than_places_are_shared_out_and_the_middle_one_is_positive():
    made = TopK(1, 4)
    made.update(np.array([1, 2, 3, 4, 5]), np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]))
    assert listed(made.positives, 0) == [(5, 5.0), (4, 4.0), (3, 3.0)]
    assert listed(made.negatives, 0) == [(1, 1.0), (2, 2.0)]


def test_a_channel_that_fires_rarely_keeps_only_images_on_which_it_fires():
    channel = list(DEGENERATE).index("fires three times")
    made = summary(IDS, POOLED, 5)
    assert [a for _, a in listed(made.positives, channel)] == [2.0, 2.0, 2.0]
    assert [a for _, a in listed(made.negatives, channel)] == [0.0] * 5


def test_channels_with_one_value_have_no_examples():
    made = summary(IDS, POOLED, 5)
    for name in ("constant", "dead", "signed zeros"):
        channel = list(DEGENERATE).index(name)
        assert made.positives.counts[channel] == made.negatives.counts[channel] == 0


def test_no_image_and_one_image():
    made = TopK(2, 3)
    assert made.positives.counts.tolist() == made.negatives.counts.tolist() == [0, 0]
    made.update(np.array([7]), np.array([[1.0, -1.0]]))
    assert made.positives.image_ids.tolist() == [[7, -1, -1], [7, -1, -1]]
    assert made.negatives.counts.tolist() == [0, 0]


shards = st.lists(st.integers(0, ROWS), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(ROWS)), shards, st.sampled_from([1, 2, 5, 8]), st.randoms(use_true_random=False))
def test_any_order_batches_and_sharding_give_the_same_bytes(order, cuts, examples, random):
    order = np.array(order)
    whole = summary(IDS, POOLED, examples).to_arrays()
    edges = [0, *sorted(cuts), ROWS]
    parts = [
        summary(IDS[order[a:b]], POOLED[order[a:b]], examples, (1, b - a))
        for a, b in itertools.pairwise(edges)
    ]
    random.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert_same_arrays(whole, merged.to_arrays())


def test_thousands_of_ties_are_broken_by_id_and_not_by_order():
    rng = np.random.default_rng(0)
    images, channels, examples = 3001, 3, 7
    ids = rng.permutation(10**6)[:images].astype(np.int64)
    pooled = np.maximum(rng.standard_normal((images, channels)) - 1, 0).astype(np.float16).astype(np.float32)
    forward = summary(ids, pooled, examples, [500] * 7)
    backward = summary(ids[::-1], pooled[::-1], examples, [293] * 11)
    assert_same_arrays(forward.to_arrays(), backward.to_arrays())
    for channel in range(channels):
        upper, lower = oracles.examples(ids, pooled[:, channel], examples)
        assert listed(forward.positives, channel) == upper
        assert listed(forward.negatives, channel) == lower
        # The first images seen are zeros too, but the hash does not favour them.
        assert {i for i, _ in lower}.isdisjoint(ids[:examples].tolist())


def test_equal_upper_halves_of_the_hash_are_told_apart_by_the_lower(monkeypatch):
    # With a hash of few upper values nearly all keys are equal, so the second comparison decides.
    def weak(ids):
        x = np.asarray(ids, dtype=np.int64).view(np.uint64)
        return ((x % np.uint64(2)) << np.uint64(32)) | (x * np.uint64(7919) % np.uint64(1009))

    monkeypatch.setattr("textcam.ranking.splitmix64", weak)
    monkeypatch.setattr("tests.oracles.splitmix64", lambda i: ((i % 2) << 32) | (i * 7919 % 1009))
    ids, pooled = np.arange(997), np.zeros((997, 2), np.float32)
    pooled[::100, 1] = 1.0
    made = summary(ids, pooled, 5, [100] * 10)
    upper, lower = oracles.examples(ids, pooled[:, 1], 5)
    assert (listed(made.positives, 1), listed(made.negatives, 1)) == (upper, lower)


def test_memory_does_not_grow_with_images():
    made = TopK(3, 2)
    before = made._highest.keys.nbytes
    for start in range(0, 5000, 100):
        made.update(np.arange(start, start + 100), np.random.default_rng(start).random((100, 3)))
    assert made._highest.keys.nbytes == before
    assert made.images == 5000


def test_saved_examples_can_go_on():
    first, second = summary(IDS[:6], POOLED[:6], 3, (6,)), summary(IDS[6:], POOLED[6:], 3, (5,))
    again = TopK.from_arrays(first.to_arrays())
    assert_same_arrays(again.to_arrays(), first.to_arrays())
    again.merge(TopK.from_arrays(second.to_arrays()))
    assert_same_arrays(again.to_arrays(), summary(IDS, POOLED, 3).to_arrays())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_image_without_a_usable_score_is_refused_by_id_and_leaves_nothing(bad):
    made = summary(IDS, POOLED, 3)
    before = made.to_arrays()
    pooled = POOLED[:2].copy()
    pooled[1, 4] = bad
    with pytest.raises(ImageError, match="image_id 1001"):
        made.update(np.array([1000, 1001]), pooled)
    assert_same_arrays(before, made.to_arrays())


def test_ids_that_repeat_or_are_negative_are_refused():
    made = TopK(1, 2)
    with pytest.raises(ImageError, match="twice"):
        made.update(np.array([4, 4]), np.zeros((2, 1)))
    with pytest.raises(ImageError, match="negative"):
        made.update(np.array([-1]), np.zeros((1, 1)))


def test_other_sizes_are_refused():
    with pytest.raises(ConfigError):
        TopK(0, 2)
    with pytest.raises(ConfigError, match="cannot be merged"):
        TopK(2, 3).merge(TopK(2, 4))
    with pytest.raises(ConfigError, match="pooled has shape"):
        TopK(2, 3).update(np.arange(2), np.zeros((2, 3)))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_keys_order_like_numbers_and_give_them_back(values):
    values = np.array(values, np.float32)
    keys = sort_keys(values, np.zeros(len(values), np.int64))
    assert_array_equal(np.argsort(keys, kind="stable"), np.argsort(values, kind="stable"))
    assert_array_equal(key_activations(keys), values)


@given(st.integers(0, 2**63 - 1))
def test_the_hash_is_splitmix64(image_id):
    assert int(splitmix64(np.array([image_id]))[0]) == oracles.splitmix64(image_id)


def test_the_hash_has_the_published_first_value():
    # First output of SplitMix64 with seed 0.
    assert int(splitmix64(np.array([0]))[0]) == 0xE220A8397B1DCDAF


# --- exact sums ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(-(2**52), 2**52), min_size=1, max_size=40), st.integers(0, 40))
def test_sums_far_beyond_float64_are_exact_and_split_anywhere(values, cut):
    def total(part):
        made = ExactSum((1,))
        for value in part:
            made.add(np.array([float(value)]), 2.0**52)
            made.add_rows(np.array([[value << 10], [value]]))
        return made

    whole, split = total(values), total(values[:cut])
    split.merge(total(values[cut:]))
    assert whole.integers()[0] == sum(value * 1026 for value in values)
    for one, other in zip(whole.limbs(), split.limbs(), strict=True):
        assert one.tobytes() == other.tobytes()


# --- moments ------------------------------------------------------------------------------------------------


def world(images=13, channels=5, dim=7, seed=0):
    rng = np.random.default_rng(seed)
    pooled = np.maximum(rng.standard_normal((images, channels)), 0).astype(np.float16)
    embeddings = rng.standard_normal((images, dim))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return pooled, embeddings.astype(np.float16)


@pytest.mark.parametrize(("channels", "dim"), [(5, 7), (3, 3)])
def test_moments_agree_with_rational_arithmetic(channels, dim):
    pooled, embeddings = world(channels=channels, dim=dim)
    made = Moments(channels, dim)
    made.update(pooled, embeddings)
    truth = oracles.moments(pooled, embeddings, ACTIVATION_BITS, EMBEDDING_BITS)
    for name, expected in truth.items():
        np.testing.assert_allclose(getattr(made, name), expected, rtol=1e-12, atol=1e-14, err_msg=name)
    assert_array_equal(made.active_fraction, (pooled > 0).mean(axis=0))


def test_rounding_to_steps_changes_moments_by_less_than_float16_does():
    pooled, embeddings = world(images=503)
    made = Moments(5, 7)
    made.update(pooled, embeddings)
    exact_e, exact_a = embeddings.astype(np.float64), pooled.astype(np.float64)
    np.testing.assert_allclose(made.embedding_covariance, np.cov(exact_e.T, bias=True), atol=2e-6)
    np.testing.assert_allclose(made.variance, exact_a.var(axis=0), atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(13)), st.lists(st.integers(0, 13), max_size=3), st.randoms(use_true_random=False)
)
def test_moments_are_the_same_bytes_for_any_order_and_sharding(order, cuts, random):
    pooled, embeddings = world()
    whole = Moments(5, 7)
    whole.update(pooled, embeddings)
    order, edges = np.array(order), [0, *sorted(cuts), 13]
    parts = []
    for a, b in itertools.pairwise(edges):
        part = Moments(5, 7)
        for image in order[a:b]:
            part.update(pooled[[image]], embeddings[[image]])
        parts.append(part)
    random.shuffle(parts)
    merged = Moments.from_arrays(parts[0].to_arrays())
    for part in parts[1:]:
        merged.merge(part)
    assert_same_arrays(whole.to_arrays(), merged.to_arrays())
    assert merged.images == 13


def test_the_largest_values_of_float16_stay_exact():
    pooled = np.tile(np.array([[65504.0], [-65504.0]], np.float16), (500, 1))
    embeddings = np.tile(np.array([[1.0], [1.0]], np.float16), (500, 1))
    made = Moments(1, 1)
    made.update(pooled, embeddings)
    assert made.mean.tolist() == [0.0]
    assert made.variance.tolist() == [65504.0**2]
    assert made.cross_covariance.tolist() == [[0.0]]
    assert made.embedding_covariance.tolist() == [[0.0]]


def test_a_constant_channel_has_a_variance_of_exactly_zero():
    made = Moments(2, 1)
    for _ in range(7):
        made.update(np.array([[0.1, 1.0], [0.1, 3.0]]), np.ones((2, 1)))
    assert made.variance.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("pooled", "embedding"), [(np.nan, 0.5), (1e6, 0.5), (1.0, np.inf), (1.0, 17.0)])
def test_values_that_would_not_be_exact_are_refused_and_leave_nothing(pooled, embedding):
    made = Moments(1, 1)
    made.update(np.array([[1.0]]), np.array([[1.0]]))
    before = made.to_arrays()
    with pytest.raises(ImageError, match="row 1"):
        made.update(np.array([[1.0], [pooled]]), np.array([[1.0], [embedding]]))
    assert_same_arrays(before, made.to_arrays())


def test_moments_of_other_sizes_are_refused():
    with pytest.raises(ConfigError, match="cannot be merged"):
        Moments(2, 3).merge(Moments(3, 2))
    with pytest.raises(ConfigError, match="embeddings has shape"):
        Moments(2, 3).update(np.zeros((5, 2)), np.zeros((4, 3)))


def test_saved_moments_are_narrow_and_go_on():
    pooled, embeddings = world(images=503)
    made = Moments(5, 7)
    made.update(pooled[:100], embeddings[:100])
    arrays = made.to_arrays()
    assert arrays["cross_high"].dtype == np.int8
    assert arrays["cross_low"].dtype == np.uint32
    again, whole = Moments.from_arrays(arrays), Moments(5, 7)
    again.update(pooled[100:], embeddings[100:])
    whole.update(pooled, embeddings)
    assert_same_arrays(again.to_arrays(), whole.to_arrays())


def test_sums_of_many_images_outgrow_one_byte_and_come_back():
    made = Moments(1, 1)
    for _ in range(300):
        made.update(np.full((500, 1), 60000.0), np.ones((500, 1)))
    arrays = made.to_arrays()
    assert arrays["activation_squared_high"].dtype == np.int64
    assert arrays["activation_high"].dtype == np.int32
    assert Moments.from_arrays(arrays).mean.tolist() == [60000.0]
    assert Moments.from_arrays(arrays).variance.tolist() == [0.0]
