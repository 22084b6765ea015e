"""Growth: a store that grew equals one made at once, and its old shards are the very same files."""

import io
import os
import shutil
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tests.pipelines.models
from pipelines import grow
from pipelines.config import Config, ImagesSection, RunSection
from pipelines.run import Progress, precompute
from service.originals import Originals
from store.errors import ConfigError, ModelError, RunIncomplete, SnapshotConflict, SourceError
from store.prune import prune
from store.reader import Snapshot
from store.storage import open_storage
from store.verify import verify
from tests.pipelines import worlds
from textcam.source_images import SourceImages, namings, places

add = partial(grow.add, trust_code=True)  # the models are functions of these tests
RUN = RunSection(executor="inline", shard_size=5, device="cpu", batch_size=64)
PER_IMAGE = ("images", "embeddings", "activations", "errors")
NO_MAPS = {"report": {"exemplars": 0}, "proof": {"findings": 0}}  # a proof, too, needs the originals
OLD, ALL = 14, 23


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """All images in ``all``, the first of them in ``images``."""
    worlds.write_images(tmp_path / "all", ALL)
    move(tmp_path, "images", range(OLD))
    return tmp_path


def move(world: Path, folder: str, numbers: range) -> None:
    """Copies of some of all images, with their times."""
    for path in sorted((world / "all").rglob("*.png")):
        if int(path.stem) in numbers:
            target = world / folder / path.relative_to(world / "all")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def section(path: Path, **options: Any) -> ImagesSection:
    return ImagesSection(uri=str(path), **options)


def config(world: Path, store: str = "store", *added: ImagesSection, **sections: Any) -> Config:
    return worlds.config(world, store, **sections).model_copy(update={"added": added})


def spoil(folder: Path) -> None:
    """The same names, sizes and times, but no images."""
    for path in sorted(folder.rglob("*.png")):
        stamp = path.stat().st_mtime_ns
        path.write_bytes(b"x" * path.stat().st_size)
        os.utime(path, ns=(stamp, stamp))


def part_paths(store: Path, snapshot: int) -> set[str]:
    manifest = Snapshot.open(store, snapshot).manifest
    return {part.path for part in manifest.parts if part.table in PER_IMAGE}


def shards_of(store: Path) -> dict[str, int]:
    rows = Snapshot.open(store).table("images", ["uri", "shard"]).to_pylist()
    return {row["uri"]: row["shard"] for row in rows}


# the same tables as in one run


def test_files_added_to_the_same_folder(world: Path) -> None:
    (world / "images" / "red" / "999.png").write_bytes(b"no image")
    precompute(config(world, run={"max_error_rate": 0.2}))
    move(world, "images", range(OLD, ALL))
    summary = add(str(world / "store"), section(world / "images"), RUN)
    counts = (summary.listed, summary.known, summary.added, summary.images, summary.errors)
    assert counts == (ALL + 1, OLD + 1, ALL - OLD, ALL, 1)
    assert (summary.snapshot, summary.new) == (2, True)
    assert verify(world / "store") == []
    assert part_paths(world / "store", 1) < part_paths(world / "store", 2)
    numbers = shards_of(world / "store")
    assert {numbers[f"{('red', 'green', 'blue')[one % 3]}/{one:03d}.png"] for one in range(OLD)} == {0, 1}
    assert set(numbers.values()) == {0, 1, 2, 3}  # two of up to 12, then two of up to 5
    precompute(config(world, "once", run={"max_error_rate": 0.2}))
    assert worlds.different_tables(world / "store", world / "once") == []


def test_findings_and_proofs_of_a_grown_store_are_those_of_one_run(cues: Path, tmp_path: Path) -> None:
    """All of them: what was proved on few images is proved anew on all."""
    shutil.copytree(cues / "images", tmp_path / "all")
    move(tmp_path, "images", range(30))
    precompute(worlds.cue_config(tmp_path))
    before = Snapshot.open(tmp_path / "store").table("findings")
    move(tmp_path, "images", range(30, 72))
    add(str(tmp_path / "store"), section(tmp_path / "images"), RUN.model_copy(update={"batch_size": 4}))
    assert worlds.different_tables(tmp_path / "store", cues / "whole") == []
    assert before.num_rows
    assert not before.equals(Snapshot.open(tmp_path / "store").table("findings"))


def test_images_of_another_folder_carry_it_in_their_names(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))
    add(str(world / "store"), section(world / "more"), RUN)
    snapshot = Snapshot.open(world / "store")
    uris = snapshot.table("images")["uri"].to_pylist()
    assert sum(uri.startswith(f"{world}/more/") for uri in uris) == ALL - OLD
    assert "red/000.png" in uris
    for opened in (Originals(snapshot.manifest.config), SourceImages(snapshot.manifest.config)):
        assert [opened(uri).size for uri in uris] == [(24, 20)] * ALL
    precompute(config(world, "once", section(world / "more")))
    assert worlds.different_tables(world / "store", world / "once") == []


