"""A place is tried before work is done for it."""

import errno
import os
from pathlib import Path

import pytest

from store.errors import StorageUnavailable
from store.storage import LocalStorage, open_storage
from store.trial import try_storage


def test_a_good_place_is_left_as_it_was(tmp_path: Path) -> None:
    try_storage(open_storage(tmp_path / "not" / "there"))
    try_storage(open_storage(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_good_bucket_is_left_as_it_was(bucket: str) -> None:
    storage = open_storage(f"{bucket}/tried")
    try_storage(storage)
    assert storage.list() == []


def test_a_place_that_overwrites_what_it_was_told_to_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service does that does not know conditional writes."""
    put = LocalStorage.put
    monkeypatch.setattr(LocalStorage, "put", lambda self, path, data, **_: put(self, path, data))
    with pytest.raises(StorageUnavailable, match="overwrites") as caught:
        try_storage(open_storage(tmp_path / "s"))
    assert caught.value.where == str(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_links_and_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    try_storage(open_storage(tmp_path / "s"))  # by a lock
    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(StorageUnavailable):
        try_storage(open_storage(tmp_path / "s"))
