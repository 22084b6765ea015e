"""What each kind of source holds: folders, WebDataset tars, Parquet files and CSV lists, as rows of the plan.

A new kind of source is one function here. Listing goes through columns in Arrow chunks, so a million files
are never a million objects. Tars and Parquet files are listed several at a time.
"""

import csv
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from os.path import commonprefix

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import ImagesSection
from pipelines.reading import is_of_storage
from store.errors import SourceError, TextcamError
from store.schema import stable_id
from store.storage import CONCURRENT, Entry, Storage, concurrently
from textcam.source_images import root_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# A tar is read from header to header. A request to a bucket costs as much as a megabyte; on a disk a seek
# costs nothing, and what lies between the headers is better left unread.
TAR_BUFFER, REMOTE_TAR_BUFFER = 1 << 13, 1 << 20
BLOCK, REMOTE_BLOCK = 1 << 16, 1 << 20  # listed images whose files are looked at together
LOOKED_AT = 4  # listed objects, for each image that a list names, before the rest is asked for one by one

# One row of the plan. `path` is what is opened; a member of a tar lies at (offset, size) in it, a row of a
# Parquet file at `row`. `stamp` changes when the image may have changed: size and time of its file, or the
# object's e-tag, and the column that it is read from. A listing leaves it null where only the image itself
# can tell (see ``with_stamps``).
PLAN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64()),
        pa.field("uri", pa.string()),
        pa.field("label", pa.string()),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("stamp", pa.string()),
    ]
)


class _Rows:
    """Collects rows of the plan in columns, in Arrow chunks, so that a million files are not a million
    objects."""

    def __init__(self, chunk: int = 65536) -> None:
        self._chunk, self._tables, self._pending = chunk, list[pa.Table](), list[tuple[object, ...]]()

    def add(
        self,
        uri: str,
        path: str,
        *,
        label: str | None = None,
        offset: int | None = None,
        size: int | None = None,
        row: int | None = None,
        stamp: str | None = None,
    ) -> None:
        self._pending.append((stable_id(uri), uri, label, path, offset, size, row, stamp))
        if len(self._pending) >= self._chunk:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._pending, strict=True)) or [()] * len(PLAN_SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, PLAN_SCHEMA, strict=True)]
        self._tables.append(pa.Table.from_arrays(arrays, schema=PLAN_SCHEMA))
        self._pending.clear()

    def table(self) -> pa.Table:
        self._flush()
        return pa.concat_tables(self._tables)


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not path.rpartition("/")[2].startswith(".")


def _each(
    suffix: str, list_one: Callable[[Storage, Entry, str, ImagesSection], pa.Table]
) -> Callable[[Storage, Iterable[Entry], ImagesSection], pa.Table]:
    """A listing of all files that end in ``suffix``, several at a time; ``list_one`` is told where each is.

    What is wrong with a file becomes a SourceError that names it.
    """

    def listing(storage: Storage, entries: Iterable[Entry], images: ImagesSection) -> pa.Table:
        def one(entry: Entry) -> pa.Table:
            where = f"{root_of(images.uri).rstrip('/')}/{entry.path}"
            with _named_errors(where):
                return list_one(storage, entry, where, images)

        files = [entry for entry in entries if entry.path.lower().endswith(suffix)]
        return pa.concat_tables([PLAN_SCHEMA.empty_table(), *concurrently(one, files)])

    return listing


@contextmanager
def _named_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, csv.Error, UnicodeDecodeError, pa.ArrowException, OSError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"This file of images cannot be read: {said}.", where=where, fix="Mend it, or take it away."
        ) from None


# --- the kinds ------------------------------------------------------------------------------------------


def _list_folder(storage: Storage, entries: Iterable[Entry], images: ImagesSection) -> pa.Table:
    rows = _Rows()
    for entry in entries:
        if _is_image(entry.path):
            label = entry.path.split("/", 1)[0] if "/" in entry.path else None
            rows.add(entry.path, entry.path, label=label, size=entry.size, stamp=entry.stamp)
    return rows.table()


def _list_tar(storage: Storage, entry: Entry, where: str, images: ImagesSection) -> pa.Table:
    """Members of a tar; ``x.cls`` beside ``x.jpg`` is its label, as WebDataset has it."""
    found: list[tuple[str, int, int]] = []
    labels: dict[str, str] = {}
    buffer = REMOTE_TAR_BUFFER if "://" in storage.uri else TAR_BUFFER
    with (
        storage.open(entry.path) as raw,
        io.BufferedReader(raw, buffer) as stream,
        tarfile.open(fileobj=stream, mode="r:") as tar,
    ):
        for member in tar:
            if not member.isfile():
                continue
            if _is_image(member.name):
                found.append((member.name, member.offset_data, member.size))
            elif sample_of(member.name)[1] == "cls":
                stream.seek(member.offset_data)
                text = stream.read(min(member.size, 1024)).decode(errors="replace").strip()
                labels[sample_of(member.name)[0]] = text
    rows = _Rows()
    for name, offset, size in found:
        rows.add(
            f"{entry.path}/{name}",
            entry.path,
            label=labels.get(sample_of(name)[0]),
            offset=offset,
            size=size,
            stamp=entry.stamp,
        )
    return rows.table()


