"""Reading: the encoded bytes of one image, wherever it lies.

A Parquet file gives its images by row groups: of a group the whole column is read and unpacked, or nothing.
So each group is read once and kept while its images are asked for, which come one after another (the plan has
them in the file's order). Groups together take no more than ``ROOM`` bytes of a worker's memory, or one group
alone where it is larger.
"""

import errno
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.config import ImagesSection
from store.errors import ImageError, StorageUnavailable, TextcamError
from store.storage import Storage

ROOM = 512 << 20  # bytes of row groups that are kept, as they are and unpacked
FOOTERS = 64  # Parquet files whose footers are kept

T = TypeVar("T")
Source = tuple[Storage, ImagesSection]

_OF_FILE = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
)


@dataclass(frozen=True)
class ImageRef:
    """Where one image lies: ``path`` in the source of that number, of those that the configuration names.

    ``label`` is what the source says (a folder or a column), not yet a class.
    """

    image_id: int
    uri: str
    label: str | None
    path: str
    offset: int | None
    size: int | None
    row: int | None
    source: int = 0


class ImageReader:
    """Callable: where an image lies -> its encoded bytes. Threads may share one.

    Raises ImageError if there are none or more than ``max_bytes``, and StorageUnavailable if the trouble may
    be the storage's and not the image's.
    """

    def __init__(self, sources: Sequence[Source], max_bytes: int, room: int = ROOM) -> None:
        self._sources, self._max_bytes = sources, max_bytes
        self._footers: Shared[_Footer] = Shared(FOOTERS)
        self._groups: Shared[pa.ChunkedArray] = Shared(room)

    def __call__(self, ref: ImageRef) -> bytes:
        """The bytes of one image."""
        limit = self._max_bytes
        if ref.size is not None and ref.size > limit:
            raise ImageError(f"The file has {ref.size} bytes, more than the limit of {limit}.", where=ref.uri)
        try:
            data = self._read(ref)
        except (TextcamError, OSError, pa.ArrowException, LookupError) as error:
            reason = error.what if isinstance(error, TextcamError) else str(error)
            if is_of_storage(error):
                raise StorageUnavailable(reason, where=ref.uri) from None
            raise ImageError(f"The file cannot be read: {reason}", where=ref.uri) from None
        if len(data) > limit:  # its size was not listed, or it grew
            raise ImageError(f"The file has more bytes than the limit of {limit}.", where=ref.uri)
        return data

    def _read(self, ref: ImageRef) -> bytes:
        storage, _ = self._sources[ref.source]
        if ref.row is not None:
            return self._read_row(ref, ref.row)
        if ref.offset is not None and ref.size is not None:
            return storage.read_range(ref.path, ref.offset, ref.size)
        return storage.read_range(ref.path, 0, self._max_bytes + 1)

    def _read_row(self, ref: ImageRef, row: int) -> bytes:
        storage, section = self._sources[ref.source]
        column, place = section.bytes_column, (ref.source, ref.path)
        with self._footers.lent(place, 1, lambda: _Footer.read(storage, ref.path)) as footer:
            group = footer.group_of(row)
            size = footer.bytes_of(group, column)
        with self._groups.lent(
            (*place, group), size, lambda: footer.read_group(storage, group, column)
        ) as rows:
            value = rows[row - int(footer.starts[group])].as_py()
        # Hugging Face data sets keep {"bytes": ..., "path": ...} in their image column.
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes):
            raise ImageError("the row holds no image bytes.", where=ref.uri)
        return value


def is_of_storage(error: Exception) -> bool:
    """Whether another attempt may go better. Arrow has OSError without a number for a damaged file."""
    cause = error.__cause__ if isinstance(error, StorageUnavailable) else error
    if isinstance(cause, OSError):
        return cause.errno is not None and cause.errno not in _OF_FILE
    return isinstance(error, StorageUnavailable)


@dataclass(frozen=True)
class _Footer:
    """What a Parquet file says of itself: G row groups, and the row (G + 1,) that each starts at, the end
    last."""

    path: str
    metadata: pq.FileMetaData
    starts: NDArray[np.int64]

    @classmethod
    def read(cls, storage: Storage, path: str) -> "_Footer":
        with storage.open(path) as stream:
            metadata = pq.ParquetFile(stream).metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return cls(path, metadata, np.cumsum([0, *rows], dtype=np.int64))

    def group_of(self, row: int) -> int:
        """The group that holds a row."""
        if row >= self.starts[-1]:
            raise ImageError("the file has fewer rows than when it was planned.", where=self.path)
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def bytes_of(self, group: int, column: str) -> int:
        """What a column of a group takes while it is unpacked."""
        chunks = self.metadata.row_group(group)
        mine = (chunks.column(at) for at in range(chunks.num_columns))
        return sum(
            one.total_compressed_size + one.total_uncompressed_size
            for one in mine
            if one.path_in_schema.split(".")[0] == column
        )

    def read_group(self, storage: Storage, group: int, column: str) -> pa.ChunkedArray:
        """A column of a group."""
        with storage.open(self.path) as stream:
            file = pq.ParquetFile(stream, metadata=self.metadata)
            return file.read_row_group(group, columns=[column])[column]


# --- what several threads want ----------------------------------------------------------------------------


@dataclass
class _Value(Generic[T]):
    """A value, made or being made, its size, and how many use it."""

    size: int
    made: "Future[T]" = field(default_factory=Future)
    users: int = 0


class Shared(Generic[T]):
    """Values that several threads want: each is made once, and kept while there is room.

    Their sizes together stay within ``room``, but for one that is larger by itself and is then alone. Who
    would need more waits until others are done. A value that could not be made counts as one of no size: who
    asks again is told again, unless the trouble was the storage's.
    """

    def __init__(self, room: int) -> None:
        self._room, self._used, self._turn = room, 0, Condition()
        self._values: OrderedDict[Any, _Value[T]] = OrderedDict()  # the one used longest ago comes first

    @contextmanager
    def lent(self, key: Any, size: int, make: Callable[[], T]) -> Iterator[T]:
        """The value under ``key``, for the length of the block; ``make`` is called where there is none."""
        value, fresh = self._taken(key, size)
        try:
            if fresh:
                self._make(key, value, make)
            if error := value.made.exception():
                raise error.with_traceback(None)  # one error is raised by many: its way here is theirs alone
            yield value.made.result()
        finally:
            with self._turn:
                value.users -= 1
                self._turn.notify_all()

    def _taken(self, key: Any, size: int) -> tuple[_Value[T], bool]:
        with self._turn:
            while True:
                if (found := self._values.get(key)) is not None:
                    self._values.move_to_end(key)
                    found.users += 1
                    return found, False
                if self._make_room(size):
                    self._values[key] = _Value(size, users=1)
                    self._used += size
                    return self._values[key], True
                self._turn.wait()

    def _make_room(self, size: int) -> bool:
        """Let go of what nobody uses until ``size`` fits, or nothing else is there."""
        while self._used + size > self._room:
            idle = next((key for key, value in self._values.items() if not value.users), None)
            if idle is None:
                return not self._used
            self._used -= self._values.pop(idle).size
        return True

    def _make(self, key: Any, value: _Value[T], make: Callable[[], T]) -> None:
        try:
            value.made.set_result(make())
        except BaseException as error:
            value.made.set_exception(error)
            with self._turn:
                self._used -= value.size
                value.size = 0
                if not isinstance(error, Exception) or is_of_storage(error):
                    del self._values[key]
