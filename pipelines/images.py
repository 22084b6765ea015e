"""Images: the frozen plan of shards, and the one way in which an image is opened.

The plan is sorted by URI, never by listing order, so that two runs over the same files make the same shards.
Pillow is the reference decoder. Limits on bytes and pixels are checked before anything is decoded.
"""

import csv
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pipelines.config import ImagesSection
from store.errors import ImageError, SourceError, TextcamError
from store.schema import stable_id
from store.storage import Entry, Storage, open_storage

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
DECODER = "pillow"  # part of the fingerprint of what was extracted

# One row of the plan. `path` is what is opened; a member of a tar lies at (offset, size) in it, a row of a
# Parquet file at `row`. `stamp` changes when the file changes (size and time, or the object's e-tag).
PLAN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64()),
        pa.field("uri", pa.string()),
        pa.field("folder", pa.string()),
        pa.field("label", pa.string()),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("stamp", pa.string()),
    ]
)


@dataclass(frozen=True)
class ImageRef:
    """Where one image lies. ``label`` is what the source says (a folder or a column), not yet a class."""

    image_id: int
    uri: str
    label: str | None
    path: str
    offset: int | None
    size: int | None
    row: int | None


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
        names = ("image_id", "uri", "label", "path", "offset", "size", "row")
        for batch in self.rows.select(list(names)).to_batches():
            for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                yield ImageRef(*values)