def test_growth_in_two_steps_and_a_subfolder(world: Path) -> None:
    precompute(config(world))
    move(world, "images", range(OLD, 18))
    add(str(world / "store"), section(world / "images" / "blue"), RUN)  # 017
    add(str(world / "store"), section(world / "images"), RUN)
    move(world, "images", range(18, ALL))
    add(str(world / "store"), section(world / "images"), RUN)
    assert Snapshot.open(world / "store").manifest.config["added"] == []
    precompute(config(world, "once"))
    assert worlds.different_tables(world / "store", world / "once") == []
    assert verify(world / "store") == []


def test_a_rerun_after_files_came_keeps_the_old_shards(world: Path) -> None:
    precompute(config(world))
    move(world, "images", range(OLD, ALL))
    spoiled = world / "images"
    for one in range(OLD):
        path = spoiled / ("red", "green", "blue")[one % 3] / f"{one:03d}.png"
        stamp = path.stat().st_mtime_ns
        path.write_bytes(b"x" * path.stat().st_size)
        os.utime(path, ns=(stamp, stamp))
    summary = precompute(config(world, **NO_MAPS))
    assert (summary.images, summary.errors) == (ALL, 0)
    assert part_paths(world / "store", 1) < part_paths(world / "store", 2)
    shutil.rmtree(world / "images")
    move(world, "images", range(ALL))
    precompute(config(world, "once", **NO_MAPS))
    assert worlds.different_tables(world / "store", world / "once") == []


def test_a_rerun_that_was_killed_before_the_first_commit_keeps_its_shards_too(world: Path) -> None:
    def killed(progress: Progress) -> None:
        if progress.stage == "words":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precompute(config(world), killed)
    before = sorted((world / "store" / "parts" / "embeddings").iterdir())
    (world / "images" / "aaa").mkdir()
    shutil.copy(world / "all" / "red" / "021.png", world / "images" / "aaa")  # sorts before all others
    precompute(config(world))
    assert set(before) < set((world / "store" / "parts" / "embeddings").iterdir())


# old images are not needed


@pytest.mark.parametrize("gone", ["unreadable", "deleted"])
def test_old_images_are_not_read_again(world: Path, gone: str) -> None:
    precompute(config(world, **NO_MAPS))
    move(world, "more", range(OLD, ALL))
    precompute(config(world, "once", section(world / "more"), **NO_MAPS))
    spoil(world / "images") if gone == "unreadable" else shutil.rmtree(world / "images")
    summary = add(str(world / "store"), section(world / "more"), RUN)
    assert (summary.images, summary.errors, summary.added) == (ALL, 0, ALL - OLD)
    assert worlds.different_tables(world / "store", world / "once") == []


def test_maps_of_old_images_that_are_gone_are_left_out(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))
    shutil.rmtree(world / "images")
    add(str(world / "store"), section(world / "more"), RUN)
    assert verify(world / "store") == []
    snapshot = Snapshot.open(world / "store")
    drawn = snapshot.rows("images", "image_id", snapshot.table("maps")["image_id"].to_pylist(), ["uri"])
    assert drawn.num_rows > 0
    assert all(uri.startswith(f"{world}/more/") for uri in drawn["uri"].to_pylist())


WEIGHTS = Path(__file__).parents[2] / "demo" / "weights"
DENSE = {
    "classifier": {
        "model": "python:demo.models:tiny_classifier",
        "weights": str(WEIGHTS / "biased.safetensors"),
    },
    "encoder": {"model": f"local-dir:{WEIGHTS / 'clip'}"},
    "directions": {"examples": 3},
}


def test_vectors_of_regions_are_kept_too(world: Path) -> None:
    """The second pass: examples among the old images were examples before."""
    precompute(config(world, **DENSE, **NO_MAPS))
    move(world, "more", range(OLD, ALL))
    precompute(config(world, "once", section(world / "more"), **DENSE, **NO_MAPS))
    seen: list[Progress] = []
    shutil.rmtree(world / "images")
    add(str(world / "store"), section(world / "more"), RUN, seen.append)
    assert "regions" in {one.stage for one in seen}
    assert Snapshot.open(world / "store").matrix("channels", "region_direction")[1].any()
    assert worlds.different_tables(world / "store", world / "once") == []


