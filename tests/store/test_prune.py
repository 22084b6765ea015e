"""A prune drops what no kept snapshot needs, never more, and may die at any moment."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import store.prune
import store.writer
from store.errors import ConfigError, Damaged, SnapshotConflict, StorageUnavailable, StoreNotFound
from store.manifest import Manifest, snapshots
from store.prune import plan_path, prune
from store.reader import Snapshot
from store.schema import tables
from store.signs import RUNNING, at_work
from store.storage import Storage, open_storage
from store.verify import verify
from store.writer import commit, write_part
from tests.store.worlds import TinyWorld, tiny_manifest

NOW = timedelta(0)


def grown(uri: object) -> Storage:
    """Three snapshots: each has an errors part of its own, the second and third share one."""
    storage = open_storage(str(uri))
    first = commit(storage, tiny_manifest(storage, TinyWorld(), 2, None))
    kept = [part for part in first.parts if part.table != "errors"]
    second = [*kept, errors(storage, first, "both"), errors(storage, first, "second")]
    third = [*kept, errors(storage, first, "both"), errors(storage, first, "third")]
    commit(storage, replace(first, snapshot=2, parent=1, parts=tuple(second)))
    commit(storage, replace(first, snapshot=3, parent=2, parts=tuple(third)))
    return storage


def errors(storage: Storage, manifest: Manifest, name: str):
    table = tables(manifest.dims)["errors"]
    rows = pa.Table.from_pylist([{"uri": name, "stage": "read", "reason": "gone"}], schema=table.schema)
    return write_part(storage, table, rows, name)


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return grown(tmp_path / "s" if request.param == "folder" else f"memory://{tmp_path.name}/s")


def named(storage: Storage, *numbers: int) -> set[str]:
    return {path for one in numbers for path in Snapshot.open(storage.uri, one).manifest.paths()}


def names_of_errors(storage: Storage) -> list[str]:
    return sorted(path.split("/")[2].split("-")[0] for path in storage.list("parts/errors/"))


def test_the_newest_is_kept_and_the_others_go(storage: Storage) -> None:
    keep, all_files = named(storage, 3), set(storage.list())
    sizes = sum(storage.size(path) for path in all_files - keep if path.startswith("parts/"))
    done = prune(storage)
    assert (done.kept_snapshots, done.dropped_snapshots) == ((3,), (1, 2))
    assert (done.dropped_files, done.dropped_bytes, done.spared_files) == (3, sizes, 0)
    assert set(storage.list()) == keep
    assert names_of_errors(storage) == ["both", "third"]
    assert verify(storage.uri) == []


def test_keeping_two(storage: Storage) -> None:
    assert prune(storage, keep=2).dropped_snapshots == (1,)
    assert set(storage.list()) == named(storage, 2, 3)
    assert [verify(storage.uri, number) for number in (2, 3)] == [[], []]


def test_keeping_more_than_there_are_drops_nothing(storage: Storage) -> None:
    before = storage.list()
    done = prune(storage, keep=9)
    assert (done.kept_snapshots, done.dropped_files) == ((1, 2, 3), 0)
    assert storage.list() == before


def test_a_dry_run_says_the_same_and_does_nothing(storage: Storage) -> None:
    before = storage.list()
    told = prune(storage, dry_run=True)
    assert storage.list() == before
    assert replace(told, dry_run=False) == prune(storage)


def test_the_next_snapshot_follows_the_kept_one(storage: Storage) -> None:
    prune(storage)
    newest = Snapshot.open(storage.uri).manifest
    commit(storage, replace(newest, snapshot=4, parent=3))
    assert snapshots(storage) == [3, 4]
    assert prune(storage).kept_snapshots == (4,)
    assert verify(storage.uri) == []


def test_other_files_of_the_folder_are_not_touched(tmp_path: Path) -> None:
    storage = grown(tmp_path / "s")
    (tmp_path / "s" / "report").mkdir()
    (tmp_path / "s" / "report" / "index.html").write_text("mine")
    prune(storage, grace=NOW)
    assert (tmp_path / "s" / "report" / "index.html").read_text() == "mine"


@pytest.mark.parametrize("keep", [0, -1])
def test_at_least_one_snapshot_is_kept(storage: Storage, keep: int) -> None:
    with pytest.raises(ConfigError):
        prune(storage, keep=keep)
    assert snapshots(storage) == [1, 2, 3]


def test_without_a_snapshot_nothing_is_touched(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "s")
    tiny_manifest(storage, TinyWorld(), 2, None)  # a run that did not end
    before = storage.list()
    with pytest.raises(StoreNotFound):
        prune(storage, grace=NOW)
    assert storage.list() == before


# files of runs


def age(storage: Storage, path: str, hours: float) -> None:
    then = time.time() - 3600 * hours
    os.utime(Path(storage.uri) / path, (then, then))


def test_unnamed_files_are_dropped_when_they_are_old(tmp_path: Path) -> None:
    storage = grown(tmp_path / "s")
    for path in ("parts/images/000009-x.parquet", "work/partials/a", "indexes/texts-x.faiss"):
        storage.put(path, b"left by a run")
        storage.put(path + "-old", b"left by a run")
        age(storage, path, 23)
        age(storage, path + "-old", 25)
    done = prune(storage, keep=3)
    assert (done.dropped_files, done.spared_files) == (3, 3)
    assert not [path for path in storage.list() if path.endswith("-old")]
    assert prune(storage, keep=3, grace=timedelta(hours=22)).dropped_files == 3
    assert set(storage.list()) == named(storage, 1, 2, 3)


def record(storage: Storage, stage: str, key: str, *paths: str) -> None:
    from pipelines.ledger import Ledger, WorkFile

    Ledger(storage).put(stage, key, None, [WorkFile(path, 0, "") for path in paths])


def test_what_a_later_run_goes_on_from_is_kept_however_old(tmp_path: Path) -> None:
    """Records whose parts a kept snapshot names, their work files, and records that share these."""
    storage = grown(tmp_path / "s")
    old, new = (Snapshot.open(storage.uri, one).manifest for one in (1, 3))
    kept = [
        plan_path(new.fingerprints["plan"]),
        "work/partials/kept",
        "work/texts/kept",
        "work/records/extract/kept.json",
        "work/records/texts/kept.json",
    ]
    gone = ["work/partials/gone", "work/texts/gone", "work/records/a/gone.json", "work/records/b/gone.json"]
    for path in [*kept[:3], *gone[:2]]:
        storage.put(path, b"")
    record(storage, "extract", "kept", new.of("errors")[0].path, kept[1], kept[2])
    record(storage, "texts", "kept", kept[2])
    record(storage, "a", "gone", old.of("errors")[0].path, new.of("images")[0].path, gone[0], kept[2])
    record(storage, "b", "gone", gone[1])
    for path in [*kept, *gone]:
        age(storage, path, 1000)
    prune(storage)
    assert storage.list("work/") == sorted(kept)


def test_what_only_an_old_snapshot_needed_goes_at_once(tmp_path: Path) -> None:
    storage = grown(tmp_path / "s")
    storage.put("work/shared/old", b"")
    record(
        storage,
        "words",
        "old",
        Snapshot.open(storage.uri, 1).manifest.of("errors")[0].path,
        "work/shared/old",
    )
    assert prune(storage).spared_files == 0
    assert storage.list("work/") == []


# beside a run


def test_a_run_at_work_is_left_alone(storage: Storage) -> None:
    before = storage.list()
    with at_work(storage):
        for dry_run in (False, True):
            with pytest.raises(SnapshotConflict, match="A run is at work") as caught:
                prune(storage, dry_run=dry_run, grace=NOW)
            assert "--even-beside-a-run" in caught.value.fix
            assert f"process {os.getpid()} on " in caught.value.what
        assert len(storage.list(RUNNING)) == 1
        assert {*storage.list()} - {*storage.list(RUNNING)} == {*before}
    assert storage.list() == before
    prune(storage)


def test_a_prune_beside_a_run_takes_what_it_asks_for_and_never_the_sign(storage: Storage) -> None:
    storage.put("parts/images/new.parquet", b"of the run")
    with at_work(storage):
        sign = storage.list(RUNNING)
        assert prune(storage, even_beside_a_run=True).spared_files == 1
        assert storage.exists("parts/images/new.parquet")
        assert prune(storage, grace=NOW, even_beside_a_run=True).dropped_files == 1
        assert storage.list(RUNNING) == sign
    assert set(storage.list()) == named(storage, 3)


def test_no_prune_beside_a_commit_whatever_is_said(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes between the look at the files and the manifest."""
    refused: list[str] = []

    def prune_now(at: str) -> None:
        with pytest.raises(SnapshotConflict, match="A run is at work"):
            prune(storage, grace=NOW, even_beside_a_run=True)
        refused.append(at)

    newest = Snapshot.open(storage.uri).manifest
    with monkeypatch.context() as patched:
        patched.setattr(store.writer, "step", prune_now)
        commit(storage, replace(newest, snapshot=4, parent=3))
    assert refused == ["commit:checked", "commit:done"]
    assert verify(storage.uri) == []


