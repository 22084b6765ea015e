"""Where the bytes lie: a local folder or an object store, behind one small protocol.

Paths are relative, with forward slashes, and mean the same in every kind of storage, so a store can be copied
from a folder to a bucket and back. A file appears whole or not at all: locally it is written under a
temporary name, flushed to disk and renamed; an object store's put is atomic by itself.
"""

import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import pyarrow as pa

from store.addresses import OBJECT_SCHEMES, local_path, scheme_of
from store.errors import ConfigError, Damaged
from store.files import (
    TEMPORARY,
    flush_folder,
    is_file,
    make_folder,
    named_errors,
    place_if_absent,
    refuse_links,
    walk,
)

CONCURRENT = 16  # requests at a time
_NAME = rf"(?!\.\.?(?:/|\Z)|{re.escape(TEMPORARY)})[^/\\\0]+"
_INSIDE = re.compile(rf"{_NAME}(?:/{_NAME})*")


T = TypeVar("T")
R = TypeVar("R")


class Storage(Protocol):
    """Bytes by relative path. A missing file is ``FileNotFoundError``, all else ``StorageUnavailable``.

    Links on a disk are never followed to write, to delete or to list; only ``scan`` does on request.
    """

    @property
    def uri(self) -> str:
        """Where it is, in the form that ``open_storage`` takes."""

    def put(self, path: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> None:
        """Write a whole file atomically; with ``if_absent`` raise ``SnapshotConflict`` where one exists."""

    def read(self, path: str) -> bytes:
        """The whole file."""

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer where the file ends before."""

    def open(self, path: str) -> pa.NativeFile:
        """Random access, for Parquet."""

    def exists(self, path: str) -> bool:
        """Whether the file is there, whole."""

    def size(self, path: str) -> int:
        """Bytes of the file."""

    def stat(self, path: str) -> "Entry":
        """One file, as ``scan`` lists it."""

    def list(self, prefix: str = "") -> list[str]:
        """Sorted paths that start with ``prefix``; unfinished files are not among them."""

    def scan(self, prefix: str = "", *, follow_links: bool = False) -> Iterator["Entry"]:
        """Files that start with ``prefix``, in any order, one at a time; links to folders only on request."""

    def delete(self, *paths: str) -> None:
        """Remove the files, in as few requests as there can be; nothing happens where there is none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed file: its path, its bytes, a stamp that changes when its content is written anew, and when
    it was written (seconds since 1970, by the storage's clock).
    """

    path: str
    size: int
    stamp: str
    modified: float


def open_storage(uri: str | Path) -> Storage:
    """The storage at a folder's path or at a ``file:``, ``s3:``, ``gs:``, ``az:`` or ``memory:`` address.

    Nothing is created or contacted yet. Object stores take their settings from the usual environment
    variables (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``
    ...). Raises ConfigError for an address that names no place.
    """
    text = str(uri)
    scheme = scheme_of(text)
    if scheme in OBJECT_SCHEMES:
        from store.objects import ObjectStorage  # the client costs 50 ms: only those who need it pay

        return ObjectStorage(text)
    if scheme == "file":
        return LocalStorage(Path(local_path(text)))
    if scheme:
        raise ConfigError(
            f"Storage of kind {scheme!r} is not supported.",
            where=text,
            fix=f"Use a folder or one of: {', '.join(s + '://' for s in OBJECT_SCHEMES)}",
        )
    return LocalStorage(Path(text))


def step(name: str) -> None:
    """A named moment at which a write may die. Does nothing; tests replace it to raise or to kill the
    process.

    The names: part:encoded, put:begun, put:written, put:flushed, put:visible, commit:checked, commit:done,
    prune:next.
    """


def checked_path(path: str) -> str:
    """``path``, refused unless it stays inside the storage: relative, forward slashes, no dots."""
    if not _INSIDE.fullmatch(path):
        raise Damaged("Not a path inside a store.", where=repr(path))
    return path


class LocalStorage:
    """A folder. Made on the first put."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 (resolve() would follow links)

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def _at(self, path: str) -> Path:
        return self.root / checked_path(path)

    def put(self, path: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> None:
        """Temporary name, write, flush to disk, rename, flush the folder."""
        target = self._at(path)
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        with named_errors(self.uri, path):
            refuse_links(self.root, path)
            make_folder(target.parent)
            try:
                step("put:begun")
                with open(temporary, "xb") as file:
                    shutil.copyfileobj(io.BytesIO(data) if isinstance(data, bytes) else data, file, 1 << 20)
                    step("put:written")
                    file.flush()
                    os.fsync(file.fileno())
                step("put:flushed")
                if if_absent:
                    place_if_absent(temporary, target)
                else:
                    temporary.replace(target)
                step("put:visible")
                flush_folder(target.parent)
            finally:
                with suppress(OSError):
                    temporary.unlink()

    def read(self, path: str) -> bytes:
        """The whole file."""
        with named_errors(self.uri, path):
            return self._at(path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer where the file ends before."""
        with named_errors(self.uri, path), open(self._at(path), "rb") as file:
            file.seek(start)
            return file.read(length)

    def open(self, path: str) -> pa.NativeFile:
        """Plain file access: a memory map would crash the process where a file is cut short underneath it."""
        with named_errors(self.uri, path):
            return pa.OSFile(str(self._at(path)), mode="r")

    def exists(self, path: str) -> bool:
        """Whether the file is there, whole."""
        with named_errors(self.uri, path):
            return is_file(self._at(path))

    def size(self, path: str) -> int:
        """Bytes of the file."""
        with named_errors(self.uri, path):
            return self._at(path).stat().st_size

    def stat(self, path: str) -> Entry:
        """One file, as ``scan`` lists it."""
        with named_errors(self.uri, path):
            return _entry(path, self._at(path).stat())

    def list(self, prefix: str = "") -> list[str]:
        """Sorted paths that start with ``prefix``; unfinished files are not among them."""
        with named_errors(self.uri, prefix):
            refuse_links(self.root, prefix)
            return sorted(path for path, _ in walk(self.root, prefix, follow_links=False))

    def scan(self, prefix: str = "", *, follow_links: bool = False) -> Iterator[Entry]:
        """Files that start with ``prefix``; the stamp is the time of the last change, in nanoseconds."""
        with named_errors(self.uri, prefix):
            if not follow_links:
                refuse_links(self.root, prefix)
            for path, file in walk(self.root, prefix, follow_links=follow_links):
                with suppress(FileNotFoundError):  # gone since it was listed
                    yield _entry(path, file.stat())

    def delete(self, *paths: str) -> None:
        """Remove the files; nothing happens where there is none."""
        for path in paths:
            with named_errors(self.uri, path):
                refuse_links(self.root, path)
                self._at(path).unlink(missing_ok=True)


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, str(status.st_mtime_ns), status.st_mtime)


def concurrently(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``work`` over ``items``, outcomes in order, several at once: storage makes one wait more than work."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(CONCURRENT, len(items))) as pool:
        return list(pool.map(work, items))


class RangeFile(io.RawIOBase):
    """A file-like object over ``read_range``, for readers that want seek and read."""

    def __init__(self, storage: Storage, path: str, size: int) -> None:
        self._storage, self._path, self._size, self._position = storage, path, size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as ``io`` does."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> Any:
        """Up to ``size`` bytes from here; all that is left for -1 or None."""
        start = min(self._position, self._size)
        left = self._size - start
        length = left if size is None or size < 0 else min(size, left)
        data = self._fetch(start, length) if length else b""
        self._position = start + len(data)
        return data

    def _fetch(self, start: int, length: int) -> bytes:
        return self._storage.read_range(self._path, start, length)
