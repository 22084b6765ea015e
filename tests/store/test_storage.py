"""Local folders and object stores keep the same promises."""

import errno
import io
import os
import pickle
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import store.storage
from store.errors import ConfigError, Damaged, SnapshotConflict, StorageFull, StorageUnavailable
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
    for path in ("a", "b/c", "d"):
        storage.put(path, b"1")
    storage.delete("a")
    storage.delete("b/c", "none", "d")
    storage.delete()
    assert storage.list() == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a", "a/../b", "a//b", "", "a/.tmp-1", "a\\b", ".", "a\0b"]
)
def test_paths_stay_inside(storage, path):
    with pytest.raises(Damaged, match="inside"):
        storage.put(path, b"")


def test_unknown_kinds_are_refused():
    with pytest.raises(ConfigError, match="'ftp'"):
        open_storage("ftp://host/x")


def test_addresses(tmp_path):
    assert open_storage(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"
    assert open_storage(f"file://localhost{tmp_path}/a#1?b").uri == f"{tmp_path}/a#1?b"
    assert open_storage(tmp_path / "c" / ".." / "d").uri == str(tmp_path / "d")


@pytest.mark.parametrize("name", ["run#1", "run#2", "run?1", "run%201", "run 1", "rün"])
def test_every_letter_of_a_buckets_address_counts(tmp_path, name):
    whole = open_storage(f"memory://{tmp_path.name}")
    open_storage(f"memory://{tmp_path.name}/{name}/store/").put("a", b"1")
    assert whole.list() == [f"{name}/store/a"]


@pytest.mark.parametrize(
    "address",
    [
        "s3://b/a//b",
        "s3://b/../x",
        "s3://b/./x",
        "s3://b//",
        "s3://",
        "s3:///x",
        "memory://m/a/..",
        "gs://../x",
    ],
)
def test_names_that_are_none_are_refused(address):
    with pytest.raises(ConfigError) as caught:
        open_storage(address)
    assert caught.value.where == address


@pytest.mark.parametrize(
    ("address", "right"),
    [("s3:/b/x", "s3://b/x"), ("S3:b/x", "s3://b/x"), ("gs:/b/x", "gs://b/x"), ("file:/d/x", "file:///d/x")],
)
def test_an_address_with_one_slash_is_no_folder(address, right):
    for given in (address, Path(address)):
        with pytest.raises(ConfigError) as caught:
            open_storage(given)
        assert caught.value.fix == f"Write {right}"
    assert open_storage("./s3:/b").uri == f"{Path.cwd()}/s3:/b"


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


# links, and what cannot be read


def listings(storage, prefix=""):
    return [lambda: storage.list(prefix), lambda: list(storage.scan(prefix))]


def test_links_to_folders_are_followed_on_request_alone(tmp_path):
    storage = open_storage(tmp_path / "s")
    storage.put("a/1", b"1")
    open_storage(tmp_path / "else").put("b/2", b"22")
    (tmp_path / "s" / "link").symlink_to(tmp_path / "else")
    assert storage.list() == ["a/1"]
    assert [entry.path for entry in storage.scan()] == ["a/1"]
    followed = sorted((entry.path, entry.size) for entry in storage.scan(follow_links=True))
    assert followed == [("a/1", 1), ("link/b/2", 2)]
    assert [entry.path for entry in storage.scan("link/", follow_links=True)] == ["link/b/2"]


def test_nothing_is_written_listed_or_deleted_through_a_link(tmp_path):
    storage = open_storage(tmp_path / "s")
    open_storage(tmp_path / "else").put("b", b"2")
    storage.put("a", b"1")
    (tmp_path / "s" / "link").symlink_to(tmp_path / "else")
    for act in (
        lambda: storage.put("link/b", b""),
        lambda: storage.delete("a", "link/b"),
        *listings(storage, "link/"),
    ):
        with pytest.raises(StorageUnavailable, match="is a link"):
            act()
    assert (tmp_path / "else" / "b").read_bytes() == b"2"
    storage.delete("link")  # the link itself
    assert not (tmp_path / "s" / "link").is_symlink()


def test_the_store_itself_may_lie_behind_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "disk")
    storage = open_storage(tmp_path / "s")
    storage.put("a/b", b"1")
    assert storage.list() == ["a/b"]
    assert (tmp_path / "disk" / "a" / "b").is_file()


