"""A commit is all or nothing: races, deaths at every step, a real kill, a full disk."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

import store.storage
import store.writer
from store.errors import Damaged, SchemaMismatch, SnapshotConflict, StorageFull, StoreNotFound
from store.manifest import manifest_path, snapshots
from store.prune import prune
from store.reader import Snapshot
from store.schema import tables
from store.signs import RUNNING, pruning
from store.storage import open_storage
from store.verify import verify
from store.writer import commit, write_part
from tests.store.test_storage import small_disk  # noqa: F401 (a fixture)
from tests.store.worlds import TinyWorld, tiny_manifest, tiny_store

STEPS = ("commit:checked", "put:begun", "put:written", "put:flushed")


@pytest.fixture
def uncommitted(tmp_path):
    storage = open_storage(tmp_path / "s")
    return storage, tiny_manifest(storage, TinyWorld(), 2, None)


def files_of(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()
    }


def boom_at(patched, name):
    """Raise at this moment of the manifest's put; the commit's sign is put before it is checked."""
    checked = []

    def boom(at):
        checked.append(at == "commit:checked")
        if at == name and any(checked):
            raise RuntimeError("boom")

    patched.setattr(store.storage, "step", boom)
    patched.setattr(store.writer, "step", boom)


def test_before_the_commit_there_is_no_store(uncommitted):
    storage, manifest = uncommitted
    with pytest.raises(StoreNotFound):
        Snapshot.open(storage.uri)
    assert commit(storage, manifest) is manifest
    assert Snapshot.open(storage.uri).manifest == manifest
    assert verify(storage.uri) == []


def test_the_same_world_is_the_same_bytes(tmp_path):
    tiny_store(tmp_path / "a" / "s")
    tiny_store(tmp_path / "b" / "s")
    one, other = files_of(tmp_path / "a" / "s"), files_of(tmp_path / "b" / "s")
    differing = {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
    assert differing == {manifest_path(1)}  # it names the images' folder


@pytest.mark.parametrize("name", STEPS)
def test_a_commit_that_dies_shows_nothing(uncommitted, monkeypatch, name):
    storage, manifest = uncommitted

    with monkeypatch.context() as patched:
        boom_at(patched, name)
        with pytest.raises(RuntimeError, match="boom"):
            commit(storage, manifest)
    with pytest.raises(StoreNotFound):
        Snapshot.open(storage.uri)
    commit(storage, manifest)
    assert verify(storage.uri) == []


def test_a_death_after_the_link_shows_the_whole(uncommitted, monkeypatch):
    storage, manifest = uncommitted

    boom_at(monkeypatch, "put:visible")
    with pytest.raises(RuntimeError, match="boom"):
        commit(storage, manifest)
    assert verify(storage.uri) == []
    assert Snapshot.open(storage.uri).manifest == manifest


KILLED = """
import os, signal, sys
import store.storage, store.writer
from tests.store.worlds import tiny_store
def kill(at):
    if at == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
