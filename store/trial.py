"""A trial of the place where a store is to be: what a commit needs is tried before the work, not after it."""

import secrets
from contextlib import suppress
from pathlib import Path

from store.errors import SnapshotConflict, StorageUnavailable
from store.storage import LocalStorage, Storage


def try_storage(storage: Storage) -> None:
    """Write a small file, write it again on condition that it is not there, read it, remove it.

    For a folder that is not there yet, in the folder that it will be made in. Raises StorageUnavailable where
    any of it fails, or where the second write goes through: then of two runs one could overwrite the other's
    commit.
    """
    place = _nearest(storage.root) if isinstance(storage, LocalStorage) else storage
    path = f"textcam-trial-{secrets.token_hex(8)}"
    try:
        place.put(path, b"first", if_absent=True)
        with suppress(SnapshotConflict):
            place.put(path, b"second", if_absent=True)
        if place.read(path) != b"first":
            raise StorageUnavailable(
                "This place overwrites a file that it was told to leave: of two runs one could overwrite the "
                "other's commit.",
                where=storage.uri,
                fix="Keep the store on a disk, or in a bucket whose service knows conditional writes.",
            )
    finally:
        place.delete(path)


def _nearest(folder: Path) -> LocalStorage:
    return LocalStorage(next(one for one in (folder, *folder.parents) if one.exists()))
