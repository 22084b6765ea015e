"""Local folders and object stores keep the same promises."""

import errno
import io
import os
import pickle
import subprocess
from pathlib import Path

import pytest

import store.storage
from store.errors import Damaged, SnapshotConflict, StorageFull, StorageUnavailable
from store.storage import LocalStorage, concurrently, open_storage


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    return open_storage(
        tmp_path / "ünï code" if request.param == "folder" else f"memory://{tmp_path.name}/a/b"
    )


def test_bytes_come_back(storage):
    storage.put("parts/x/ä.parquet", b"0123456789")
    assert storage.read("parts/x/ä.parquet") == b"0123456789"
    assert storage.size("parts/x/ä.parquet") == 10
    assert storage.exists("parts/x/ä.parquet")
    assert not storage.exists("parts/x/b")


def test_a_file_object_is_taken_too(storage):
    storage.put("big", io.BytesIO(b"ab" * 3_000_000))
    assert storage.read("big") == b"ab" * 3_000_000


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 3, b"012"), (7, 3, b"789"), (8, 9, b"89"), (10, 1, b""), (99, 5, b"")],
)
def test_ranges_stop_at_the_end(storage, start, length, expected):
    storage.put("a", b"0123456789")
    assert storage.read_range("a", start, length) == expected


def test_open_is_random_access(storage):
    storage.put("a", b"0123456789")
    with storage.open("a") as file:
        assert file.size() == 10
        file.seek(4)
        assert file.read(2) == b"45"
        assert file.tell() == 6
        assert file.read() == b"6789"


def test_list_is_sorted_and_by_prefix(storage):
    for path in ("b/2", "b/10", "a", "b/c/1", "bb"):
        storage.put(path, b"")
    assert storage.list("b/") == ["b/10", "b/2", "b/c/1"]
    assert storage.list("b") == ["b/10", "b/2", "b/c/1", "bb"]
    assert storage.list() == ["a", "b/10", "b/2", "b/c/1", "bb"]
    assert storage.list("nothing/") == []


def test_put_replaces_and_put_if_absent_does_not(storage):
    storage.put("a", b"1")
    storage.put("a", b"2")
    with pytest.raises(SnapshotConflict):
        storage.put("a", b"3", if_absent=True)
    storage.put("b", b"4", if_absent=True)
    assert (storage.read("a"), storage.read("b")) == (b"2", b"4")


def test_missing_files_and_delete(storage):
    for act in (storage.read, storage.size, storage.open, lambda path: storage.read_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            act("none")
    storage.delete("none")
    storage.put("a", b"1")
    storage.delete("a")
    assert storage.list() == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../a", "a/../b", "a//b", "", "a/.tmp-1", "a\\b", "."])
def test_paths_stay_inside(storage, path):
    with pytest.raises(Damaged, match="inside"):
        storage.put(path, b"")


def test_unknown_kinds_are_refused():
    with pytest.raises(StorageUnavailable, match="'ftp'"):
        open_storage("ftp://host/x")


def test_addresses(tmp_path):
    assert open_storage(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"
    assert open_storage(tmp_path / "c" / ".." / "d").uri == str(tmp_path / "d")


def test_storages_cross_processes(tmp_path):
    local = pickle.loads(pickle.dumps(open_storage(tmp_path)))
    local.put("a", b"1")
    assert open_storage(tmp_path).read("a") == b"1"
    assert pickle.loads(pickle.dumps(open_storage("memory://pickled/p"))).uri == "memory://pickled/p"


def test_unfinished_files_are_not_listed(tmp_path):
    storage = open_storage(tmp_path)
    storage.put("a/b", b"1")
    (tmp_path / "a" / ".tmp-0123").write_bytes(b"half")
    assert storage.list() == ["a/b"]


@pytest.mark.parametrize("name", ["put:begun", "put:written", "put:flushed"])
@pytest.mark.parametrize("if_absent", [False, True])
def test_a_put_that_dies_leaves_what_was_there(tmp_path, monkeypatch, name, if_absent):
    storage = open_storage(tmp_path)
    storage.put("a", b"old")

    def boom(at):
        if at == name:
            raise RuntimeError("boom")

    monkeypatch.setattr(store.storage, "step", boom)
    with pytest.raises(RuntimeError, match="boom"):
        storage.put("b" if if_absent else "a", b"new", if_absent=if_absent)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"old"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_flush_without_space_is_named(tmp_path, monkeypatch, number):
    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store.storage.os, "fsync", full)
    with pytest.raises(StorageFull) as caught:
        LocalStorage(tmp_path).put("a", b"1")
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of one mebibyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_real_full_disk(small_disk):
    storage = open_storage(small_disk / "store")
    storage.put("a", b"x" * 700_000)
    with pytest.raises(StorageFull):
        storage.put("b", b"x" * 700_000)
    assert storage.list() == ["a"]
    assert [file.name for file in (small_disk / "store").iterdir()] == ["a"]
    storage.delete("a")
    storage.put("b", b"x" * 700_000)
    assert storage.size("b") == 700_000


def test_a_file_where_a_folder_should_be(tmp_path):
    Path(tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        open_storage(tmp_path).put("a/b", b"")


def test_concurrently_keeps_order_and_raises():
    assert concurrently(lambda x: x * x, list(range(53))) == [x * x for x in range(53)]
    with pytest.raises(ZeroDivisionError):
        concurrently(lambda x: 1 // x, [2, 1, 0])
