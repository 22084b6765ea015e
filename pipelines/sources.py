"""Sources: folders, WebDataset tars, Parquet files and CSV lists, each listed into the same columns.

A new kind of source is one function here. Listing goes through columns in Arrow chunks, so a
million files are never a million objects.
"""

import csv
import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import ImagesSection
from store.errors import SourceError
from store.schema import stable_id
from store.storage import Entry, Storage, open_storage
from textcam.source_images import below, lies_in, namings, root_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# One row of the plan. `path` is what is opened; a member of a tar lies at (offset, size) in it, a row of a
# Parquet file at `row`. `stamp` changes when the file changes (size and time, or the object's e-tag).
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


def open_source(images: ImagesSection) -> tuple[Storage, str]:
    """The storage that the images' URIs are relative to, and the prefix below which they are listed.

    ``images.uri`` may be a folder or one file (a .csv, .tar or .parquet). Raises SourceError if it is not
    there.
    """
    if images.uri.lower().endswith((".csv", ".tar", ".parquet")):
        folder, _, name = images.uri.rpartition("/")
        storage, prefix = open_storage(folder or "/"), name
    else:
        storage, prefix = open_storage(images.uri), ""
    if "://" not in images.uri and not Path(images.uri).exists():
        raise SourceError("There is no such folder or file.", where=images.uri, fix="Check images.uri.")
    return storage, prefix


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
        stamp: str = "",
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


def _list_folder(storage: Storage, entries: Iterable[Entry], images: ImagesSection) -> pa.Table:
    rows = _Rows()
    for entry in entries:
        if _is_image(entry.path):
            label = entry.path.split("/", 1)[0] if "/" in entry.path else None
            rows.add(entry.path, entry.path, label=label, size=entry.size, stamp=entry.stamp)
    return rows.table()


