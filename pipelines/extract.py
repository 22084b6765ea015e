"""Extraction: each image is decoded once and goes through all models; a worker writes its shard's parts
itself.

What a shard leaves behind: its rows of ``images``, ``errors``, ``embeddings`` and ``activations``, and a
partial file with what it adds to examples and moments. A shard is done if and only if its completion record
is there and the files that it names are. The record is written last and lies under a key made of both models
and of the shard's files.

The last batch of a shard is padded to the full batch size. Matrix kernels choose their blocking by shape, so
without that the last bits of an image's numbers would depend on how the data set was sharded.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial as bind
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
from textcam.arrays import Floats, finite_rows
from textcam.records import embedding_rows, error_rows, image_rows, pooled_rows

LARGEST = 1e15  # of all an image's contributions together; beyond it, squares overflow in float32


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
        *config.run.shaping(),
    )


def extract_shard(bench: Bench, shard: Shard) -> Generator[Working, None, ShardRecord]:
    """Read, decode, classify and encode one shard, and write its parts. A stage for ``execute``."""
    (record,) = yield from extract_for([bench], shard)
    return record


def extract_for(benches: Sequence[Bench], shard: Shard) -> Generator[Working, None, list[ShardRecord]]:
    """The same for several classifiers over one decode: one record each, as if each had been alone.

    Three things go on at once: threads feed, this one runs the models, and one more makes rows and sums.
    """
    clock = Clock()
    harvests = [Harvest(bench, shard) for bench in benches]
    collecting: deque[Future[None]] = deque()

    def settle(most: int) -> None:
        while len(collecting) > most:
            collecting.popleft().result()

    def collect(batch: Batch, seen: Sequence[Seen]) -> None:
        with clock.on(WRITING):
            for number, harvest in enumerate(harvests):
                harvest.take(batch, seen[number] if seen else None, batch.refused.get(number, {}))

    def working() -> Working:
        halved = [bench.halved for bench in benches if bench.halved is not None]
        return Working(
            min(one.images for one in harvests),
            max(one.errors for one in harvests),
            dict(clock.seconds),
            min(halved, default=None),
        )

    with ThreadPoolExecutor(1, "collect") as collector:
        for batch in read_batches(benches, shard, clock):
            with clock.on(DEVICE):
                seen = see(benches, batch) if len(batch) else []
            settle(AHEAD - 1)
            collecting.append(collector.submit(collect, batch, seen))
            yield working()
        settle(0)
    with clock.on(WRITING):
        records = [harvest.write() for harvest in harvests]
    yield working()
    return records


@dataclass(frozen=True)
class Seen:
    """What the models make of B images: pooled (B, K), logits (B, C), embeddings (B, D), and, for a head
    that is not linear, channel weights (B, K)."""

    pooled: Floats
    logits: Floats
    embeddings: Floats
    weights: Floats | None


def see(benches: Sequence[Bench], batch: Batch) -> list[Seen]:
    """All models over one batch, a few images at a time where memory is short; once for each classifier."""
    (embeddings,) = _passes(benches[0], batch, bind(_encode, benches[0], batch))
    assert embeddings is not None
    made = []
    for number, bench in enumerate(benches):
        pooled, logits, weights = _passes(bench, batch, bind(_classify, bench, batch, number))
        assert pooled is not None
        assert logits is not None
        made.append(Seen(pooled, logits, embeddings, weights))
    return made


def _passes(
    bench: Bench, batch: Batch, forward: Callable[[int, int], tuple[Floats | None, ...]]
) -> list[Floats | None]:
    """``forward(first image, images)`` over the batch, its outputs put together."""

    def passes(size: int) -> list[tuple[Floats | None, ...]]:
        return [forward(first, size) for first in range(0, len(batch), size)]

    columns = zip(*bench.with_room(passes), strict=True)
    return [None if one[0] is None else np.concatenate(one)[: len(batch)] for one in columns]


def _classify(
    bench: Bench, batch: Batch, number: int, first: int, size: int
) -> tuple[Floats, Floats, Floats | None]:
    """Pooled activations, logits and, if each image has its own, channel weights of ``size`` images."""
    pixels = stack(batch.for_classifier(first, size, number), size)
    if bench.classifier.head is None:
        seen, weights = bench.classifier.forward_cam(pixels, method=bench.config.cam.method)
        return seen.pooled, seen.logits, weights
    seen = bench.classifier.forward(pixels)
    return seen.pooled, seen.logits, None


def _encode(bench: Bench, batch: Batch, first: int, size: int) -> tuple[Floats]:
    """Embeddings of ``size`` images."""
    return (bench.encoder.encode_images(stack(batch.for_encoder[first : first + size], size)),)


class Harvest:
    """What one classifier's store gets of a shard, as its batches come."""

    def __init__(self, bench: Bench, shard: Shard) -> None:
        self.bench, self.shard = bench, shard
        self.images, self.errors = 0, 0
        dims, examples = bench.dims, bench.config.directions.examples
        self._partial = Partial.empty(dims.channels, dims.embedding, examples)
        self._columns: dict[str, list[pa.Table]] = {
            name: [] for name in ("images", "errors", "embeddings", "activations")
        }

    def take(self, batch: Batch, seen: Seen | None, refused: Mapping[int, str]) -> None:
        """Add the rows and sums of a batch; images that cannot be used become errors."""
        errors = list(batch.errors)
        errors += [(batch.refs[row].uri, "prepare", reason) for row, reason in refused.items()]
        if seen is not None:
            usable = np.ones(len(batch), bool)
            usable[list(refused)] = False
            for sound, reason in (
                (finite_rows(seen.pooled, seen.logits, seen.embeddings), "A model's output is not finite."),
                (are_explicable(seen.pooled, seen.weights), "Its channel weights are not finite."),
            ):
                uris = [batch.refs[row].uri for row in np.flatnonzero(usable & ~sound)]
                errors += [(uri, "forward", reason) for uri in uris]
                usable &= sound
            self._keep(batch, seen, np.flatnonzero(usable))
        self._columns["errors"].append(error_rows(self.bench.tables["errors"], errors))
        self.errors += len(errors)
        self.images += len(batch) + len(batch.errors) - len(errors)

    def _keep(self, batch: Batch, seen: Seen, keep: NDArray[np.int64]) -> None:
        """Append the rows and sums of the images that can be used."""
        if keep.size == 0:
            return
        bench, tables, columns = self.bench, self.bench.tables, self._columns
        refs = [batch.refs[row] for row in keep]
        ids = np.array([ref.image_id for ref in refs], np.int64)
        pooled, logits = seen.pooled[keep], seen.logits[keep]
        columns["images"].append(
            image_rows(
                tables["images"],
                image_ids=ids,
                uris=[ref.uri for ref in refs],
                hashes=[batch.hashes[row] for row in keep],
                sizes=[batch.sizes[row] for row in keep],
                labels=[bench.labels.get(ref.label) if ref.label is not None else None for ref in refs],
                predictions=logits.argmax(1),
                confidences=_softmax(logits).max(1),
                shard=self.shard.index,
            )
        )
        half_embeddings = seen.embeddings[keep].astype(np.float16)
        half_pooled = np.clip(pooled, -65504, 65504).astype(np.float16)
        columns["embeddings"].append(embedding_rows(tables["embeddings"], ids, half_embeddings))
        columns["activations"].append(pooled_rows(tables["activations"], ids, half_pooled))
        self._partial.update(
            ids,
            pooled.astype(np.float32),
            half_pooled,
            half_embeddings,
            None if seen.weights is None else seen.weights[keep].astype(np.float32),
        )

    def write(self) -> ShardRecord:
        """The shard's parts and its partial."""
        bench, key = self.bench, shard_key(self.bench, self.shard)
        name = f"{self.shard.index:06d}-{key[:12]}"
        parts = []
        for table_name, pieces in self._columns.items():
            table = bench.tables[table_name]
            rows = pa.concat_tables(pieces) if pieces else table.schema.empty_table()
            if rows.num_rows:
                rows = rows.sort_by([(one, "ascending") for one in table.key]).combine_chunks()
                parts.append(write_part(bench.store, table, rows, name))
        written = write_partial(bench.store, f"work/partials/{name}.safetensors", self._partial)
        return ShardRecord(self.shard.index, key, self.images, self.errors, tuple(parts), written)


def are_explicable(pooled: Floats, weights: Floats | None) -> NDArray[np.bool_]:
    """Which of B images have an explanation: their ``weights`` (B, K), if each has its own, and what these
    make of ``pooled`` (B, K) can be reckoned with.

    Gradients are not always finite where outputs are (the square root at 0, say), and XGrad-CAM divides by
    sums that may vanish.
    """
    if weights is None:
        return np.ones(len(pooled), bool)
    with np.errstate(all="ignore"):
        largest = (np.abs(weights, dtype=np.float64) * np.abs(pooled, dtype=np.float64)).sum(axis=1)
    return finite_rows(weights) & (largest < LARGEST)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, C) probabilities."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