def test_a_lost_plan_is_made_again_from_the_tables(world: Path) -> None:
    precompute(config(world))
    shutil.rmtree(world / "store" / "work" / "plans")
    move(world, "images", range(OLD, ALL))
    move(world, "more", range(ALL - 2, ALL))
    add(str(world / "store"), section(world / "more"), RUN)  # and not what came into the old folder
    assert Snapshot.open(world / "store").count("images") == OLD + 2
    assert part_paths(world / "store", 1) < part_paths(world / "store", 2)


def test_without_plan_and_images_it_says_what_is_missing(world: Path) -> None:
    precompute(config(world))
    shutil.rmtree(world / "store" / "work")
    (world / "images" / "red" / "000.png").unlink()
    move(world, "more", range(OLD, ALL))
    with pytest.raises(RunIncomplete, match="plan of this store is lost, and 1 of its images"):
        add(str(world / "store"), section(world / "more"), RUN)
    assert Snapshot.open(world / "store").manifest.snapshot == 1


def test_without_records_old_images_are_read_or_nothing_is_committed(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))
    for name in ("records/extract", "partials"):
        shutil.rmtree(world / "store" / "work" / name)
    (world / "images" / "red" / "000.png").rename(world / "kept.png")
    with pytest.raises(RunIncomplete, match="1 images of snapshot 1 can no longer be read"):
        add(str(world / "store"), section(world / "more"), RUN)
    (world / "kept.png").rename(world / "images" / "red" / "000.png")
    add(str(world / "store"), section(world / "more"), RUN)
    assert part_paths(world / "store", 1) < part_paths(world / "store", 2)


# what is refused, and what is nothing


def test_nothing_new_commits_nothing(world: Path) -> None:
    precompute(config(world))
    before = worlds.files(world / "store")
    summary = add(str(world / "store"), section(world / "images"), RUN)
    assert (summary.new, summary.snapshot, summary.listed, summary.known) == (False, 1, OLD, OLD)
    assert worlds.files(world / "store") == before


def test_the_folder_above_brings_no_image_twice(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))
    shutil.rmtree(world / "all")
    summary = add(str(world / "store"), section(world), RUN)
    assert (summary.listed, summary.known, summary.images) == (ALL, OLD, ALL)
    again = add(str(world / "store"), section(world / "more"), RUN)
    assert (again.known, again.new) == (ALL - OLD, False)


def test_a_later_run_with_other_settings_keeps_what_was_added(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))
    add(str(world / "store"), section(world / "more"), RUN)
    summary = precompute(config(world, groups={"count": 2}))
    assert (summary.snapshot, summary.images) == (3, ALL)
    assert part_paths(world / "store", 2) == part_paths(world / "store", 3)


def test_too_many_bad_new_images_commit_nothing(world: Path) -> None:
    precompute(config(world))
    (world / "more").mkdir()
    (world / "more" / "bad.png").write_bytes(b"no image")
    with pytest.raises(RunIncomplete, match="1 of 1 images could not be used"):
        add(str(world / "store"), section(world / "more"), RUN)
    assert Snapshot.open(world / "store").manifest.snapshot == 1


def test_an_empty_source_is_an_error_of_the_request(world: Path) -> None:
    precompute(config(world))
    (world / "more").mkdir()
    with pytest.raises(SourceError, match="No image was found"):
        add(str(world / "store"), section(world / "more"), RUN)
    with pytest.raises(SourceError, match="no such folder"):
        add(str(world / "store"), section(world / "nowhere"), RUN)


def test_another_classifier_is_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))
    models = tests.pipelines.models
    monkeypatch.setattr(models, "linear_classifier", models.squashed_classifier)
    with pytest.raises(ModelError, match="classifier is not the one"):
        add(str(world / "store"), section(world / "more"), RUN)


def test_labels_that_would_change_old_ones_are_refused(world: Path) -> None:
    """Three folders that name no class are the three classes in order; with a fourth they would be none."""
    for new, old in (("x1", "red"), ("x2", "green"), ("x3", "blue")):
        (world / "images" / old).rename(world / "images" / new)
    precompute(config(world))
    shutil.copytree(world / "all" / "red", world / "more" / "x4")
    with pytest.raises(ConfigError, match="3 old labels") as caught:
        add(str(world / "store"), section(world / "more"), RUN)
    assert caught.value.where == "x1, x2, x3"
    summary = add(str(world / "store"), section(world / "more", labels="none"), RUN)
    assert summary.added == 8
    assert Snapshot.open(world / "store").table("images")["label"].null_count == 8


