"""Before a file is visible its bytes are on the disk, and after it the folder that names it is."""

import os
from pathlib import Path

import pytest

from store.manifest import manifest_path
from store.signs import RUNNING
from store.storage import open_storage
from store.writer import commit
from tests.store.worlds import TinyWorld, tiny_manifest


@pytest.fixture
def flushed(monkeypatch):
    """Each flush to disk, in order: what was flushed, and how long it was."""
    seen, real = [], os.fsync

    def fsync(handle):
        real(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        seen.append((path, os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_new_folders_are_flushed_in_the_ones_above(tmp_path, flushed):
    open_storage(tmp_path / "s").put("a/b/c", b"1")
    folders = [path for path, _ in flushed if path.is_dir()]
    assert folders == [tmp_path, tmp_path / "s", tmp_path / "s" / "a", tmp_path / "s" / "a" / "b"]


def test_all_that_a_snapshot_names_is_on_the_disk_before_it_is(tmp_path, flushed):
    storage = open_storage(tmp_path / "s")
    manifest = commit(storage, tiny_manifest(storage, TinyWorld(), 2, None))
    last = [path for path, _ in flushed][-1]
    assert last == (tmp_path / "s" / manifest_path(1)).parent
    signs = tmp_path / "s" / RUNNING  # who is at work says so in a file that no snapshot names
    files = [(path, size) for path, size in flushed if path.name.startswith(".tmp-")]
    sizes = [size for path, size in files if path.parent != signs]
    assert len(files) == len(sizes) + 1
    assert len(sizes) == len(manifest.paths())
    assert sizes[-1] == len(manifest.to_json())
    assert sorted(sizes) == sorted(storage.size(path) for path in manifest.paths())
