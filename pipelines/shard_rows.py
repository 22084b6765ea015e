"""Shards of a store as plain arrays, joined by id: what every pass over all images reads.

Memory does not grow with N.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.extract import ShardRecord
from store.reader import as_matrix, read_part

SAMPLE = 4096  # image embeddings from which thresholds of presence are taken


@dataclass(frozen=True)
class ShardRows:
    """Some images of one shard, joined by id: (B,) ids, labels (-1 for none), predictions, right or not."""

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32]
    pooled: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def read_rows(
    bench: Bench, record: ShardRecord, *, pooled: bool = True, embeddings: bool = True
) -> ShardRows | None:
    """A shard's images with their numbers, sorted by id."""
    images = record.part("images")
    if images is None:
        return None
    rows = read_part(bench.store, images, ["image_id", "label", "prediction", "confidence"])
    ids = rows["image_id"].to_numpy()

    def joined(table: str, column: str, wanted: bool, width: int) -> NDArray[np.float32]:
        part = record.part(table)
        if not wanted or part is None:
            return np.zeros((len(ids), 0 if not wanted else width), np.float32)
        found = read_part(bench.store, part)
        place = np.searchsorted(found["image_id"].to_numpy(), ids)  # both are sorted by id
        return as_matrix(found[column].combine_chunks())[place]

    return ShardRows(
        ids,
        rows["label"].fill_null(-1).to_numpy().astype(np.int64),
        rows["prediction"].to_numpy().astype(np.int64),
        rows["confidence"].to_numpy(),
        joined("activations", "pooled", pooled, bench.dims.channels),
        joined("embeddings", "embedding", embeddings, bench.dims.embedding),
    )


def stream_rows(bench: Bench, records: Sequence[ShardRecord], *, embeddings: bool) -> Iterator[ShardRows]:
    """Every shard that has images, in order."""
    for record in records:
        rows = read_rows(bench, record, embeddings=embeddings)
        if rows is not None:
            yield rows


def sample_embeddings(bench: Bench, records: Sequence[ShardRecord]) -> NDArray[np.float32]:
    """(n, D): the images with the lowest ids. Ids are hashes, so these are a random draw, the same for any
    sharding."""
    ids, embeddings = np.zeros(0, np.int64), np.zeros((0, bench.dims.embedding), np.float32)
    for record in records:
        part = record.part("embeddings")
        if part is None:
            continue
        rows: pa.Table = read_part(bench.store, part).slice(0, SAMPLE)  # sorted by id
        ids = np.concatenate([ids, rows["image_id"].to_numpy()])
        embeddings = np.concatenate([embeddings, as_matrix(rows["embedding"].combine_chunks())])
        keep = np.argsort(ids)[:SAMPLE]
        ids, embeddings = ids[keep], embeddings[keep]
    return embeddings