def _list_webdataset(storage: Storage, entries: Iterable[Entry], images: ImagesSection) -> pa.Table:
    """Members of tars; ``x.cls`` beside ``x.jpg`` is its label, as WebDataset has it."""
    rows = _Rows()
    for entry in entries:
        if not entry.path.endswith(".tar"):
            continue
        found: list[tuple[str, int, int]] = []
        labels: dict[str, str] = {}
        try:
            with storage.open(entry.path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    stem, _, extension = member.name.partition(".")
                    if member.isfile() and _is_image(member.name):
                        found.append((member.name, member.offset_data, member.size))
                    elif member.isfile() and extension == "cls":
                        stream.seek(member.offset_data)
                        labels[stem] = stream.read(min(member.size, 1024)).decode(errors="replace").strip()
        except (tarfile.TarError, EOFError) as error:
            raise SourceError(f"A tar cannot be read: {error}.", where=f"{images.uri}/{entry.path}") from None
        for name, offset, size in found:
            label = labels.get(name.partition(".")[0])
            rows.add(
                f"{entry.path}/{name}", entry.path, label=label, offset=offset, size=size, stamp=entry.stamp
            )
    return rows.table()


def _list_parquet(storage: Storage, entries: Iterable[Entry], images: ImagesSection) -> pa.Table:
    """Rows of Parquet files: image bytes in ``bytes_column``, or URIs in ``uri_column``."""
    rows = _Rows()
    for entry in entries:
        if not entry.path.endswith(".parquet"):
            continue
        with storage.open(entry.path) as stream:
            file = pq.ParquetFile(stream)
            names = set(file.schema_arrow.names)
            if not names & {images.bytes_column, images.uri_column}:
                raise SourceError(
                    f"Neither column {images.bytes_column!r} nor {images.uri_column!r} is in the file.",
                    where=f"{images.uri}/{entry.path}",
                    fix=f"Columns: {', '.join(sorted(names))}; set images.bytes_column or images.uri_column.",
                )
            inside = images.bytes_column in names
            wanted = [name for name in (images.uri_column, images.label_column) if name in names]
            at = 0
            for batch in file.iter_batches(columns=wanted):
                uris = (
                    batch[images.uri_column].to_pylist()
                    if images.uri_column in wanted
                    else [None] * len(batch)
                )
                labels = (
                    batch[images.label_column].to_pylist()
                    if images.label_column in wanted
                    else [None] * len(batch)
                )
                for step, (uri, label) in enumerate(zip(uris, labels, strict=True)):
                    name = uri if uri is not None else f"{entry.path}#{at + step}"
                    rows.add(
                        name,
                        entry.path if inside else name,
                        label=None if label is None else str(label),
                        row=at + step if inside else None,
                        stamp=entry.stamp,
                    )
                at += len(batch)
    return rows.table()


def _list_csv(storage: Storage, entries: Iterable[Entry], images: ImagesSection) -> pa.Table:
    """Every .csv below ``images.uri``: URIs relative to the folder, and labels if there is such a column."""
    rows = _Rows()
    for entry in entries:
        if not entry.path.endswith(".csv"):
            continue
        where = f"{images.uri}/{entry.path}"
        reader = csv.DictReader(io.StringIO(storage.read(entry.path).decode("utf-8-sig")))
        if images.uri_column not in (reader.fieldnames or ()):
            raise SourceError(
                f"The list has no column {images.uri_column!r}.",
                where=where,
                fix=f"Columns: {', '.join(reader.fieldnames or ())}; set images.uri_column.",
            )
        for line in reader:
            uri, label = line[images.uri_column], line.get(images.label_column)
            rows.add(uri, uri, label=label or None, stamp=entry.stamp)
    return rows.table()


LISTINGS: dict[str, Callable[[Storage, Iterable[Entry], ImagesSection], pa.Table]] = {
    "folder": _list_folder,
    "webdataset": _list_webdataset,
    "parquet": _list_parquet,
    "csv": _list_csv,
}


# --- one source or several --------------------------------------------------------------------------------


def list_sources(sections: Sequence[ImagesSection]) -> pa.Table:
    """The images of all sources, with the number of its ``source``; one that is in several counts for the
    first. URIs are named as ``namings`` says. Raises SourceError for a source without images.
    """
    whole = PLAN_SCHEMA.append(pa.field("source", pa.int32())).empty_table()
    for at, section in enumerate(sections):
        rows = named(list_source(section), at, [one.uri for one in sections])
        known = pc.is_in(rows["uri"], value_set=whole["uri"])
        whole = pa.concat_tables([whole, rows.filter(pc.invert(known))])
    return whole


def list_source(images: ImagesSection, prefix: str | None = None) -> pa.Table:
    """The images of one source, sorted; URIs are its own paths. ``prefix``: those in this folder of it.

    Raises SourceError if there is none.
    """
    storage, whole = open_source(images)
    prefix = whole if prefix is None else prefix
    rows = LISTINGS[images.format](storage, storage.scan(prefix, follow_links=True), images).sort_by("uri")
    if rows.num_rows == 0:
        raise SourceError(
            f"No image was found (format: {images.format}).",
            where=f"{images.uri}/{prefix}".rstrip("/") if prefix != whole else images.uri,
            fix=f"Image files end in {', '.join(SUFFIXES)}; other layouts: images.format.",
        )
    if images.limit is not None and images.limit < rows.num_rows:
        rows = _spread(rows, images.limit)
    if images.labels == "none":
        none = pa.nulls(rows.num_rows, pa.string())
        rows = rows.set_column(rows.schema.get_field_index("label"), "label", none)
    return rows


def _spread(rows: pa.Table, limit: int) -> pa.Table:
    """``limit`` rows at equal steps, so that a limited run still meets every folder."""
    keep = np.linspace(0, rows.num_rows - 1, limit).round().astype(np.int64)
    return rows.take(pa.array(keep))


def named(rows: pa.Table, at: int, uris: Sequence[str]) -> pa.Table:
    """Rows of source number ``at`` of ``uris`` under the URIs that their images have in a store.

    Where a source before it lies inside this one, its images keep the names that they have there.
    """
    rows = rows.append_column("source", pa.array(np.full(rows.num_rows, at), pa.int32()))
    roots, names = [root_of(uri) for uri in uris], namings(uris)
    inner = [
        (below(roots[one], roots[at]) + "/", names[one])
        for one in range(at)
        if roots[one] != roots[at] and lies_in(roots[one], roots[at])
    ]
    if not names[at] and not inner:
        return rows
    made = [
        next((name + uri[len(way) :] for way, name in inner if uri.startswith(way)), names[at] + uri)
        for uri in rows["uri"].to_pylist()
    ]
    columns = {"uri": pa.array(made, pa.string()), "image_id": pa.array(map(stable_id, made), pa.int64())}
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows
