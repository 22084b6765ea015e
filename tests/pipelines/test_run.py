"""Whole runs: the same tables whoever ran it and however it was cut; nothing lost, no early commit."""

import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.execute import local_ray
from pipelines.run import Progress, precompute
from store.errors import RunIncomplete, SnapshotConflict, StoreNotFound
from store.reader import Snapshot, as_matrix
from store.schema import TABLE_NAMES
from store.verify import verify
from tests.pipelines import worlds


@pytest.fixture
def world(tmp_path: Path) -> Path:
    worlds.write_images(tmp_path / "images")
    return tmp_path


def test_a_run_writes_every_table_and_a_sound_store(world: Path) -> None:
    summary = precompute(worlds.config(world))
    assert (summary.snapshot, summary.images, summary.errors, summary.new) == (1, 23, 0, True)
    assert verify(world / "store") == []
    snapshot = Snapshot.open(world / "store")
    empty = [name for name in TABLE_NAMES if not snapshot.count(name)]
    assert set(empty) <= {"errors", "findings"}
    assert snapshot.manifest.fingerprints.keys() == {
        "classifier",
        "encoder",
        "texts",
        "plan",
        "configuration",
    }


@pytest.mark.parametrize("count", [1, 2, 7, 72])
def test_one_two_seven_and_many_shards_give_the_same_tables(cues: Path, count: int) -> None:
    precompute(worlds.cue_config(cues, f"of-{count}", run={"shard_size": -(-72 // count)}))
    assert len(Snapshot.open(cues / f"of-{count}").parts("images")) == count
    assert worlds.different_tables(cues / "whole", cues / f"of-{count}") == []


def test_inline_and_one_or_two_ray_workers_give_the_same_files(cues: Path) -> None:
    run = {"executor": "ray", "cpus_per_worker": 0.5, "shard_size": worlds.CUE_SHARD}
    with local_ray():
        for workers in (1, 2):
            precompute(worlds.cue_config(cues, f"ray-{workers}", run={**run, "workers": workers}))
    for workers in (1, 2):
        assert worlds.files(cues / "whole") == worlds.files(cues / f"ray-{workers}")


def test_contributions_add_up_to_the_logit(world: Path) -> None:
    precompute(worlds.config(world, groups={"count": 3, "per_image": 50}))
    snapshot = Snapshot.open(world / "store")
    pooled = as_matrix(snapshot.table("activations")["pooled"].combine_chunks())
    weights = as_matrix(snapshot.table("classes")["weights"].combine_chunks())
    explained = snapshot.table("explanations")
    sums = np.array([sum(row) for row in explained["group_contributions"].to_pylist()])
    expected = (weights[explained["class_id"].to_numpy()] * pooled).sum(1)
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-6)


def test_a_head_that_is_not_linear_is_explained_by_gradients(world: Path) -> None:
    model = {"model": "python:tests.pipelines.models:squashed_classifier"}
    precompute(worlds.config(world, classifier=model, groups={"count": 3, "per_image": 50}))
    snapshot = Snapshot.open(world / "store")
    assert snapshot.table("classes")["weights"].null_count == 3
    assert verify(world / "store") == []
    sums = [sum(row) for row in snapshot.table("explanations")["group_contributions"].to_pylist()]
    assert np.abs(sums).min() > 0


def test_a_second_run_does_nothing_and_says_so(world: Path) -> None:
    precompute(worlds.config(world))
    before = worlds.files(world / "store")
    seen: list[Progress] = []
    again = precompute(worlds.config(world), seen.append)
    assert (again.new, again.snapshot) == (False, 1)
    assert worlds.files(world / "store") == before
    assert next(one.done for one in seen if one.stage == "extract") == 2


def test_other_texts_or_groups_decode_no_image_again(world: Path) -> None:
    precompute(worlds.config(world))
    (world / "images").rename(world / "moved")
    worlds.write_images(world / "images")
    for path in sorted((world / "moved").rglob("*.png")):  # same names and times, unreadable content
        twin = world / "images" / path.relative_to(world / "moved")
        stamp = path.stat().st_mtime_ns
        twin.write_bytes(b"x" * path.stat().st_size)
        os.utime(twin, ns=(stamp, stamp))
    summary = precompute(worlds.config(world, groups={"count": 2}, report={"exemplars": 0}))
    assert (summary.snapshot, summary.images, summary.errors) == (2, 23, 0)
    assert Snapshot.open(world / "store").count("groups") == 2
    assert Snapshot.open(world / "store", 1).count("groups") == 3


def test_a_changed_image_redoes_its_shard_only(world: Path) -> None:
    precompute(worlds.config(world))
    before = {part.path for part in Snapshot.open(world / "store").parts("embeddings")}
    Image.new("RGB", (24, 20), (9, 99, 199)).save(world / "images" / "blue" / "002.png")
    assert precompute(worlds.config(world)).snapshot == 2
    after = {part.path for part in Snapshot.open(world / "store").parts("embeddings")}
    assert (len(before & after), len(after)) == (1, 2)


def test_other_weights_redo_everything(world: Path) -> None:
    precompute(worlds.config(world))
    precompute(worlds.config(world, encoder={"model": "python:tests.pipelines.models:other_clip"}))
    one, two = (Snapshot.open(world / "store", number) for number in (1, 2))
    assert not {part.path for part in one.manifest.parts} & {part.path for part in two.parts("embeddings")}


# images that cannot be used


def damage(world: Path) -> list[str]:
    """A text, an empty file and a truncated JPEG among the images."""
    folder = world / "images" / "red"
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.png").touch()
    (folder / "short.jpg").write_bytes(worlds.jpeg()[:500])
    return ["red/empty.png", "red/short.jpg", "red/text.jpg"]


def test_bad_images_cost_a_row_each_and_nothing_else(world: Path) -> None:
    good = {row["uri"] for row in worlds_images(world)}
    bad = damage(world)
    summary = precompute(worlds.config(world, "again", run={"max_error_rate": 0.2}))
    assert (summary.images, summary.errors) == (23, 3)
    snapshot = Snapshot.open(world / "again")
    assert set(snapshot.table("images")["uri"].to_pylist()) == good
    rows = snapshot.table("errors").to_pylist()
    assert [(row["uri"], row["stage"]) for row in rows] == [(uri, "decode") for uri in bad]
    assert [row["reason"].split(":")[0] for row in rows] == [
        "The image cannot be decoded",
        "The image cannot be decoded",
        "The image cannot be decoded",
    ]


def worlds_images(world: Path) -> list[dict]:
    precompute(worlds.config(world, "good"))
    return Snapshot.open(world / "good").table("images").to_pylist()


def test_too_many_bad_images_commit_nothing_and_name_some(world: Path) -> None:
    damage(world)
    with pytest.raises(RunIncomplete) as caught:
        precompute(worlds.config(world))
    assert caught.value.exit_code == 1
    assert "3 of 26 images could not be used" in caught.value.what
    assert "red/empty.png (decode: The image cannot be decoded: the file is empty.)" in caught.value.where
    with pytest.raises(StoreNotFound):
        Snapshot.open(world / "store")


# kills and races

children = multiprocessing.get_context("forkserver")  # each is a fork of one that has loaded torch
children.set_forkserver_preload(["pipelines.run", "tests.pipelines.worlds", "tests.pipelines.models"])


def run_until(folder: str, name: str, moment: str, there: Connection) -> None:
    """A run that says when a moment has come, and then waits to be killed."""

    def told(progress: Progress) -> None:
        if f"{progress.stage} {progress.done}" == moment:
            there.send(moment)
            there.recv()

    precompute(worlds.cue_config(Path(folder), name, run={"shard_size": worlds.CUE_SHARD}), told)


@pytest.mark.parametrize("moment", ["extract 3", "examples 1", "explain 2", "audit 0", "proof 2", "commit 0"])
def test_killed_and_run_again_ends_in_the_same_store(cues: Path, moment: str) -> None:
    name = moment.replace(" ", "-")
    here, there = children.Pipe()
    run = children.Process(target=run_until, args=(str(cues), name, moment, there))
    run.start()
    there.close()
    assert here.recv() == moment
    run.kill()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    with pytest.raises(StoreNotFound):
        Snapshot.open(cues / name)
    precompute(worlds.cue_config(cues, name, run={"shard_size": worlds.CUE_SHARD}))
    assert worlds.files(cues / name) == worlds.files(cues / "whole")


def test_of_two_runs_at_once_one_commits_and_the_other_says_so(world: Path) -> None:
    config = worlds.config(world)

    def rival(progress: Progress) -> None:
        if progress == Progress("commit", 0, 1):
            precompute(worlds.config(world, groups={"count": 2}))

    # The rival commits snapshot 1 while the first run is about to; the first then builds on it.
    assert precompute(config, rival).snapshot == 2
    assert Snapshot.open(world / "store", 1).count("groups") == 2
    assert Snapshot.open(world / "store", 2).count("groups") == 3


def test_a_commit_that_comes_second_loses_nothing(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import publish

    def rival_first(*arguments: object) -> list[int]:
        return []  # what this run saw before the other one committed

    precompute(worlds.config(world))
    before = worlds.files(world / "store")
    monkeypatch.setattr(publish, "snapshots", rival_first)
    with pytest.raises(SnapshotConflict):
        precompute(worlds.config(world, groups={"count": 2}))
    assert worlds.files(world / "store") == before


def test_the_ledger_does_not_trust_a_file_that_changed(world: Path) -> None:
    precompute(worlds.config(world, "whole"))
    precompute(worlds.config(world, "hurt"))
    part = Snapshot.open(world / "hurt").parts("embeddings")[0]
    data = bytearray((world / "hurt" / part.path).read_bytes())
    data[len(data) // 2] ^= 1
    (world / "hurt" / part.path).write_bytes(data)
    precompute(worlds.config(world, "hurt"))
    assert worlds.files(world / "hurt") == worlds.files(world / "whole")


def test_records_of_a_run_are_plain_json(world: Path) -> None:
    precompute(worlds.config(world))
    records = sorted((world / "store" / "work" / "records").rglob("*.json"))
    stages = {path.parent.name for path in records}
    after_extraction = {"examples", "directions", "texts", "words", "explain", "audit", "exemplars", "maps"}
    assert {"plan", "extract", *after_extraction} == stages
    for path in records:
        assert json.loads(path.read_text()).keys() == {"files", "result"}