@dataclass(frozen=True)
class ImagePlan:
    """All images of a run, sorted by URI, and how they are cut into shards."""

    rows: pa.Table
    shard_size: int

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
        return -(-self.rows.num_rows // self.shard_size)

    def shards(self) -> Iterator[Shard]:
        """The shards, in order."""
        for index in range(len(self)):
            rows = self.rows.slice(index * self.shard_size, self.shard_size)
            yield Shard(index, rows, _digest(rows))


def _digest(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for batch in rows.select(["uri", "stamp"]).to_batches():
        for uri, stamp in zip(batch["uri"].to_pylist(), batch["stamp"].to_pylist(), strict=True):
            digest.update(f"{uri}\0{stamp}\n".encode())
    return digest.hexdigest()


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


# --- planning -------------------------------------------------------------------------------------------


def plan_shards(images: ImagesSection, shard_size: int) -> ImagePlan:
    """List the images, sort them by URI, and cut them into shards.

    Raises SourceError if the source is missing or holds no image, or if two URIs share an id.
    """
    storage, prefix = open_source(images)
    entries = storage.scan(prefix)
    rows = _LISTINGS[images.format](storage, entries, images)
    if rows.num_rows == 0:
        raise SourceError(
            f"No image was found (format: {images.format}).",
            where=images.uri,
            fix=f"Image files end in {', '.join(SUFFIXES)}; other layouts: images.format.",
        )
    rows = rows.sort_by("uri")
    if images.limit is not None and images.limit < rows.num_rows:
        rows = _spread(rows, images.limit)
    _check_ids(rows, images.uri)
    if images.labels == "none":
        rows = rows.set_column(
            rows.schema.get_field_index("label"), "label", pa.nulls(rows.num_rows, pa.string())
        )
    return ImagePlan(rows.combine_chunks(), shard_size)


def _spread(rows: pa.Table, limit: int) -> pa.Table:
    """``limit`` rows at equal steps, so that a limited run still meets every folder."""
    keep = np.linspace(0, rows.num_rows - 1, limit).round().astype(np.int64)
    return rows.take(pa.array(keep))


def _check_ids(rows: pa.Table, uri: str) -> None:
    ids = rows["image_id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if same.size:
        pair = [rows["uri"][int(order[same[0] + step])].as_py() for step in (0, 1)]
        raise SourceError(
            f"Two images share one id: {pair[0]!r} and {pair[1]!r}.", where=uri, fix="List each image once."
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
        stamp: str = "",
    ) -> None:
        folder = uri.rpartition("/")[0]
        self._pending.append((stable_id(uri), uri, folder, label, path, offset, size, row, stamp))
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


_LISTINGS: dict[str, Callable[[Storage, Iterable[Entry], ImagesSection], pa.Table]] = {
    "folder": _list_folder,
    "webdataset": _list_webdataset,
    "parquet": _list_parquet,
    "csv": _list_csv,
}


# --- opening one image ----------------------------------------------------------------------------------


def read_image(storage: Storage, ref: ImageRef, *, bytes_column: str = "image", max_bytes: int) -> bytes:
    """The encoded bytes of one image.

    Raises ImageError if they cannot be had or are more than ``max_bytes``.
    """
    if ref.size is not None and ref.size > max_bytes:
        raise ImageError(f"The file has {ref.size} bytes, more than the limit of {max_bytes}.", where=ref.uri)
    try:
        if ref.row is not None:
            return _read_parquet_row(storage, ref, bytes_column)
        if ref.offset is not None and ref.size is not None:
            with storage.open(ref.path) as stream:
                stream.seek(ref.offset)
                return bytes(stream.read(ref.size))
        return storage.read(ref.path)
    except (TextcamError, OSError, pa.ArrowException) as error:
        reason = error.what if isinstance(error, TextcamError) else str(error)
        raise ImageError(f"The file cannot be read: {reason}", where=ref.uri) from None


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


def decode(data: bytes, *, max_pixels: int, where: str = "") -> Image.Image:
    """One image, upright (EXIF), as 8-bit RGB.

    16-bit greys are scaled to 8 bits; palettes, CMYK and grey become RGB; transparency is dropped, as the
    training pipelines of the field do. Raises ImageError if the bytes are no image, are cut short, or have
    too many pixels.
    """
    if not data:
        raise ImageError("The file is empty.", where=where)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ImageError(
                    f"The image has {width} x {height} pixels, more than the limit of {max_pixels}.",
                    where=where,
                )
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":
                grey = np.asarray(image, dtype=np.float64)
                top = 65535.0 if image.mode.startswith("I") else 1.0
                image = Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8))
            return image.convert("RGB")
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image is too large: {error}", where=where) from None
    except Exception as error:  # Pillow's plugins raise nearly every kind of exception on hostile bytes
        reason = (
            "not an image that Pillow knows"
            if isinstance(error, Image.UnidentifiedImageError)
            else str(error)
        )
        raise ImageError(f"The image cannot be decoded: {reason}", where=where) from None


# --- labels ---------------------------------------------------------------------------------------------


def class_ids_of(
    labels: tuple[str, ...], class_names: tuple[str, ...], aliases: dict[str, int]
) -> dict[str, int]:
    """Which class each label of the source is; empty if the labels are not the classes.

    A label is matched as an alias (a WordNet id, say), then as a class name, then as a class number. Folders
    that match nothing but are as many as the classes are taken in sorted order, as torchvision's ImageFolder
    does.
    """
    by_name = {name.casefold(): class_id for class_id, name in enumerate(class_names)}

    def match(label: str) -> int | None:
        if label in aliases:
            return aliases[label]
        if label.casefold() in by_name:
            return by_name[label.casefold()]
        if label.isdigit() and int(label) < len(class_names):
            return int(label)
        return None

    found = {label: match(label) for label in labels}
    if labels and all(class_id is not None for class_id in found.values()):
        return {label: class_id for label, class_id in found.items() if class_id is not None}
    if (
        labels
        and not any(class_id is not None for class_id in found.values())
        and len(labels) == len(class_names)
    ):
        return {label: class_id for class_id, label in enumerate(sorted(labels))}
    return {label: class_id for label, class_id in found.items() if class_id is not None}


def read_aliases(class_names: str | None) -> dict[str, int]:
    """Other names of the classes: every further column (``wnid``, say) of a .csv of class names."""
    if class_names is None or not class_names.lower().endswith(".csv"):
        return {}
    lines = list(csv.DictReader(Path(class_names).read_text(encoding="utf-8-sig").splitlines()))
    aliases: dict[str, int] = {}
    for position, line in enumerate(lines):
        class_id = int(line.get("class_id") or position)
        others = [value for column, value in line.items() if column not in ("class_id", "name") and value]
        aliases |= {value.strip(): class_id for value in others}
    return aliases
