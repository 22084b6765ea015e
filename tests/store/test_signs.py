"""Signs of runs and prunes: whose counts, how long, and who takes which away."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import store.signs
from store.errors import SnapshotConflict, StorageUnavailable
from store.signs import PRUNING, RUNNING, Sign, at_work, living, pruning
from store.storage import LocalStorage

ROOT = Path(__file__).parents[2]
HELD = """
import sys
from store.signs import at_work, pruning
from store.storage import open_storage
with {"at_work": at_work, "pruning": pruning}[sys.argv[2]](open_storage(sys.argv[1])):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "s")


def age(storage: LocalStorage, path: str, minutes: float) -> None:
    then = time.time() - 60 * minutes
    os.utime(storage.root / path, (then, then))


def put_sign(storage: LocalStorage, path: str, **changes: object) -> None:
    """A sign of this process, changed."""
    storage.put(path, json.dumps({**store.signs._myself(), **changes}).encode())


def test_runs_do_not_mind_runs_nor_prunes_prunes(folder: LocalStorage) -> None:
    with at_work(folder), at_work(folder):
        assert len(folder.list(RUNNING)) == 2
    with pruning(folder), pruning(folder):
        assert len(folder.list(PRUNING)) == 2
    assert folder.list() == []


def test_who_is_refused_leaves_no_sign(folder: LocalStorage) -> None:
    with pruning(folder):
        with pytest.raises(SnapshotConflict), at_work(folder):
            pass
        assert folder.list(RUNNING) == []
    with at_work(folder):
        with pytest.raises(SnapshotConflict), pruning(folder):
            pass
        assert folder.list(PRUNING) == []


@pytest.mark.parametrize(("minutes", "counts"), [(59, True), (61, False)])
def test_a_sign_holds_for_an_hour_after_it_was_renewed(
    folder: LocalStorage, minutes: float, counts: bool
) -> None:
    path = f"{RUNNING}run-far"
    put_sign(folder, path, machine="another one")
    age(folder, path, minutes)
    assert living(folder, RUNNING, None) == [path] * counts
    if counts:
        with pytest.raises(SnapshotConflict), pruning(folder):
            pass
    else:
        with pruning(folder):
            assert folder.list(RUNNING) == []


def test_age_is_told_by_the_storages_clock(folder: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock is a day ahead, and yet the other's sign is a minute old."""
    put_sign(folder, f"{RUNNING}run-far", machine="another one")
    real = time.time
    monkeypatch.setattr(store.signs.time, "time", lambda: real() + 86_400)
    with pytest.raises(SnapshotConflict), pruning(folder):
        pass


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"since": "1"}, False),  # its number was given to another process
        ({"process": 2**22 + 1}, False),  # more than a kernel gives out
        ({"machine": "another one", "process": 2**22 + 1}, True),
        ({"machine": "", "since": ""}, True),  # a system that does not tell
        ({"process": "?"}, False),
    ],
)
def test_a_process_of_this_machine_that_has_ended_counts_no_longer(
    folder: LocalStorage, changes: dict[str, object], counts: bool
) -> None:
    path = f"{PRUNING}prune-x"
    put_sign(folder, path, **changes)
    assert living(folder, PRUNING, None) == [path] * counts


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_sign_that_says_nothing_counts_by_its_age(folder: LocalStorage, content: bytes) -> None:
    path = f"{RUNNING}run-x"
    folder.put(path, content)
    assert living(folder, RUNNING, None) == [path]
    age(folder, path, 61)
    assert living(folder, RUNNING, None) == []


@pytest.mark.parametrize(
    ("held", "then", "where"), [("at_work", pruning, RUNNING), ("pruning", at_work, PRUNING)]
)
def test_nobody_waits_for_a_killed_process(folder: LocalStorage, held: str, then, where: str) -> None:
    command = [sys.executable, "-c", HELD, str(folder.root), held]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        with pytest.raises(SnapshotConflict) as caught, then(folder):
            pass
        assert f"process {other.pid} " in caught.value.what
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert len(folder.list(where)) == 1
    with then(folder):
        assert folder.list(where) == []


def test_a_sign_is_renewed_whatever_the_work_does(
    folder: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.signs, "RENEWED", 0.01)
    with at_work(folder):
        (path,) = folder.list(RUNNING)
        for _ in range(3):
            folder.delete(path)
            while not folder.exists(path):
                time.sleep(0.01)
    assert folder.list() == []


def test_a_renewal_that_fails_is_tried_again(folder: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.signs, "RENEWED", 0.01)
    put, failed = LocalStorage.put, []

    def failing(self: LocalStorage, path: str, data: bytes, **options: bool) -> None:
        if failed is not None and len(failed) < 3:
            failed.append(path)
            raise StorageUnavailable("cut off")
        put(self, path, data, **options)

    with at_work(folder):
        (path,) = folder.list(RUNNING)
        monkeypatch.setattr(LocalStorage, "put", failing)
        folder.delete(path)
        while not folder.exists(path):
            time.sleep(0.01)
    assert failed == [path] * 3


def test_a_prune_that_slept_stops(folder: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    with pruning(folder) as sign:
        sign.check()
        monkeypatch.setattr(store.signs.time, "time", lambda: real() + 3600)
        with pytest.raises(SnapshotConflict, match="too long"):
            sign.check()
        sign.put()
        sign.check()


def test_a_sign_whose_put_failed_is_taken_away_all_the_same(
    folder: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have arrived, and only its answer got lost."""
    put = LocalStorage.put

    def lost(self: LocalStorage, path: str, data: bytes, **options: bool) -> None:
        put(self, path, data, **options)
        raise StorageUnavailable("no answer")

    monkeypatch.setattr(LocalStorage, "put", lost)
    with pytest.raises(StorageUnavailable), Sign(folder, f"{RUNNING}run-x").up():
        pass
    assert folder.list() == []
