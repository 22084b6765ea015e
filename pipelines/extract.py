"""Extraction: each image is decoded once and goes through both models; a worker writes its shard's parts
itself.

What a shard leaves behind: its rows of ``images``, ``errors``, ``embeddings`` and ``activations``, and a
partial file with what it adds to examples and moments. A shard is done if and only if its completion record
is there and the files that it names are. The record is written last and lies under a key made of both models
and of the shard's files.

The last batch of a shard is padded to the full batch size. Matrix kernels choose their blocking by shape, so
without that the last bits of an image's numbers would depend on how the data set was sharded.
"""

import hashlib
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.images import ImageRef, Shard, read_image
from pipelines.ledger import Codec, WorkFile
from pipelines.partial import Partial, write_partial
from store.errors import ImageError
from store.manifest import PartRecord
from store.writer import write_part
from textcam.decode import decode
from textcam.records import embedding_rows, error_rows, image_rows, pooled_rows

T = TypeVar("T")


@dataclass(frozen=True)
class ShardRecord:
    """What a finished shard left: its key, its counts and its files."""

    index: int
    key: str
    images: int
    errors: int
    parts: tuple[PartRecord, ...]
    partial: WorkFile

    def part(self, table: str) -> PartRecord | None:
        """The shard's part of a table; None where it has no rows."""
        return next((part for part in self.parts if part.table == table), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        parts = [part.to_dict() for part in self.parts]
        return {**vars(self), "parts": parts, "partial": asdict(self.partial)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Back from ``to_dict``."""
        parts = tuple(PartRecord.from_dict(part) for part in plain["parts"])
        return cls(**{**plain, "parts": parts, "partial": WorkFile(**plain["partial"])})


SHARDS = Codec(ShardRecord.to_dict, ShardRecord.from_dict, lambda record: [*record.parts, record.partial])


@dataclass
class Batch:
    """Images that were decoded together, and those that could not be."""

    refs: list[ImageRef] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    for_classifier: list[NDArray[Any]] = field(default_factory=list)
    for_encoder: list[NDArray[Any]] = field(default_factory=list)
    errors: list[tuple[str, str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.refs)


def shard_key(bench: Bench, shard: Shard) -> str:
    """The key of a shard's work: both models, its files, and what shapes the numbers."""
    config = bench.config
    named = [one for one in pc.unique(shard.rows["label"]).to_pylist() if one is not None]
    labels = sorted((label, bench.labels[label]) for label in named if label in bench.labels)
    return bench.key(
        shard.index,
        shard.digest,
        labels,
        config.directions.examples,
        config.cam.method,
        config.run.batch_size,
    )


def extract_shard(bench: Bench, shard: Shard) -> ShardRecord:
    """Read, decode, classify and encode one shard, and write its parts. A stage for ``execute``."""
    key = shard_key(bench, shard)
    partial = Partial.empty(bench.dims.channels, bench.dims.embedding, bench.config.directions.examples)
    columns: dict[str, list[pa.Table]] = {"images": [], "errors": [], "embeddings": [], "activations": []}
    for batch in ahead(read_batches(bench, shard), depth=2):
        errors = list(batch.errors)
        if len(batch):
            errors += _forward(bench, batch, shard.index, columns, partial)
        columns["errors"].append(error_rows(bench.tables["errors"], errors))
    name = f"{shard.index:06d}-{key[:12]}"
    parts, counts = [], {}
    for table_name, pieces in columns.items():
        table = bench.tables[table_name]
        rows = pa.concat_tables(pieces) if pieces else table.schema.empty_table()
        counts[table_name] = rows.num_rows
        if rows.num_rows:
            rows = rows.sort_by([(one, "ascending") for one in table.key]).combine_chunks()
            parts.append(write_part(bench.store, table, rows, name))
    written = write_partial(bench.store, f"work/partials/{name}.safetensors", partial)
    return ShardRecord(shard.index, key, counts["images"], counts["errors"], tuple(parts), written)


def read_batches(bench: Bench, shard: Shard) -> Iterator[Batch]:
    """The shard's images in order, read, decoded once and prepared for both models."""
    size = bench.config.run.batch_size
    batch = Batch()
    for ref in shard.refs():
        add_image(bench, ref, batch)
        if len(batch) == size:
            yield batch
            batch = Batch()
    if len(batch) or batch.errors:
        yield batch


def add_image(bench: Bench, ref: ImageRef, batch: Batch) -> None:
    """Read and decode one image into the batch, or note why that was not possible."""
    run, stage = bench.config.run, "read"
    try:
        storage, section = bench.sources[ref.source]
        data = read_image(storage, ref, bytes_column=section.bytes_column, max_bytes=run.max_bytes)
        stage = "decode"
        image = decode(data, max_pixels=run.max_pixels, where=ref.uri)
        stage = "prepare"
        pixels = bench.classifier.prepare(image), bench.encoder.prepare(image)
    except ImageError as error:
        batch.errors.append((ref.uri, stage, error.what))
        return
    except (ValueError, ZeroDivisionError, OSError, RuntimeError) as error:
        # A transform of the user's own, or a resize of a 1 x 10000 image: still one image's trouble only.
        batch.errors.append((ref.uri, stage, f"{type(error).__name__}: {error}"))
        return
    batch.refs.append(ref)
    batch.sizes.append(image.size)
    batch.hashes.append(hashlib.sha256(data).hexdigest())
    batch.for_classifier.append(pixels[0])
    batch.for_encoder.append(pixels[1])


def stack(pixels: list[NDArray[Any]], size: int) -> NDArray[Any]:
    """(B, 3, S, S) from single images, padded with zeros to ``size`` images."""
    first = pixels[0]
    stacked = np.zeros((max(size, len(pixels)), *first.shape), first.dtype)
    for row, one in enumerate(pixels):
        stacked[row] = one
    return stacked


def _forward(
    bench: Bench, batch: Batch, shard: int, columns: dict[str, list[pa.Table]], partial: Partial
) -> list[tuple[str, str, str]]:
    """Both models over one batch; appends rows and sums; returns the images whose numbers are not finite."""
    count, size = len(batch), bench.config.run.batch_size
    pixels = stack(batch.for_classifier, size)
    weights = None
    if bench.classifier.head is None:
        seen, weights = bench.classifier.forward_cam(pixels, method=bench.config.cam.method)
    else:
        seen = bench.classifier.forward(pixels)
    pooled, logits = seen.pooled[:count], seen.logits[:count]
    embeddings = bench.encoder.encode_images(stack(batch.for_encoder, size))[:count]
    finite = np.isfinite(pooled).all(1) & np.isfinite(logits).all(1) & np.isfinite(embeddings).all(1)
    bad = [
        (batch.refs[row].uri, "forward", "A model's output is not finite.") for row in np.flatnonzero(~finite)
    ]
    keep = np.flatnonzero(finite)
    if keep.size == 0:
        return bad
    refs = [batch.refs[row] for row in keep]
    ids = np.array([ref.image_id for ref in refs], np.int64)
    confidence = _softmax(logits[keep]).max(1)
    labels = [bench.labels.get(ref.label) if ref.label is not None else None for ref in refs]
    columns["images"].append(
        image_rows(
            bench.tables["images"],
            image_ids=ids,
            uris=[ref.uri for ref in refs],
            hashes=[batch.hashes[row] for row in keep],
            sizes=[batch.sizes[row] for row in keep],
            labels=labels,
            predictions=logits[keep].argmax(1),
            confidences=confidence,
            shard=shard,
        )
    )
    half_embeddings = embeddings[keep].astype(np.float16)
    half_pooled = np.clip(pooled[keep], -65504, 65504).astype(np.float16)
    columns["embeddings"].append(embedding_rows(bench.tables["embeddings"], ids, half_embeddings))
    columns["activations"].append(pooled_rows(bench.tables["activations"], ids, half_pooled))
    partial.update(
        ids,
        pooled[keep].astype(np.float32),
        half_pooled,
        half_embeddings,
        None if weights is None else weights[:count][keep].astype(np.float16),
    )
    return bad


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, C) probabilities."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items, made by a thread that runs up to ``depth`` ahead, so that decoding and forward
    overlap."""
    made: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                made.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not offer("item", item):
                    return
        except BaseException as error:
            offer("error", error)
            return
        offer("end", None)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join(timeout=5)
