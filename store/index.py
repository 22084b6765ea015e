"""A store's vector indexes: each names its table's content in a card, and is refused beside any other."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import numpy as np
from annotated_types import Interval, Predicate
from numpy.typing import ArrayLike

from store.checked import copy_checked, file_hash, read_checked
from store.documents import STRICT, Count, Digest, canonical, parse
from store.errors import IndexMismatch
from store.manifest import IndexRecord, PartRecord, TableName, built_from, sha256
from store.schema import Size, tables
from store.storage import Storage
from store.vectors import TIERS, Batches, Ids, Vectors, is_tier, recall_at_10
from store.vectors import VectorIndex as VectorIndex

if TYPE_CHECKING:
    from store.reader import Snapshot

INDEXED = {"texts": "embedding", "channels": "direction", "groups": "direction", "embeddings": "embedding"}
_SPOOL_BYTES = (
    64 << 20
)  # an index up to this size is put together in memory, a larger one in a temporary file


@dataclass(frozen=True)
class Card:
    """What an index was built from (``manifest.built_from`` of the parts) and how well it finds."""

    __pydantic_config__ = STRICT
    table: TableName
    built_from: Digest
    rows: Count
    dim: Size
    tier: Annotated[str, Predicate(is_tier)]
    recall_at_10: Annotated[float, Interval(ge=0, le=1)]


def write_index(
    storage: Storage,
    table: str,
    parts: Sequence[PartRecord],
    ids: ArrayLike,
    vectors: ArrayLike,
    *,
    tier: str = "auto",
    min_recall: float = 0.0,
) -> IndexRecord:
    """Build, measure and write the index over ``vectors`` (n, d) of a table that consists of ``parts``.

    Raises ``IndexMismatch`` where recall@10 is below ``min_recall``; then nothing was written.
    """
    own_ids, rows = np.asarray(ids, np.int64), np.asarray(vectors, np.float32)
    index = VectorIndex.build(own_ids, rows, tier)
    return _measured_and_written(storage, table, parts, index, lambda: [(own_ids, rows)], min_recall)


def index_table(
    snapshot: "Snapshot", table: str, *, tier: str = "auto", min_recall: float = 0.0
) -> IndexRecord:
    """As ``write_index``, streaming the vectors from a snapshot in hand: for tables larger than memory."""
    batches = partial(vector_batches, snapshot, table)
    index = VectorIndex.build_from(batches, snapshot.count(table), snapshot.dims.embedding, tier)
    parts = snapshot.parts(table)
    return _measured_and_written(snapshot.storage, table, parts, index, batches, min_recall)


def vector_batches(snapshot: "Snapshot", table: str) -> Iterator[tuple[Ids, Vectors]]:
    """Ids (b,) and vectors (b, d) of an indexed table, streamed."""
    from store.reader import as_matrix

    key = tables(snapshot.dims)[table].key[0]
    for batch in snapshot.batches(table, [key, INDEXED[table]]):
        yield batch.column(0).to_numpy().astype(np.int64), as_matrix(batch.column(1))


def _measured_and_written(
    storage: Storage,
    table: str,
    parts: Sequence[PartRecord],
    index: VectorIndex,
    batches: Batches,
    min_recall: float,
) -> IndexRecord:
    recall = recall_at_10(index, batches)
    if recall < min_recall:
        raise IndexMismatch(
            f"The {index.tier} index finds {recall:.3f} of the ten nearest; the limit is {min_recall}.",
            where=table,
            fix="Choose a more exact tier (index.tier) or lower the limit (index.min_recall).",
        )
    source = built_from(parts)
    card = Card(table, source, len(index), index.dim, index.tier, round(recall, 6))
    card_data = canonical(asdict(card))
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        file = cast(BinaryIO, spool)
        index.write(file)
        size = file.tell()
        digest = file_hash(file)
        path = f"indexes/{table}-{source[:12]}-{digest[:12]}.faiss"
        storage.put(path, file)
    card_path = path.removesuffix(".faiss") + ".json"
    storage.put(card_path, card_data)
    return IndexRecord(table, path, size, digest, card_path, sha256(card_data))


def read_card(storage: Storage, record: IndexRecord, snapshot: int | None = None) -> Card:
    """The index's card, checked. ``snapshot``: the number of the one that it is read for."""
    data = read_checked(storage, record.card_path, record.card_sha256, snapshot)
    return parse(Card, data, "The index's card", where=f"{storage.uri}/{record.card_path}")


def load_index(snapshot: "Snapshot", table: str) -> VectorIndex:
    """The index over a table. Where the snapshot has none, an exact one is built from the table, if small.

    Raises ``IndexMismatch`` where the card does not name this table's content, ``Damaged`` for other bytes.
    """
    if table not in INDEXED:
        raise IndexMismatch(f"Table {table} has no index.", fix=f"Indexed tables: {', '.join(INDEXED)}")
    record = snapshot.manifest.index_of(table)
    if record is None:
        return _built_now(snapshot, table)
    storage, number = snapshot.storage, snapshot.manifest.snapshot
    card = read_card(storage, record, number)
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        file = cast(BinaryIO, spool)
        copy_checked(storage, record.path, record.bytes, record.sha256, file, number)
        index = VectorIndex.read(file, card.tier, where=f"{storage.uri}/{record.path}")
    found = (card.table, card.built_from, card.rows, card.dim, len(index), index.dim)
    rows, dim = snapshot.count(table), snapshot.dims.embedding
    if found != (table, built_from(snapshot.parts(table)), rows, dim, rows, dim):
        raise IndexMismatch(
            "The index was not built from the table beside it.",
            where=record.path,
            fix="Run the precompute again.",
        )
    return index


def _built_now(snapshot: "Snapshot", table: str) -> VectorIndex:
    if snapshot.count(table) > (TIERS["flat"] or 0):
        raise IndexMismatch(
            f"There is no index over {table}, and the table is too large for an exact one.",
            where=snapshot.storage.uri,
            fix="Run the precompute again.",
        )
    return VectorIndex.build(*snapshot.matrix(table, INDEXED[table]), tier="flat")
