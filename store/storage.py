"""Where the bytes lie: a local folder or an object store, behind one small protocol.

Paths are relative, with forward slashes, and mean the same in every kind of storage, so a store can be copied
from a folder to a bucket and back. A file appears whole or not at all: locally it is written under a
temporary name, flushed to disk and renamed; an object store's put is atomic by itself.
"""

import errno
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from store.errors import Damaged, SnapshotConflict, StorageFull, StorageUnavailable

TEMPORARY = ".tmp-"
OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "memory")
CONCURRENT = 16  # requests at a time
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAME = rf"(?!\.\.?(?:/|\Z)|{re.escape(TEMPORARY)})[^/\\]+"
_INSIDE = re.compile(rf"{_NAME}(?:/{_NAME})*")


T = TypeVar("T")
R = TypeVar("R")


class Storage(Protocol):
    """Bytes by relative path. A missing file is ``FileNotFoundError``, all else ``StorageUnavailable``."""

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

    def list(self, prefix: str = "") -> list[str]:
        """Sorted paths that start with ``prefix``; unfinished files are not among them."""

    def scan(self, prefix: str = "") -> Iterator["Entry"]:
        """Files that start with ``prefix``, in any order, one at a time; links to folders are followed."""

    def delete(self, path: str) -> None:
        """Remove the file; nothing happens where there is none."""


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
    ...).
    """
    text = str(uri)
    scheme = text.split("://", 1)[0].lower() if "://" in text else ""
    if scheme in OBJECT_SCHEMES:
        from store.objects import ObjectStorage  # the client costs 50 ms: only those who need it pay

        return ObjectStorage(text)
    if scheme == "file":
        return LocalStorage(Path(unquote(urlsplit(text).path)))
    if scheme:
        raise StorageUnavailable(
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
        with _named_errors(self.uri, path):
            _make_folder(target.parent)
            try:
                step("put:begun")
                with open(temporary, "xb") as file:
                    shutil.copyfileobj(io.BytesIO(data) if isinstance(data, bytes) else data, file, 1 << 20)
                    step("put:written")
                    file.flush()
                    os.fsync(file.fileno())
                step("put:flushed")
                if if_absent:
                    _link_if_absent(temporary, target)
                else:
                    temporary.replace(target)
                step("put:visible")
                _flush_folder(target.parent)
            finally:
                with suppress(OSError):
                    temporary.unlink()

    def read(self, path: str) -> bytes:
        """The whole file."""
        with _named_errors(self.uri, path):
            return self._at(path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer where the file ends before."""
        with _named_errors(self.uri, path), open(self._at(path), "rb") as file:
            file.seek(start)
            return file.read(length)

    def open(self, path: str) -> pa.NativeFile:
        """Plain file access: a memory map would crash the process where a file is cut short underneath it."""
        with _named_errors(self.uri, path):
            return pa.OSFile(str(self._at(path)), mode="r")

    def exists(self, path: str) -> bool:
        """Whether the file is there, whole."""
        return self._at(path).is_file()

    def size(self, path: str) -> int:
        """Bytes of the file."""
        with _named_errors(self.uri, path):
            return self._at(path).stat().st_size

    def list(self, prefix: str = "") -> list[str]:
        """Sorted paths that start with ``prefix``; unfinished files are not among them."""
        folder = self.root / prefix.rpartition("/")[0]
        found = (file.relative_to(self.root).as_posix() for file in _files_under(folder))
        return sorted(path for path in found if path.startswith(prefix))

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """Files that start with ``prefix``; the stamp is the time of the last change, in nanoseconds."""
        with _named_errors(self.uri, prefix):
            waiting = [prefix.rpartition("/")[0]]
            while waiting:
                folder = waiting.pop()
                try:
                    found = os.scandir(self.root / folder)
                except OSError:
                    continue
                with found:
                    for file in found:
                        path = f"{folder}/{file.name}" if folder else file.name
                        if file.is_dir():
                            waiting.append(path)
                        elif path.startswith(prefix) and _is_finished(file):
                            status = file.stat()
                            yield Entry(path, status.st_size, str(status.st_mtime_ns), status.st_mtime)

    def delete(self, path: str) -> None:
        """Remove the file; nothing happens where there is none."""
        with _named_errors(self.uri, path):
            self._at(path).unlink(missing_ok=True)


def _is_finished(file: "os.DirEntry[str]") -> bool:
    return not file.name.startswith(TEMPORARY) and file.is_file()


def _files_under(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names if not name.startswith(TEMPORARY))


def _link_if_absent(temporary: Path, target: Path) -> None:
    """A hard link appears with its whole content and fails where the name is taken; rename overwrites."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise SnapshotConflict("Already written by someone else.", where=target) from None


def _make_folder(folder: Path) -> None:
    """With its parents, each flushed to disk in the folder above it."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        _flush_folder(one.parent)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _named_errors(uri: str, path: str) -> Iterator[None]:
    """Operating system errors as named cases; a missing file stays ``FileNotFoundError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        where = f"{uri}/{path}"
        if error.errno in _FULL:
            raise StorageFull(
                "No space left to write the store; nothing of it was committed.",
                where=where,
                fix="Make space and run the same command again: finished parts are kept.",
            ) from error
        raise StorageUnavailable(f"Cannot use this file: {error.strerror or error}.", where=where) from error


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