def test_links_into_what_holds_them_and_links_to_nothing_are_passed_over(tmp_path):
    storage = open_storage(tmp_path)
    storage.put("a/1", b"1")
    storage.put("b/2", b"1")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "over").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b" / "loop")
    (tmp_path / "b" / "nowhere").symlink_to(tmp_path / "gone")
    found = sorted(entry.path for entry in storage.scan(follow_links=True))
    assert found == ["a/1", "a/over/2", "b/2", "b/back/1"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("broken", ["", "a", "a/b"])
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path, monkeypatch, number, broken):
    storage = open_storage(tmp_path)
    storage.put("a/b/c", b"1")
    scandir = os.scandir

    def failing(folder):
        if Path(folder) == tmp_path / broken:
            raise OSError(number, os.strerror(number), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", failing)
    for act in listings(storage):
        with pytest.raises(StorageUnavailable, match=os.strerror(number)):
            act()


def test_a_file_that_cannot_be_looked_at_is_not_an_absent_one(tmp_path, monkeypatch):
    storage = open_storage(tmp_path)
    storage.put("a", b"1")

    def failing(self, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "stat", failing)
    with pytest.raises(StorageUnavailable):
        storage.exists("a")


def test_a_listing_opens_only_folders_that_may_hold_what_is_sought(tmp_path, monkeypatch):
    storage = open_storage(tmp_path)
    for path in ("ab/1", "ac/d/1", "b/c/1", "b/d/e/1"):
        storage.put(path, b"")
    opened, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: opened.append(Path(folder)) or scandir(folder))
    assert storage.list("a") == ["ab/1", "ac/d/1"]
    assert sorted(opened) == [tmp_path, tmp_path / "ab", tmp_path / "ac", tmp_path / "ac" / "d"]


# file systems without hard links, and links over a network


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def no_links(request, monkeypatch):
    def link(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


def test_put_if_absent_without_hard_links(tmp_path, no_links):
    storage = open_storage(tmp_path)
    storage.put("a/b", b"1", if_absent=True)
    with pytest.raises(SnapshotConflict):
        storage.put("a/b", b"2", if_absent=True)
    assert storage.read("a/b") == b"1"
    assert storage.list() == ["a/b"]


def test_of_many_writers_without_hard_links_one_wins(tmp_path, no_links):
    storage = open_storage(tmp_path)

    def attempt(number):
        try:
            storage.put(f"a/{number % 5}", b"%d" % number, if_absent=True)
            return number
        except SnapshotConflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [number for number in pool.map(attempt, range(100)) if number is not None]
    assert sorted(b"%d" % number for number in won) == sorted(map(storage.read, storage.list()))
    assert len(won) == 5


def test_a_link_that_cannot_be_made_for_another_reason_is_an_error(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StorageUnavailable):
        open_storage(tmp_path).put("a", b"1", if_absent=True)
    assert list(tmp_path.iterdir()) == []


def test_a_link_whose_answer_was_lost_is_a_link(tmp_path, monkeypatch):
    """As over NFS: the server makes the link, its answer is lost, and the client asks again."""
    link = os.link

    def asked_twice(*names):
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", asked_twice)
    storage = open_storage(tmp_path)
    storage.put("a", b"1", if_absent=True)
    with pytest.raises(SnapshotConflict):
        storage.put("a", b"1", if_absent=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_is_on_the_disk_before_its_name_is_there(tmp_path, monkeypatch):
    """A flush of the content, then the name, then a flush of the folder: in that order."""
    acts, fsync, link, replace = [], os.fsync, os.link, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: acts.append("flush") or fsync(handle))
    monkeypatch.setattr(os, "link", lambda *names: acts.append("name") or link(*names))
    monkeypatch.setattr(Path, "replace", lambda *names: acts.append("name") or replace(*names))
    storage = open_storage(tmp_path)
    for if_absent in (True, False):
        storage.put("a", b"1", if_absent=if_absent)
        assert acts == ["flush", "name", "flush"]
        acts.clear()
