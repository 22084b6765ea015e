"""Images: the frozen plan of shards, and the one way in which an image is opened.

The plan is sorted by URI, never by listing order, so that two runs over the same files make the same shards.
Pillow is the reference decoder. Limits on bytes and pixels are checked before anything is decoded.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pipelines.config import ImagesSection
from pipelines.sources import LISTINGS, SUFFIXES, open_source
from store.errors import ImageError, SourceError, TextcamError
from store.storage import Storage

DECODER = "pillow"  # part of the fingerprint of what was extracted


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


# --- planning -------------------------------------------------------------------------------------------


def plan_shards(images: ImagesSection, shard_size: int) -> ImagePlan:
    """List the images, sort them by URI, and cut them into shards.

    Raises SourceError if the source is missing or holds no image, or if two URIs share an id.
    """
    storage, prefix = open_source(images)
    entries = storage.scan(prefix)
    rows = LISTINGS[images.format](storage, entries, images)
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
