"""The images of a snapshot, streamed shard by shard with their vectors: what every question over all images
reads.

Memory does not grow with N. Needs neither torch nor ray.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.errors import QueryError
from store.reader import Snapshot, as_matrix
from textcam.presence import ConceptPresence

SAMPLE = 4096  # image embeddings from which thresholds of presence are taken, as the run takes them

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ImageRows:
    """B images by ascending id: ids, labels (-1 for none) and predictions (B,), confidences (B,), URIs and
    content hashes, and what was asked for of embeddings (B, D) and pooled activations (B, K), else (B, 0)."""

    image_ids: Ints
    labels: Ints
    predictions: Ints
    confidences: Floats
    uris: list[str]
    content_hashes: list[str]
    embeddings: Floats
    pooled: Floats

    def __len__(self) -> int:
        return len(self.image_ids)

    def classes(self, labelled: bool) -> Ints:
        """(B,): the class that each image counts for: its label (-1 for none), or its prediction."""
        return self.labels if labelled else self.predictions


def image_rows(snapshot: Snapshot, *, embeddings: bool = False, pooled: bool = False) -> Iterator[ImageRows]:
    """All images, one part of the table ``images`` at a time. Raises QueryError where the store was made
    without what is asked for."""
    for name, wanted in (("embeddings", embeddings), ("activations", pooled)):
        if wanted and not snapshot.has(name):
            raise QueryError(
                f"This store has no {name}.",
                where=snapshot.storage.uri,
                fix="Make it with all of its tables; nothing can be recomputed without them.",
            )
    for number, part in enumerate(snapshot.parts("images")):
        rows = snapshot.open_part(part).read()
        ids = rows["image_id"].to_numpy()
        if not len(ids):
            continue
        yield ImageRows(
            ids,
            rows["label"].fill_null(-1).to_numpy().astype(np.int64),
            rows["prediction"].to_numpy().astype(np.int64),
            rows["confidence"].to_numpy(),
            rows["uri"].to_pylist(),
            rows["content_hash"].to_pylist(),
            _vectors(snapshot, "embeddings", "embedding", number, ids) if embeddings else _none(ids),
            _vectors(snapshot, "activations", "pooled", number, ids) if pooled else _none(ids),
        )


def _none(ids: Ints) -> Floats:
    return np.zeros((len(ids), 0), np.float32)


def _vectors(snapshot: Snapshot, table: str, column: str, number: int, ids: Ints) -> Floats:
    """The vectors of these images. A shard's parts have the same name and so the same place; where they do
    not, the rows are looked up by id."""
    parts = snapshot.parts(table)
    rows: pa.Table | None = None
    if len(parts) == len(snapshot.parts("images")):
        rows = snapshot.open_part(parts[number]).read(columns=["image_id", column])
    if rows is None or not np.array_equal(rows["image_id"].to_numpy(), ids):
        rows = snapshot.rows(table, "image_id", ids.tolist(), ["image_id", column])
        if rows.num_rows != len(ids):
            raise QueryError(f"{len(ids) - rows.num_rows} images have no row in {table}.", where=table)
    return as_matrix(rows[column].combine_chunks())


def has_labels(snapshot: Snapshot) -> bool:
    """Whether any image has a label."""
    return any(bool((rows.labels >= 0).any()) for rows in image_rows(snapshot))


def concept_presence(snapshot: Snapshot) -> ConceptPresence:
    """Presence of the bank's texts, in the order of their ids, by the rule and the thresholds of the run."""
    embeddings = as_matrix(snapshot.table("texts", ["embedding"])["embedding"].combine_chunks())
    return ConceptPresence(embeddings, sample=_sample(snapshot))


def _sample(snapshot: Snapshot) -> Floats:
    """(n, D): embeddings of the images with the lowest ids. Ids are hashes: a random draw."""
    ids, embeddings = np.zeros(0, np.int64), np.zeros((0, snapshot.dims.embedding), np.float32)
    for part in snapshot.parts("embeddings"):
        if not part.rows:
            continue
        first = snapshot.open_part(part).read_row_group(0, columns=["image_id", "embedding"])
        first = first.slice(0, SAMPLE)  # sorted by id, and a row group holds more than SAMPLE rows
        ids = np.concatenate([ids, first["image_id"].to_numpy()])
        embeddings = np.concatenate([embeddings, as_matrix(first["embedding"].combine_chunks())])
        keep = np.argsort(ids)[:SAMPLE]
        ids, embeddings = ids[keep], embeddings[keep]
    return embeddings
