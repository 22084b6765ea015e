"""A prune drops what no kept snapshot needs, never more, and may die at any moment."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import store.prune
from store.errors import ConfigError, Damaged, SnapshotConflict, StoreNotFound
from store.manifest import Manifest, snapshots
from store.prune import PRUNING, RUNNING, at_work, plan_path, prune
from store.reader import Snapshot
from store.schema import tables
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
    with at_work(storage, "run"):
        with pytest.raises(SnapshotConflict, match="A run is at work"):
            prune(storage)
        with pytest.raises(SnapshotConflict, match="A run is at work"):
            prune(storage, dry_run=True)
        assert set(storage.list()) == {*before, f"{RUNNING}run"}
    assert storage.list() == before
    prune(storage)


def test_a_run_that_was_killed_long_ago_is_not_waited_for(tmp_path: Path) -> None:
    storage = grown(tmp_path / "s")
    storage.put(f"{RUNNING}killed", b"")
    with pytest.raises(SnapshotConflict) as caught:
        prune(storage)
    assert "--grace 0" in caught.value.fix
    age(storage, f"{RUNNING}killed", 25)
    assert prune(storage).kept_snapshots == (3,)
    assert storage.list("work/") == []


def test_a_run_renews_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = grown(tmp_path / "s")
    with at_work(storage, "run") as renew:
        age(storage, f"{RUNNING}run", 25)
        renew()
        assert prune(storage, dry_run=True).dropped_snapshots == (1, 2)  # renewed a moment ago: not yet again
        monkeypatch.setattr(store.prune, "RENEWED", -1.0)
        renew()
        with pytest.raises(SnapshotConflict):
            prune(storage)


def test_no_run_begins_during_a_prune(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def begin(at: str) -> None:
        with pytest.raises(SnapshotConflict, match="being pruned"), at_work(storage, "run"):
            pass
        refused.append(at)

    monkeypatch.setattr(store.prune, "step", begin)
    done = prune(storage)
    assert len(refused) == done.dropped_files + len(done.dropped_snapshots)
    with at_work(storage, "run"):
        assert storage.exists(f"{RUNNING}run")
    assert storage.list("work/") == []


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
        patched.setattr(store.prune, "step", boom_at(at))
        with pytest.raises(KeyboardInterrupt):
            prune(storage)
    assert 3 in snapshots(storage)
    for number in snapshots(storage):
        assert verify(storage.uri, number) == []
    assert not storage.exists(PRUNING)
    prune(storage, grace=NOW)
    assert set(storage.list()) == keep


def test_a_prune_that_was_killed_is_finished_by_the_next(storage: Storage) -> None:
    storage.put(PRUNING, b"")  # a killed one takes nothing back
    with pytest.raises(SnapshotConflict, match="being pruned") as caught, at_work(storage, "run"):
        pass
    assert "run it again" in caught.value.fix
    prune(storage)
    with at_work(storage, "run"):
        pass


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
    with pytest.raises(Damaged, match="it is missing") as caught:
        reader.table("errors")
    assert "second" in caught.value.where
    with pytest.raises(StoreNotFound, match="No snapshot 2"):
        Snapshot.open(storage.uri, 2)


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