def test_of_two_additions_at_once_one_commits_and_nothing_is_lost(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, 18))
    move(world, "other", range(18, ALL))
    store = str(world / "store")

    def rival(progress: Progress) -> None:
        if progress == Progress("commit", 0, 1):
            add(store, section(world / "other"), RUN)

    with pytest.raises(SnapshotConflict, match="after snapshot 1"):
        add(store, section(world / "more"), RUN, rival)
    assert Snapshot.open(store).count("images") == OLD + 5
    assert add(store, section(world / "more"), RUN).images == ALL


def test_a_run_does_not_drop_what_was_added_meanwhile(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))

    def rival(progress: Progress) -> None:
        if progress == Progress("commit", 0, 1):
            add(str(world / "store"), section(world / "more"), RUN)

    with pytest.raises(SnapshotConflict, match="Images were added"):
        precompute(config(world, groups={"count": 2}), rival)
    assert precompute(config(world, groups={"count": 2})).images == ALL


def test_an_addition_that_was_stopped_goes_on(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))

    def stopped(progress: Progress) -> None:
        if (progress.stage, progress.done, progress.total) == ("extract", 3, 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(str(world / "store"), section(world / "more"), RUN, stopped)
    seen: list[Progress] = []
    add(str(world / "store"), section(world / "more"), RUN, seen.append)
    assert next(one.done for one in seen if one.stage == "extract") == 3
    precompute(config(world, "once", section(world / "more")))
    assert worlds.different_tables(world / "store", world / "once") == []


def test_growth_after_a_prune_needs_no_old_image_either(world: Path) -> None:
    precompute(config(world, **NO_MAPS))
    precompute(config(world, groups={"count": 2}, **NO_MAPS))
    prune(open_storage(world / "store"))
    move(world, "more", range(OLD, ALL))
    shutil.rmtree(world / "images")
    summary = add(str(world / "store"), section(world / "more"), RUN)
    assert (summary.snapshot, summary.images, summary.errors) == (3, ALL, 0)
    assert verify(world / "store") == []


# names


def test_members_of_archives_are_added_to_a_folder(world: Path) -> None:
    precompute(config(world))
    (world / "tars").mkdir()
    with tarfile.open(world / "tars" / "00.tar", "w") as tar:
        for number in (OLD, OLD + 1):
            data = next((world / "all").rglob(f"{number:03d}.png")).read_bytes()
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    add(str(world / "store"), section(world / "tars", format="webdataset"), RUN)
    snapshot = Snapshot.open(world / "store")
    uri = f"{world}/tars/00.tar/{OLD}.png"
    assert uri in snapshot.table("images")["uri"].to_pylist()
    with Image.open(next((world / "all").rglob(f"{OLD:03d}.png"))) as original:
        assert Originals(snapshot.manifest.config)(uri).tobytes() == original.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        (["/a"], [""]),
        (["/a", "/b/c/"], ["", "/b/c/"]),
        (["/a", "/a/b", "/a"], ["", "b/", ""]),
        (["/a", "/ab"], ["", "/ab/"]),
        (["/a", "s3://x/y", "s3://x/y/z"], ["", "s3://x/y/", "s3://x/y/z/"]),
        (["/a/list.csv", "/a/more.csv", "/b/list.csv"], ["", "", "/b/"]),
        (["/", "/a"], ["", "a/"]),
    ],
)
def test_names_of_sources(uris: list[str], names: list[str]) -> None:
    assert namings(uris) == names


def test_an_image_is_found_by_its_name() -> None:
    assert places("/b/c/x.png", ["", "/b/", "/b/c/"]) == [(2, "x.png"), (1, "c/x.png"), (0, "/b/c/x.png")]
    assert places("x.png", ["", "/b/"]) == [(0, "x.png")]


# what a store may not choose


def test_models_that_are_code_are_loaded_for_those_who_trust_the_store(world: Path) -> None:
    precompute(config(world))
    move(world, "more", range(OLD, ALL))
    with pytest.raises(ModelError, match="nothing of it was run") as refused:
        grow.add(str(world / "store"), section(world / "more"), RUN)
    assert "classifier: imports tests.pipelines.models and calls linear_classifier()" in refused.value.where
    assert "encoder: imports tests.pipelines.models and calls clip()" in refused.value.where
    assert Snapshot.open(world / "store").manifest.snapshot == 1


def test_a_store_does_not_choose_where_work_is_done_or_what_is_written(world: Path) -> None:
    precompute(config(world))
    base = Snapshot.open(world / "store").manifest
    hostile = {"address": "ray://elsewhere:10001", "events": str(world / "log"), "executor": "ray"}
    changed = replace(base, config={**base.config, "run": {**base.config["run"], **hostile}})
    kept = grow.remembered(changed, str(world / "store"), RUN).run
    assert (kept.address, kept.events, kept.executor) == (None, None, "inline")
    assert kept.batch_size == base.config["run"]["batch_size"]
