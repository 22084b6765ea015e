"""Corrected heads, what-ifs over a store, and the file that a head is written to."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open

from store.errors import QueryError
from store.schema import stable_id
from store.storage import open_storage
from store.writer import commit
from tests.store.worlds import TinyWorld, tiny_manifest, tiny_store
from textcam import audit_query
from textcam.audit import Finding
from textcam.query import Query
from textcam.suppress import (
    LARGEST_WEIGHT,
    Samples,
    balanced_weights,
    group_accuracies,
    project,
    refit,
    right,
    suppress,
)
from textcam.tensor_file import tensor_bytes
from textcam.whatif import logits_of

# --- the head -------------------------------------------------------------------------------------------


def cue_samples(
    n: int = 1200, follow: float = 0.9, seed: int = 0
) -> tuple[Samples, tuple[np.ndarray, np.ndarray]]:
    """Two classes. Channel 0 tells them apart, weakly; channel 1 is the cue, in ``follow`` of class 1 and the
    rest of class 0; 2 to 4 are noise. The head goes by the cue."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    present = rng.random(n) < np.where(labels == 1, follow, 1 - follow)
    pooled = rng.normal(0, 1, (n, 5))
    pooled[:, 0] += 3 * labels
    pooled[:, 1] = 2 * present + rng.normal(0, 0.1, n)
    head = np.array([[0, -2.0, 0, 0, 0], [0.3, 2.0, 0, 0, 0]]), np.array([1.5, -1.5])
    return Samples(rng.integers(0, 1 << 60, n), labels, pooled, present[:, None]), head


@pytest.mark.parametrize("method", ["project", "refit"])
def test_a_corrected_head_no_longer_goes_by_the_cue(method):
    samples, head = cue_samples()
    made = suppress(samples, head, np.array([1]), method)
    assert made.fitted + made.held_out == 1200
    assert made.unbalanced == 0
    assert made.worst_before < 0.2
    assert abs(made.weights[1, 1] - made.weights[0, 1]) < 0.1 * 4  # of what it was
    if method == "refit":
        assert made.worst_after > made.worst_before + 0.6
        assert made.accuracy_after > made.accuracy_before - 0.01


def test_a_refit_loses_no_more_of_the_average_than_it_may():
    samples, head = cue_samples(follow=0.985)  # so good a cue that giving it up costs
    careful = suppress(samples, head, np.array([1]), lost=0.01)
    free = suppress(samples, head, np.array([1]), lost=0.2)
    assert careful.accuracy_after > careful.accuracy_before - 0.02
    assert careful.accuracy_before - 0.2 < free.accuracy_after < careful.accuracy_after
    cue = [abs(made.weights[1, 1] - made.weights[0, 1]) for made in (careful, free)]
    assert cue[1] < cue[0] / 2
    fresh, _ = cue_samples(follow=0.5, seed=1)  # where the cue tells nothing
    gained = [right(fresh, (made.weights, made.bias)).mean() for made in (careful, free)]
    assert gained[1] > gained[0] + 0.03 > right(fresh, head).mean() + 0.1


def test_projection_leaves_no_covariance_with_the_text():
    samples, head = cue_samples()
    made = project(samples, head, shrinkage=0.0)
    logits = logits_of(samples.pooled, *made)
    for label in (0, 1):
        mine = samples.labels == label
        logits[mine] -= logits[mine].mean(axis=0)
        column = samples.present[mine, 0].astype(float)
        if label == 0:
            total = logits[mine].T @ (column - column.mean())
        else:
            total = total + logits[mine].T @ (column - column.mean())
    assert np.abs(total).max() < 1e-6 * len(samples.labels)
    mean = samples.pooled.mean(axis=0, keepdims=True)
    assert logits_of(mean, *made) == pytest.approx(logits_of(mean, *head))


def test_weights_put_a_text_in_half_of_every_class():
    labels = np.array([0] * 4 + [1] * 6 + [2] * 3)
    present = np.array([1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1], bool)[:, None]
    weights = balanced_weights(labels, present)
    assert weights.sum() == pytest.approx(13)
    for label, share in ((0, 0.5), (1, 0.5), (2, 1.0)):
        mine = labels == label
        assert weights[mine].sum() == pytest.approx(mine.sum())
        assert weights[mine & present[:, 0]].sum() == pytest.approx(share * mine.sum())
    lonely = np.zeros(1000, bool)
    lonely[0] = True
    assert balanced_weights(np.zeros(1000, np.int64), lonely[:, None]).max() == LARGEST_WEIGHT


@pytest.mark.parametrize("seed", range(20))
def test_no_image_weighs_more_than_it_may_and_classes_keep_their_sizes(seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, 1500)
    present = draw.random((1500, 3)) < draw.choice([0.002, 0.01, 0.3, 0.995], 3)
    weights = balanced_weights(labels, present)
    assert weights.min() > 0
    assert weights.max() <= LARGEST_WEIGHT * (1 + 1e-12)
    np.testing.assert_allclose(np.bincount(labels, weights), np.bincount(labels), rtol=1e-9)


