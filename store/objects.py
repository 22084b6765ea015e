"""Object stores (S3, Google Cloud Storage, Azure, memory) through obstore, as a ``Storage``.

A put is atomic by the service's own promise; put-if-absent is its conditional put. Large files go up in
pieces that become visible together when the last one is in.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Lock
from typing import Any, BinaryIO

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import MemoryStore, from_url

from store.addresses import split_bucket
from store.errors import SnapshotConflict, StorageUnavailable, first_line
from store.storage import Entry, RangeFile, checked_path, step

RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(minutes=1)}
FIX = (
    "Check the bucket's name, and credentials, region and endpoint in the environment. Profiles and SSO of "
    "the AWS command line are not read: `aws configure export-credentials --format env` gives their keys."
)
_GONE = (NotFoundError, FileNotFoundError)  # the client raises now one, now the other
_memories: dict[str, MemoryStore] = {}
_memories_lock = Lock()


class ObjectStorage:
    """A bucket's prefix. ``memory://name`` lives as long as the process and is shared within it."""

    def __init__(self, uri: str) -> None:
        scheme, bucket, path = split_bucket(uri)
        self._uri = uri.removesuffix("/")
        self._prefix = f"{path}/" if path else ""
        self._store = _client(scheme, bucket)

    def __reduce__(self) -> tuple[Any, ...]:
        # Clients do not cross processes; their settings are in the environment.
        return (ObjectStorage, (self._uri,))

    @property
    def uri(self) -> str:
        """The address without a trailing slash."""
        return self._uri

    def _at(self, path: str) -> str:
        return self._prefix + checked_path(path)

    def put(self, path: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> None:
        """One atomic put; conditional where ``if_absent``."""
        with named_errors(self._uri, path):
            step("put:begun")
            try:
                if if_absent:
                    obstore.put(self._store, self._at(path), data, mode="create", use_multipart=False)
                else:
                    obstore.put(self._store, self._at(path), data)
            except _GONE:
                what = "There is no such bucket."
                raise StorageUnavailable(what, where=self._uri, fix="Check its name, or make it.") from None
            step("put:visible")

    def read(self, path: str) -> bytes:
        """The whole object."""
        with named_errors(self._uri, path):
            return bytes(obstore.get(self._store, self._at(path)).bytes())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer where the object ends before."""
        with named_errors(self._uri, path):
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
        with named_errors(self._uri, path):
            return int(obstore.head(self._store, self._at(path))["size"])

    def stat(self, path: str) -> Entry:
        """One object, as ``scan`` lists it."""
        with named_errors(self._uri, path):
            return _entry(path, obstore.head(self._store, self._at(path)))

    def list(self, prefix: str = "") -> list[str]:
        """Sorted paths that start with ``prefix``."""
        folder = self._prefix + prefix.rpartition("/")[0]
        with named_errors(self._uri, prefix):
            pages = obstore.list(self._store, prefix=folder or None)
            found = [item["path"].removeprefix(self._prefix) for page in pages for item in page]
        return sorted(path for path in found if path.startswith(prefix))

    def scan(self, prefix: str = "", *, follow_links: bool = False) -> Iterator[Entry]:
        """Objects that start with ``prefix``, by pages; the stamp is the e-tag where the service has one."""
        folder = self._prefix + prefix.rpartition("/")[0]
        with named_errors(self._uri, prefix):
            for page in obstore.list(self._store, prefix=folder or None):
                for item in page:
                    path = item["path"].removeprefix(self._prefix)
                    if path.startswith(prefix):
                        yield _entry(path, item)

    def delete(self, *paths: str) -> None:
        """Remove the objects, a thousand a request where the service takes lists; nothing happens where there
        is none."""
        if not paths:
            return
        keys = [self._at(path) for path in paths]
        with named_errors(self._uri, paths[0]):
            try:
                obstore.delete(self._store, keys)
            except _GONE:  # a service without lists stops at the first one that is gone
                for key in keys:
                    with suppress(*_GONE):
                        obstore.delete(self._store, key)


def _entry(path: str, item: Any) -> Entry:
    written = item["last_modified"]
    return Entry(path, int(item["size"]), str(item["e_tag"] or written), written.timestamp())


def _client(scheme: str, bucket: str) -> Any:
    if scheme == "memory":
        with _memories_lock:
            return _memories.setdefault(bucket, MemoryStore())
    address = f"{scheme}://{bucket}"
    options: dict[str, Any] = {"retry_config": RETRIES}
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    if endpoint.startswith("http://"):
        options["client_options"] = {"allow_http": True}  # the user named an unencrypted endpoint on purpose
    try:
        return from_url(address, **options)
    except (BaseError, ValueError) as error:
        raise StorageUnavailable(f"Cannot open this object store: {error}", where=address) from error


@contextmanager
def named_errors(uri: str, path: str) -> Iterator[None]:
    """The client's errors as named cases; a missing object is ``FileNotFoundError``."""
    where = f"{uri}/{path}"
    try:
        yield
    except AlreadyExistsError:
        raise SnapshotConflict("Already written by someone else.", where=where) from None
    except _GONE:
        raise FileNotFoundError(where) from None
    except (BaseError, OSError, ValueError) as error:  # ValueError: a path that the client does not take
        raise StorageUnavailable(
            f"The object store did not answer as it should: {first_line(error)}",
            where=where,
            fix=FIX,
        ) from error