def test_no_run_begins_during_a_prune(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def begin(at: str) -> None:
        with pytest.raises(SnapshotConflict, match="being pruned") as caught, at_work(storage):
            pass
        assert "again" in caught.value.fix
        refused.append(at)

    with monkeypatch.context() as patched:
        patched.setattr(store.prune, "BATCH", 2)
        patched.setattr(store.prune, "step", begin)
        done = prune(storage)
    assert (len(done.dropped_snapshots), done.dropped_files, len(refused)) == (2, 3, 4)
    with at_work(storage):
        pass
    assert storage.list("work/") == []


def test_two_prunes_hold_runs_off_until_both_have_ended(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to end takes away its own sign alone."""
    began: list[str] = []

    def second(at: str) -> None:
        monkeypatch.setattr(store.prune, "step", lambda at: None)
        prune(storage)
        with pytest.raises(SnapshotConflict, match="being pruned"), at_work(storage):
            pass
        began.append(at)

    monkeypatch.setattr(store.prune, "step", second)
    prune(storage)
    assert began == ["prune:next"]
    assert set(storage.list()) == named(storage, 3)


def test_files_are_deleted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = grown(tmp_path / "s")
    for number in range(2500):
        storage.put(f"work/partials/{number}", b"")
    asked: list[int] = []
    monkeypatch.setattr(type(storage), "delete", lambda self, *paths: asked.append(len(paths)))
    prune(storage, keep=3, grace=NOW)
    assert [one for one in asked if one > 1] == [1000, 1000, 500]


# deaths and readers


def boom_at(number: int) -> Callable[[str], None]:
    calls = iter(range(number + 1))

    def boom(at: str) -> None:
        if next(calls) == number:
            raise KeyboardInterrupt("boom")

    return boom


@pytest.mark.parametrize("at", range(5))
def test_a_prune_that_dies_leaves_whole_snapshots(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    keep = named(storage, 3)
    with monkeypatch.context() as patched:
        patched.setattr(store.prune, "BATCH", 1)
        patched.setattr(store.prune, "step", boom_at(at))
        with pytest.raises(KeyboardInterrupt):
            prune(storage)
    assert 3 in snapshots(storage)
    for number in snapshots(storage):
        assert verify(storage.uri, number) == []
    assert storage.list("work/") == []
    prune(storage, grace=NOW)
    assert set(storage.list()) == keep


def test_readers_of_a_kept_snapshot_do_not_notice(storage: Storage) -> None:
    reader = Snapshot.open(storage.uri, 3)
    expected = {name: Snapshot.open(storage.uri, 3).table(name) for name in reader.tables}
    prune(storage)
    assert {name: reader.table(name) for name in reader.tables} == expected
    assert reader.sql("SELECT count(*) AS n FROM errors")["n"].to_pylist() == [2]


def test_a_reader_of_a_dropped_snapshot_gets_rows_or_a_named_error(storage: Storage) -> None:
    reader = Snapshot.open(storage.uri, 2)
    images = reader.table("images")
    prune(storage)
    assert reader.table("images").equals(images)  # these files are the third snapshot's too
    for act in (
        lambda: reader.table("errors"),
        lambda: reader.sql("SELECT * FROM errors"),
        lambda: Snapshot(reader.storage, reader.manifest).rows("errors", "uri", ["second"]),
    ):
        with pytest.raises(StoreNotFound, match="Snapshot 2 was pruned") as caught:
            act()
        assert "second" in caught.value.where
    with pytest.raises(StoreNotFound, match="No snapshot 2"):
        Snapshot.open(storage.uri, 2)


def test_a_snapshot_that_is_pruned_while_it_is_verified(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = type(storage).size

    def late(self: Storage, path: str) -> int:
        monkeypatch.setattr(type(storage), "size", size)
        prune(storage)
        return size(self, path)

    monkeypatch.setattr(type(storage), "size", late)
    with pytest.raises(StoreNotFound, match="Snapshot 2 was pruned"):
        verify(storage.uri, 2)


def test_a_lost_file_of_a_snapshot_that_is_there_is_damage(storage: Storage) -> None:
    reader = Snapshot.open(storage.uri, 2)
    storage.delete(reader.parts("errors")[0].path)
    with pytest.raises(Damaged, match="it is missing"):
        reader.table("errors")


def test_a_reader_of_a_dropped_index_hears_that_it_was_pruned(tmp_path: Path) -> None:
    storage = grown(tmp_path / "s")
    first = Snapshot.open(storage.uri, 1)
    newest = Snapshot.open(storage.uri).manifest
    commit(storage, replace(newest, snapshot=4, parent=3, indexes=()))
    prune(storage)
    with pytest.raises(StoreNotFound, match="Snapshot 1 was pruned"):
        first.index("texts")


@pytest.mark.parametrize("asked", [None, 2])
def test_a_manifest_that_goes_between_the_listing_and_the_reading(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    read, newest = type(storage).read, Snapshot.open(storage.uri).manifest

    def late(self: Storage, path: str) -> bytes:
        monkeypatch.setattr(type(storage), "read", read)
        commit(storage, replace(newest, snapshot=4, parent=3))
        prune(storage)
        return read(self, path)

    monkeypatch.setattr(type(storage), "read", late)
    if asked is None:
        assert Snapshot.open(storage.uri).manifest.snapshot == 4
    else:
        with pytest.raises(StoreNotFound, match="No snapshot 2"):
            Snapshot.open(storage.uri, asked)


def test_nothing_outside_the_store_goes(tmp_path: Path) -> None:
    storage = grown(tmp_path / "s")
    outside = tmp_path / "else"
    open_storage(outside).put("old", b"mine")
    os.utime(outside / "old", (0, 0))
    (tmp_path / "s" / "work" / "link").symlink_to(outside)
    (tmp_path / "s" / "parts" / "images" / "link").symlink_to(outside)
    prune(storage, grace=NOW)
    assert (outside / "old").read_bytes() == b"mine"


@pytest.mark.parametrize("folder", ["work/running", "snapshots", "parts/errors"])
def test_what_cannot_be_listed_stops_the_prune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    storage = grown(tmp_path / "s")
    scandir, before = os.scandir, storage.list()

    def failing(place: object) -> object:
        if Path(str(place)) == tmp_path / "s" / folder:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(place)

    with monkeypatch.context() as patched, at_work(storage):
        patched.setattr(os, "scandir", failing)
        with pytest.raises(StorageUnavailable):
            prune(storage, grace=NOW, even_beside_a_run=True)
    assert storage.list() == before


def test_a_damaged_old_manifest_goes_and_a_damaged_kept_one_stops_the_prune(tmp_path: Path) -> None:
    storage = grown(tmp_path / "s")
    storage.put("snapshots/00000001.json", b"{}")
    before = storage.list()
    storage.put("snapshots/00000002.json", b"{}")
    with pytest.raises(Damaged):
        prune(storage, keep=2, grace=NOW)
    assert storage.list() == before
    assert prune(storage, grace=NOW).kept_snapshots == (3,)
    assert verify(storage.uri) == []