def sample_of(name: str) -> tuple[str, str]:
    """The sample that a member of a WebDataset tar belongs to, and which part of it the member is.

    As WebDataset's documentation has it: the folder stays, and the file's own name is cut at its first dot.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, part = base.partition(".")
    return f"{folder}{slash}{stem}", part.lower()


def _list_parquet(storage: Storage, entry: Entry, where: str, images: ImagesSection) -> pa.Table:
    """Rows of a Parquet file: image bytes in ``bytes_column``, or URIs in ``uri_column``."""
    rows = _Rows()
    with storage.open(entry.path) as stream:
        file = pq.ParquetFile(stream)
        names = set(file.schema_arrow.names)
        if not names & {images.bytes_column, images.uri_column}:
            raise SourceError(
                f"Neither column {images.bytes_column!r} nor {images.uri_column!r} is in the file.",
                where=where,
                fix=f"Columns: {', '.join(sorted(names))}; set images.bytes_column or images.uri_column.",
            )
        inside = images.bytes_column in names
        wanted = [name for name in (images.uri_column, images.label_column) if name in names]
        row = 0
        for batch in file.iter_batches(columns=wanted):
            uris, labels = (
                batch[name].to_pylist() if name in wanted else [None] * len(batch)
                for name in (images.uri_column, images.label_column)
            )
            for uri, label in zip(uris, labels, strict=True):
                said = None if label is None else str(label)
                uri = f"{entry.path}#{row}" if uri is None and inside else uri
                if not isinstance(uri, str) or not uri:
                    raise _no_uri(images.uri_column, f"{where}, row {row}")
                if inside:
                    stamp = f"{entry.stamp} {images.bytes_column}"
                    rows.add(uri, entry.path, label=said, row=row, stamp=stamp)
                else:
                    rows.add(uri, uri, label=said)
                row += 1
    return rows.table()


def _list_csv(storage: Storage, entry: Entry, where: str, images: ImagesSection) -> pa.Table:
    """A .csv with URIs relative to its source's folder, and labels if there is such a column."""
    rows = _Rows()
    reader = csv.DictReader(io.StringIO(storage.read(entry.path).decode("utf-8-sig"), newline=""))
    columns = list(reader.fieldnames or ())
    if images.uri_column not in columns:
        raise SourceError(
            f"The list has no column {images.uri_column!r}.",
            where=where,
            fix=f"Columns: {', '.join(columns)}; set images.uri_column.",
        )
    for line in reader:
        uri = line[images.uri_column]
        if not uri:
            raise _no_uri(images.uri_column, f"{where}, line {reader.line_num}")
        rows.add(uri, uri, label=line.get(images.label_column) or None)
    return rows.table()


def _no_uri(column: str, where: str) -> SourceError:
    return SourceError(
        f"There is no image's URI in column {column!r}.", where=where, fix="Give it one, or take it out."
    )


LISTINGS: dict[str, Callable[[Storage, Iterable[Entry], ImagesSection], pa.Table]] = {
    "folder": _list_folder,
    "webdataset": _each(".tar", _list_tar),
    "parquet": _each(".parquet", _list_parquet),
    "csv": _each(".csv", _list_csv),
}


# --- images that a list names -----------------------------------------------------------------------------


def with_stamps(storage: Storage, rows: pa.Table) -> pa.Table:
    """Rows of the plan with the stamp and the size of each image that a list names by its URI.

    On a disk that takes one look at each file. Of a bucket the folder that they share is listed, a thousand
    objects a request, for as long as that pays; what was not met is asked for by itself, several at a time.
    An image that is not there has "" for a stamp, and shows when it is read. Raises StorageUnavailable.
    """
    if not pc.any(pc.is_null(rows["stamp"])).as_py():
        return rows
    remote = "://" in storage.uri
    size = REMOTE_BLOCK if remote else BLOCK
    blocks = [rows.slice(first, size) for first in range(0, rows.num_rows, size)]
    return pa.concat_tables([_with_stamps(storage, block, remote) for block in blocks])


def _with_stamps(storage: Storage, rows: pa.Table, remote: bool) -> pa.Table:
    unknown = np.flatnonzero(pc.is_null(rows["stamp"]).to_numpy(zero_copy_only=False))
    paths = rows["path"].take(pa.array(unknown)).to_pylist()
    found = _listed(storage, paths) if remote else {}
    missing = [path for path in paths if path not in found]
    step = -(-len(missing) // (8 * CONCURRENT)) or 1
    some = [missing[first : first + step] for first in range(0, len(missing), step)]
    for looked_at in concurrently(lambda those: [_entry(storage, path) for path in those], some):
        found |= {entry.path: entry for entry in looked_at if entry is not None}
    stamps, sizes = rows["stamp"].to_pylist(), rows["size"].to_pylist()
    for row, path in zip(unknown, paths, strict=True):
        entry = found.get(path)
        stamps[row], sizes[row] = ("", None) if entry is None else (entry.stamp, entry.size)
    for name, values in (("stamp", stamps), ("size", sizes)):
        field = PLAN_SCHEMA.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    return rows


def _listed(storage: Storage, paths: Sequence[str]) -> dict[str, Entry]:
    """Those of the paths that a listing meets before it has seen too many others."""
    wanted, found = set(paths), dict[str, Entry]()
    prefix = commonprefix(list(paths))  # noqa: RUF071 (scan takes any beginning of a path)
    for entry in islice(storage.scan(prefix), 1000 + LOOKED_AT * len(paths)):
        if entry.path in wanted:
            found[entry.path] = entry
            if len(found) == len(wanted):
                break
    return found


def _entry(storage: Storage, path: str) -> Entry | None:
    try:
        return storage.stat(path)
    except FileNotFoundError:
        return None
    except TextcamError as error:
        if is_of_storage(error):
            raise
        return None
