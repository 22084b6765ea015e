"""Extraction: each image is decoded once and goes through both models; a worker writes its shard's parts
itself.

What a shard leaves behind: its rows of ``images``, ``errors``, ``embeddings`` and ``activations``, and a
partial file with what it adds to examples and moments. A shard is done if and only if its completion record
is there and the files that it names are. The record is written last and lies under a key made of both models
and of the shard's files.

The last batch of a shard is padded to the full batch size. Matrix kernels choose their blocking by shape, so
without that the last bits of an image's numbers would depend on how the data set was sharded.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.feed import AHEAD, Batch, read_batches, stack
from pipelines.images import Shard
from pipelines.ledger import Codec, WorkFile
from pipelines.partial import Partial, write_partial
from pipelines.working import DEVICE, WRITING, Clock, Working
from store.manifest import PartRecord
from store.writer import write_part
from textcam.arrays import Floats
from textcam.records import embedding_rows, error_rows, image_rows, pooled_rows


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
        config.run.number_format,
    )


def extract_shard(bench: Bench, shard: Shard) -> Generator[Working, None, ShardRecord]:
    """Read, decode, classify and encode one shard, and write its parts. A stage for ``execute``.

    Three things go on at once: threads feed, this one runs the models, and one more makes rows and sums.
    """
    key, clock = shard_key(bench, shard), Clock()
    partial = Partial.empty(bench.dims.channels, bench.dims.embedding, bench.config.directions.examples)
    columns: dict[str, list[pa.Table]] = {"images": [], "errors": [], "embeddings": [], "activations": []}
    counts = {"images": 0, "errors": 0}
    collecting: deque[Future[tuple[int, int]]] = deque()

    def settle(most: int) -> None:
        while len(collecting) > most:
            good, bad = collecting.popleft().result()
            counts["images"] += good
            counts["errors"] += bad

    def collect(batch: Batch, seen: Seen | None) -> tuple[int, int]:
        with clock.on(WRITING):
            errors = list(batch.errors)
            if seen is not None:
                errors += _collect(bench, batch, seen, shard.index, columns, partial)
            columns["errors"].append(error_rows(bench.tables["errors"], errors))
        return len(batch) + len(batch.errors) - len(errors), len(errors)

    with ThreadPoolExecutor(1, "collect") as collector:
        for batch in read_batches(bench, shard, clock):
            with clock.on(DEVICE):
                seen = see(bench, batch) if len(batch) else None
            settle(AHEAD - 1)
            collecting.append(collector.submit(collect, batch, seen))
            yield Working(**counts, seconds=dict(clock.seconds), halved=bench.halved)
        settle(0)
    with clock.on(WRITING):
        record = _write(bench, shard, key, columns, partial)
    yield Working(record.images, record.errors, dict(clock.seconds), bench.halved)
    return record


def _write(
    bench: Bench, shard: Shard, key: str, columns: dict[str, list[pa.Table]], partial: Partial
) -> ShardRecord:
    """The shard's parts and its partial."""
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


@dataclass(frozen=True)
class Seen:
    """What both models make of B images: pooled (B, K), logits (B, C), embeddings (B, D), and, for a head
    that is not linear, channel weights (B, K)."""

    pooled: Floats
    logits: Floats
    embeddings: Floats
    weights: Floats | None


def see(bench: Bench, batch: Batch) -> Seen:
    """Both models over one batch, a few images at a time where memory is short."""

    def passes(size: int) -> list[tuple[Floats | None, ...]]:
        firsts = range(0, len(batch), size)
        return [(*_classify(bench, batch, one, size), _encode(bench, batch, one, size)) for one in firsts]

    pooled, logits, weights, embeddings = (
        None if column[0] is None else np.concatenate(column)[: len(batch)]
        for column in zip(*bench.with_room(passes), strict=True)
    )
    assert pooled is not None
    assert logits is not None
    assert embeddings is not None
    return Seen(pooled, logits, embeddings, weights)


def _classify(bench: Bench, batch: Batch, first: int, size: int) -> tuple[Floats, Floats, Floats | None]:
    """Pooled activations, logits and, if each image has its own, channel weights of ``size`` images."""
    pixels = stack(batch.for_classifier[first : first + size], size)
    if bench.classifier.head is None:
        seen, weights = bench.classifier.forward_cam(pixels, method=bench.config.cam.method)
        return seen.pooled, seen.logits, weights
    seen = bench.classifier.forward(pixels)
    return seen.pooled, seen.logits, None


def _encode(bench: Bench, batch: Batch, first: int, size: int) -> Floats:
    """Embeddings of ``size`` images."""
    return bench.encoder.encode_images(stack(batch.for_encoder[first : first + size], size))


def _collect(
    bench: Bench,
    batch: Batch,
    seen: Seen,
    shard: int,
    columns: dict[str, list[pa.Table]],
    partial: Partial,
) -> list[tuple[str, str, str]]:
    """Append rows and sums of a batch; returns the images whose numbers are not finite."""
    finite = np.logical_and.reduce(
        [np.isfinite(one).all(1) for one in (seen.pooled, seen.logits, seen.embeddings)]
    )
    bad = [
        (batch.refs[row].uri, "forward", "A model's output is not finite.") for row in np.flatnonzero(~finite)
    ]
    keep = np.flatnonzero(finite)
    if keep.size == 0:
        return bad
    refs = [batch.refs[row] for row in keep]
    ids = np.array([ref.image_id for ref in refs], np.int64)
    pooled, logits = seen.pooled[keep], seen.logits[keep]
    labels = [bench.labels.get(ref.label) if ref.label is not None else None for ref in refs]
    columns["images"].append(
        image_rows(
            bench.tables["images"],
            image_ids=ids,
            uris=[ref.uri for ref in refs],
            hashes=[batch.hashes[row] for row in keep],
            sizes=[batch.sizes[row] for row in keep],
            labels=labels,
            predictions=logits.argmax(1),
            confidences=_softmax(logits).max(1),
            shard=shard,
        )
    )
    half_embeddings = seen.embeddings[keep].astype(np.float16)
    half_pooled = np.clip(pooled, -65504, 65504).astype(np.float16)
    columns["embeddings"].append(embedding_rows(bench.tables["embeddings"], ids, half_embeddings))
    columns["activations"].append(pooled_rows(bench.tables["activations"], ids, half_pooled))
    partial.update(
        ids,
        pooled.astype(np.float32),
        half_pooled,
        half_embeddings,
        None if seen.weights is None else seen.weights[keep].astype(np.float16),
    )
    return bad


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, C) probabilities."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