store.storage.step = store.writer.step = kill
tiny_store(sys.argv[1])
"""


@pytest.mark.parametrize("name", ["part:encoded", "put:written", *STEPS[:1], "put:visible", "commit:done"])
def test_a_killed_writer_can_be_run_again(tmp_path, name):
    target = tmp_path / "s"
    command = [sys.executable, "-c", KILLED, str(target), name]
    killed = subprocess.run(
        command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert killed.returncode == -signal.SIGKILL
    committed = bool(snapshots(open_storage(target)))
    assert committed == (name == "commit:done")
    if not committed:
        tiny_store(target)
    assert verify(target) == []
    tiny_store(tmp_path / "other" / "s")
    left = {path for path in files_of(target) if ".tmp-" not in path and not path.startswith(RUNNING)}
    assert committed or not list((target / RUNNING).glob("*"))
    assert left == set(files_of(tmp_path / "other" / "s"))


def test_of_many_writers_one_wins(uncommitted):
    storage, manifest = uncommitted
    offers = [replace(manifest, config={**manifest.config, "writer": number}) for number in range(8)]

    def attempt(offer):
        try:
            return commit(storage, offer)
        except SnapshotConflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [made for made in pool.map(attempt, offers) if made]
    assert len(winners) == 1
    assert Snapshot.open(storage.uri).manifest == winners[0]
    assert verify(storage.uri) == []


def test_the_loser_learns_what_to_do(uncommitted):
    storage, manifest = uncommitted
    commit(storage, manifest)
    with pytest.raises(SnapshotConflict, match="snapshot 1 first") as caught:
        commit(storage, replace(manifest, config={}))
    assert "again" in caught.value.fix
    assert Snapshot.open(storage.uri).manifest == manifest


def test_a_number_that_was_taken_and_pruned_is_not_free(uncommitted):
    """Or else a writer who slept would put an older snapshot beside the newest, and think it his."""
    storage, manifest = uncommitted
    commit(storage, replace(manifest, config={"writer": 1}))
    commit(storage, replace(manifest, config={"writer": 2}, snapshot=2, parent=1))
    prune(storage)
    for late in (manifest, replace(manifest, snapshot=2, parent=1)):
        with pytest.raises(SnapshotConflict, match=f"snapshot {late.snapshot} first"):
            commit(storage, late)
    assert snapshots(storage) == [2]


def test_the_same_manifest_once_more_is_no_conflict(uncommitted):
    """As where the answer to the first put was lost, on a disk over a network too."""
    storage, manifest = uncommitted
    assert commit(storage, manifest) == commit(storage, manifest)
    assert snapshots(storage) == [1]


def test_no_commit_during_a_prune(uncommitted):
    storage, manifest = uncommitted
    with pruning(storage), pytest.raises(SnapshotConflict, match="being pruned") as caught:
        commit(storage, manifest)
    assert "again" in caught.value.fix
    assert snapshots(storage) == storage.list("work/") == []
    commit(storage, manifest)
    assert storage.list("work/") == []


def test_readers_keep_their_snapshot(uncommitted):
    storage, manifest = uncommitted
    commit(storage, manifest)
    before = Snapshot.open(storage.uri)
    table = tables(manifest.dims)["errors"]
    more = pa.Table.from_pylist([{"uri": "z", "stage": "read", "reason": "gone"}], schema=table.schema)
    part = write_part(storage, table, more, "later")
    commit(storage, replace(manifest, snapshot=2, parent=1, parts=(*manifest.parts, part)))
    assert before.count("errors") == 1
    assert before.table("errors").num_rows == 1
    assert Snapshot.open(storage.uri).table("errors").num_rows == 2
    assert Snapshot.open(storage.uri, 1).table("errors").equals(before.table("errors"))
    assert [verify(storage.uri, number) for number in (1, 2)] == [[], []]


@pytest.mark.parametrize(
    "change", [{"snapshot": 2}, {"snapshot": 3, "parent": 1}, {"snapshot": 8, "parent": 7}]
)
def test_numbers_follow_one_another(uncommitted, change):
    storage, manifest = uncommitted
    with pytest.raises(SchemaMismatch):
        commit(storage, replace(manifest, **change))
    assert snapshots(storage) == []


def test_a_lost_or_shortened_part_stops_the_commit(uncommitted):
    storage, manifest = uncommitted
    path = manifest.of("texts")[0].path
    data = storage.read(path)
    storage.put(path, data[:-1])
    with pytest.raises(Damaged, match="bytes and not"):
        commit(storage, manifest)
    storage.delete(path)
    with pytest.raises(Damaged, match="not there") as caught:
        commit(storage, manifest)
    assert path in caught.value.where
    storage.put(path, data)
    commit(storage, manifest)


def test_a_key_in_two_parts_stops_the_commit(uncommitted):
    storage, manifest = uncommitted
    snapshot = Snapshot(storage, manifest)
    table = tables(manifest.dims)["images"]
    again = write_part(storage, table, snapshot.table("images").slice(4, 3), "again")
    with pytest.raises(SchemaMismatch, match="3 keys of images"):
        commit(storage, replace(manifest, parts=(*manifest.parts, again)))


def test_a_part_named_twice_or_miscounted_stops_the_commit(uncommitted):
    storage, manifest = uncommitted
    with pytest.raises(SchemaMismatch, match="twice"):
        commit(storage, replace(manifest, parts=(*manifest.parts, manifest.parts[0])))
    wrong = replace(manifest.parts[0], rows=manifest.parts[0].rows + 1)
    with pytest.raises(SchemaMismatch, match="the manifest says"):
        commit(storage, replace(manifest, parts=(wrong, *manifest.parts[1:])))
    stem = f"indexes/channels-{'0' * 12}-{manifest.indexes[0].sha256[:12]}"
    again = replace(manifest.indexes[0], path=f"{stem}.faiss", card_path=f"{stem}.json")
    with pytest.raises(SchemaMismatch, match="two indexes"):
        commit(
            storage,
            replace(manifest, indexes=(*manifest.indexes, again)),
        )


def test_a_configuration_that_is_no_json_stops_the_commit(uncommitted):
    storage, manifest = uncommitted
    for config in ({"a": float("nan")}, {"a": {1, 2}}):
        with pytest.raises(SchemaMismatch, match="JSON"):
            commit(storage, replace(manifest, config=config))


def test_a_disk_that_fills_up(small_disk):  # noqa: F811
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 990_000)
    with pytest.raises(StorageFull) as caught:
        tiny_store(small_disk / "s")
    assert caught.value.exit_code == 3
    with pytest.raises(StoreNotFound):
        Snapshot.open(small_disk / "s")
    filler.unlink()
    manifest = tiny_manifest(open_storage(small_disk / "s"), TinyWorld(), 2, None)
    commit(open_storage(small_disk / "s"), manifest)
    assert verify(small_disk / "s") == []
