"""Images: the frozen plan of shards, and where each image's bytes lie.

The plan is sorted by URI, never by listing order, so that two runs over the same files make the same shards.
"""

import errno
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import ImagesSection
from pipelines.sources import list_sources
from store.errors import ImageError, SourceError, StorageUnavailable, TextcamError
from store.storage import Storage

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


@dataclass(frozen=True)
class Shard:
    """The unit of work: a slice of the plan. ``digest`` changes if one of its files does."""

    index: int
    rows: pa.Table
    digest: str

    def __len__(self) -> int:
        return self.rows.num_rows

    def refs(self) -> Iterator[ImageRef]:
        """Its images, in the order of the plan."""
        names = ("image_id", "uri", "label", "path", "offset", "size", "row", "source")
        for batch in self.rows.select(list(names)).to_batches():
            for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                yield ImageRef(*values)


@dataclass(frozen=True)
class ImagePlan:
    """All images of a run, sorted by URI, with the number of the shard that each is in."""

    rows: pa.Table

    @property
    def fingerprint(self) -> str:
        """SHA-256 of URIs and stamps: the same files give the same plan, however they are sharded."""
        return _digest(self.rows)

    @property
    def labels(self) -> tuple[str, ...]:
        """Distinct labels of the source, sorted."""
        return tuple(
            sorted(value for value in pc.unique(self.rows["label"]).to_pylist() if value is not None)
        )

    def __len__(self) -> int:
        return len(pc.unique(self.rows["shard"]))

    def shards(self) -> Iterator[Shard]:
        """The shards, in order; within one, images are sorted by URI."""
        order = np.argsort(self.rows["shard"].to_numpy(), kind="stable")
        rows = self.rows.take(pa.array(order))
        numbers, starts = np.unique(rows["shard"].to_numpy(), return_index=True)
        for index, start, end in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
            mine = rows.slice(start, end - start)
            yield Shard(int(index), mine, _digest(mine))


def _digest(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for batch in rows.select(["uri", "stamp"]).to_batches():
        for uri, stamp in zip(batch["uri"].to_pylist(), batch["stamp"].to_pylist(), strict=True):
            digest.update(f"{uri}\0{stamp}\n".encode())
    return digest.hexdigest()


# --- planning -------------------------------------------------------------------------------------------


def plan_shards(
    images: ImagesSection,
    shard_size: int,
    added: Sequence[ImagesSection] = (),
    frozen: pa.Table | None = None,
) -> ImagePlan:
    """List the images, sort them by URI, and cut them into shards.

    ``frozen`` (uri, shard) says where images are that have a shard already; the others are cut into new
    shards with the numbers after these. Raises SourceError if a source is missing or holds no image, or if
    two URIs share an id.
    """
    rows = list_sources([images, *added]).sort_by("uri").combine_chunks()
    check_ids(rows, images.uri)
    return cut(rows, shard_size, frozen)


def cut(rows: pa.Table, shard_size: int, frozen: pa.Table | None) -> ImagePlan:
    """A plan of listed images, sorted by URI. ``frozen`` as in ``plan_shards``."""
    numbers = np.full(rows.num_rows, -1, np.int64)
    first = 0
    if frozen is not None and frozen.num_rows:
        place = pc.index_in(rows["uri"], value_set=frozen["uri"]).fill_null(-1).to_numpy()
        shards = frozen["shard"].to_numpy()
        numbers = np.where(place >= 0, shards[place], -1)
        first = int(shards.max()) + 1
    fresh = np.flatnonzero(numbers < 0)
    numbers[fresh] = first + np.arange(len(fresh)) // shard_size
    return ImagePlan(rows.append_column("shard", pa.array(numbers, pa.int32())))


def check_ids(rows: pa.Table, uri: str) -> None:
    """Raise SourceError if two images of ``uri`` have one id."""
    ids = rows["image_id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if same.size:
        pair = [rows["uri"][int(order[same[0] + step])].as_py() for step in (0, 1)]
        raise SourceError(
            f"Two images share one id: {pair[0]!r} and {pair[1]!r}.", where=uri, fix="List each image once."
        )


# --- opening one image ----------------------------------------------------------------------------------


def read_image(storage: Storage, ref: ImageRef, *, bytes_column: str = "image", max_bytes: int) -> bytes:
    """The encoded bytes of one image.

    Raises ImageError if there are none or more than ``max_bytes``, and StorageUnavailable if the trouble may
    be the storage's and not the image's.
    """
    if ref.size is not None and ref.size > max_bytes:
        raise ImageError(f"The file has {ref.size} bytes, more than the limit of {max_bytes}.", where=ref.uri)
    try:
        data = _read(storage, ref, bytes_column, max_bytes)
    except (TextcamError, OSError, pa.ArrowException) as error:
        reason = error.what if isinstance(error, TextcamError) else str(error)
        if _is_of_storage(error):
            raise StorageUnavailable(reason, where=ref.uri) from None
        raise ImageError(f"The file cannot be read: {reason}", where=ref.uri) from None
    if len(data) > max_bytes:  # its size was not listed, or it grew
        raise ImageError(f"The file has more bytes than the limit of {max_bytes}.", where=ref.uri)
    return data


def _is_of_storage(error: Exception) -> bool:
    """Whether another attempt may go better. Arrow has OSError without a number for a damaged file."""
    cause = error.__cause__ if isinstance(error, StorageUnavailable) else error
    if isinstance(cause, OSError):
        return cause.errno is not None and cause.errno not in _OF_FILE
    return isinstance(error, StorageUnavailable)


def _read(storage: Storage, ref: ImageRef, bytes_column: str, max_bytes: int) -> bytes:
    if ref.row is not None:
        return _read_parquet_row(storage, ref, bytes_column)
    if ref.offset is not None and ref.size is not None:
        return storage.read_range(ref.path, ref.offset, ref.size)
    return storage.read_range(ref.path, 0, max_bytes + 1)


def _read_parquet_row(storage: Storage, ref: ImageRef, bytes_column: str) -> bytes:
    with storage.open(ref.path) as stream:
        file = pq.ParquetFile(stream)
        start, row = 0, int(ref.row or 0)
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < start + count:
                value = file.read_row_group(group, columns=[bytes_column])[bytes_column][row - start].as_py()
                # Hugging Face data sets keep {"bytes": ..., "path": ...} in their image column.
                value = value["bytes"] if isinstance(value, dict) else value
                if not isinstance(value, bytes):
                    raise ImageError("The row holds no image bytes.", where=ref.uri)
                return value
            start += count
    raise ImageError("The file has fewer rows than when it was planned.", where=ref.uri)
