"""Object stores (S3, Google Cloud Storage, Azure, memory) through obstore, as a ``Storage``.

A put is atomic by the service's own promise; put-if-absent is its conditional put. Large files go up in
pieces that become visible together when the last one is in.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import MemoryStore, from_url

from store.errors import SnapshotConflict, StorageUnavailable
from store.storage import Entry, RangeFile, checked_path, step

RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(minutes=1)}
_memories: dict[str, MemoryStore] = {}
_memories_lock = Lock()


class ObjectStorage:
    """A bucket's prefix. ``memory://name`` lives as long as the process and is shared within it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._store, self._prefix = _client(self._uri)

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            ObjectStorage,
            (self._uri,),
        )  # clients do not cross processes; settings are in the environment

    @property
    def uri(self) -> str:
        """The address without a trailing slash."""
        return self._uri

    def _at(self, path: str) -> str:
        return self._prefix + checked_path(path)

    def put(self, path: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> None:
        """One atomic put; conditional where ``if_absent``."""
        with _named_errors(self._uri, path):
            step("put:begun")
            if if_absent:
                obstore.put(self._store, self._at(path), data, mode="create", use_multipart=False)
            else:
                obstore.put(self._store, self._at(path), data)
            step("put:visible")

    def read(self, path: str) -> bytes:
        """The whole object."""
        with _named_errors(self._uri, path):
            return bytes(obstore.get(self._store, self._at(path)).bytes())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer where the object ends before."""
        with _named_errors(self._uri, path):
            try:
                return bytes(obstore.get_range(self._store, self._at(path), start=start, length=length))
            except BaseError:
                if start >= self.size(path):  # a range past the end is an error to the service, not to us
                    return b""
                raise

    def open(self, path: str) -> pa.NativeFile:
        """Random access by ranged gets."""
        return pa.PythonFile(RangeFile(self, path, self.size(path)), mode="r")

    def exists(self, path: str) -> bool:
        """Whether the object is there."""
        try:
            self.size(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes of the object."""
        with _named_errors(self._uri, path):
            return int(obstore.head(self._store, self._at(path))["size"])

    def list(self, prefix: str = "") -> list[str]:
        """Sorted paths that start with ``prefix``."""
        folder = self._prefix + prefix.rpartition("/")[0]
        with _named_errors(self._uri, prefix):
            pages = obstore.list(self._store, prefix=folder or None)
            found = [item["path"].removeprefix(self._prefix) for page in pages for item in page]
        return sorted(path for path in found if path.startswith(prefix))

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """Objects that start with ``prefix``, by pages; the stamp is the e-tag where the service has one."""
        folder = self._prefix + prefix.rpartition("/")[0]
        with _named_errors(self._uri, prefix):
            for page in obstore.list(self._store, prefix=folder or None):
                for item in page:
                    path = item["path"].removeprefix(self._prefix)
                    if path.startswith(prefix):
                        written = item["last_modified"]
                        stamp = str(item["e_tag"] or written)
                        yield Entry(path, int(item["size"]), stamp, written.timestamp())

    def delete(self, path: str) -> None:
        """Remove the object; nothing happens where there is none."""
        try:
            with _named_errors(self._uri, path):
                obstore.delete(self._store, self._at(path))
        except FileNotFoundError:
            pass


def _client(uri: str) -> tuple[Any, str]:
    """The bucket's client and the prefix, with its slash, under which the store lies."""
    parts = urlsplit(uri)
    prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
    if parts.scheme == "memory":
        with _memories_lock:
            return _memories.setdefault(parts.netloc, MemoryStore()), prefix
    options: dict[str, Any] = {"retry_config": RETRIES}
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    if endpoint.startswith("http://"):
        options["client_options"] = {"allow_http": True}  # the user named an unencrypted endpoint on purpose
    try:
        return from_url(f"{parts.scheme}://{parts.netloc}", **options), prefix
    except (BaseError, ValueError) as error:
        raise StorageUnavailable(f"Cannot open this object store: {error}", where=uri) from error


@contextmanager
def _named_errors(uri: str, path: str) -> Iterator[None]:
    where = f"{uri}/{path}"
    try:
        yield
    except AlreadyExistsError:
        raise SnapshotConflict("Already written by someone else.", where=where) from None
    except (NotFoundError, FileNotFoundError):
        raise FileNotFoundError(where) from None
    except (BaseError, OSError) as error:
        raise StorageUnavailable(
            f"The object store did not answer as it should: {str(error).splitlines()[0]}",
            where=where,
            fix="Check the bucket's name, and credentials and endpoint in the environment.",
        ) from error