def test_a_fit_holds_the_activations_once_more_and_no_more():
    draw = np.random.default_rng(0)
    n, channels = 3000, 400
    labels, present = draw.integers(0, 2, n), draw.random((n, 1)) < 0.5
    samples = Samples(np.arange(n), labels, draw.random((n, channels)).astype(np.float32), present)
    head = draw.standard_normal((2, channels)), np.zeros(2)
    wide = 8 * n * channels  # bytes of the activations as float64
    for work, copies in ((lambda: refit(samples, head, 1.0), 1.5), (lambda: project(samples, head), 2.5)):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < copies * wide


def test_a_refit_held_near_is_the_old_head_and_a_free_one_fits_better():
    samples, head = cue_samples()
    near = refit(samples, head, 1e9)
    assert near[0] == pytest.approx(head[0], abs=1e-3)
    assert near[1] == pytest.approx(head[1], abs=1e-3)
    assert right(samples, refit(samples, head, 1e-3)).mean() > right(samples, head).mean() - 0.05


def test_groups_are_counted_by_hand():
    samples = Samples(
        np.arange(5), np.array([0, 0, 1, 1, 1]), np.zeros((5, 2)), np.array([[1], [0], [1], [1], [0]], bool)
    )
    before, after = np.array([1, 0, 1, 0, 0], bool), np.array([1, 1, 1, 1, 0], bool)
    found = group_accuracies(samples, np.array([0]), before, after)
    assert [(one.of_class, one.with_text, one.n, one.before, one.after) for one in found] == [
        (True, True, 1, 1.0, 1.0),
        (True, False, 1, 0.0, 1.0),
        (False, True, 2, 0.5, 1.0),
        (False, False, 1, 0.0, 0.0),
    ]


def test_a_what_if_over_all_images_is_that_of_each(tmp_path):
    world = TinyWorld()
    tiny_store(tmp_path / "store", world)
    query = Query.open(tmp_path / "store")
    changed = world.pooled.copy()
    changed[:, world.group_of == 1] = world.pooled[:, world.group_of == 1].mean(axis=0)
    before = (world.pooled @ world.weights.T + world.bias).argmax(axis=1)
    after = (changed @ world.weights.T + world.bias).argmax(axis=1)
    found = query.audit.what_if(group_id=1)
    for label in range(3):
        mine = world.labels == label
        right = mine & (before == label)
        assert found.images[label] == mine.sum()
        assert found.right_before[label] == right.sum()
        assert found.right_after[label] == (mine & (after == label)).sum()
        assert found.flips[label] == (right & (after != label)).sum()
    assert found.accuracy == ((before == world.labels).mean(), (after == world.labels).mean())
    assert found.worst[1] == min((after == label)[world.labels == label].mean() for label in range(3))
    by_text = query.audit.what_if(text="red")
    assert by_text.images.sum() == 11
    for wrong in ({}, {"group_id": 1, "text": "red"}, {"group_id": 9}, {"text": "no such text"}):
        with pytest.raises(QueryError):
            query.audit.what_if(**wrong)


def test_too_few_images_are_refused():
    samples, head = cue_samples(12)
    with pytest.raises(QueryError):
        suppress(samples, head, np.array([1]))


def test_a_store_without_activations_or_labels_has_no_corrected_head(tmp_path):
    def opened(name, world, *, without=()):
        storage = open_storage(tmp_path / name)
        whole = tiny_manifest(storage, world, 2, None)
        commit(storage, replace(whole, parts=tuple(one for one in whole.parts if one.table not in without)))
        return Query.open(tmp_path / name).audit

    finding = Finding(
        7, 1, stable_id("red"), 0, "colour", 0.5, None, None, 0, 0, None, None, None, None, None, None,
        None, 0, "used", 1,
    )  # fmt: skip
    with pytest.raises(QueryError, match="no activations"):
        opened("bare", TinyWorld(images=40), without=("activations",)).suppress([finding])
    unlabelled = TinyWorld(images=40)
    unlabelled.labels = np.full(40, -1)
    with pytest.raises(QueryError, match="have none"):
        opened("unlabelled", unlabelled).suppress([finding])
    made = opened("whole", TinyWorld(images=40)).suppress([finding])
    assert made.fitted + made.held_out == 40
    assert made.weights.shape == (3, 7)


def test_a_tensor_file_is_what_the_library_reads(tmp_path):
    arrays = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "fc.bias": np.ones(2, np.float32)}
    (tmp_path / "head.safetensors").write_bytes(tensor_bytes(arrays, {"ä": json.dumps([1])}))
    with safe_open(tmp_path / "head.safetensors", "np") as file:
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {  # noqa: SIM118
            name: array.tolist() for name, array in arrays.items()
        }
        assert file.metadata() == {"ä": "[1]"}


def test_a_fit_takes_no_more_images_than_memory_has_room_for(tmp_path, monkeypatch):
    tiny_store(tmp_path, TinyWorld(images=97))
    audit = Query.open(tmp_path).audit
    whole = audit._samples(audit.findings())
    values = 40 * audit.snapshot.dims.channels
    monkeypatch.setattr(audit_query, "_MOST_VALUES", values)
    some = audit._samples(audit.findings())
    assert 0 < some.pooled.size <= values < whole.pooled.size
    assert set(some.image_ids) == set(whole.image_ids[whole.image_ids <= some.image_ids.max()])
    made = audit.suppress(audit.findings())
    assert made.fitted + made.held_out == len(some.labels)
