"""Nearest unit vectors by inner product, under our own int64 ids. FAISS lives only here.

The tier follows the number of vectors: exact to 200,000; half the size in half precision to a million; a
graph to four million; then compressed codes. What a tier loses is measured when it is built (recall@10
against the exact answer, on a sample) and stands in the index's card.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from store.checked import read_checked
from store.errors import Damaged, IndexMismatch, SchemaMismatch
from store.manifest import IndexRecord, PartRecord, built_from, sha256
from store.storage import Storage

if TYPE_CHECKING:
    from store.reader import Snapshot

INDEXED = {"texts": "embedding", "channels": "direction", "groups": "direction", "embeddings": "embedding"}
TIERS = {
    "flat": 200_000,
    "sqfp16": 1_000_000,
    "hnsw": 4_000_000,
    "opq-ivf-pq": None,
}  # up to this many vectors
RECALL_TOP, RECALL_QUERIES = 10, 200
SEED = 20_251_001


@dataclass(frozen=True)
class Card:
    """What an index was built from (``manifest.built_from`` of the parts) and how well it finds."""

    table: str
    built_from: str
    rows: int
    dim: int
    tier: str
    recall_at_10: float


def tier_for(rows: int) -> str:
    """The tier for this many vectors."""
    return next(tier for tier, most in TIERS.items() if most is None or rows <= most)


class VectorIndex:
    """Search over (n, d) unit vectors by inner product, which is their cosine similarity."""

    def __init__(self, index: Any, tier: str) -> None:
        self._index, self.tier = index, tier

    @classmethod
    def build(cls, ids: ArrayLike, vectors: ArrayLike, tier: str = "auto") -> "VectorIndex":
        """Index ``vectors`` (n, d) float32 under ``ids`` (n,) int64, all different and not negative.

        Raises ``SchemaMismatch`` for ids that repeat or do not fit, or an unknown tier.
        """
        own_ids = np.ascontiguousarray(ids, np.int64)
        rows = np.ascontiguousarray(vectors, np.float32)
        if rows.ndim != 2 or own_ids.shape != rows.shape[:1]:
            raise SchemaMismatch(f"{own_ids.shape} ids do not fit {rows.shape} vectors.", where="index")
        if len(np.unique(own_ids)) != len(own_ids) or (own_ids < 0).any():
            raise SchemaMismatch("Ids of an index must be different and not negative.", where="index")
        tier = tier_for(len(rows)) if tier == "auto" else tier
        inner = _empty(tier, *rows.shape)
        if not inner.is_trained:
            inner.train(_training_rows(rows))
        index = faiss.IndexIDMap(inner)
        index.add_with_ids(rows, own_ids)
        return cls(index, tier)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """d, the length of a vector."""
        return int(self._index.d)

    @property
    def ids(self) -> NDArray[np.int64]:
        """All ids, in the order in which they were added."""
        return faiss.vector_to_array(self._index.id_map).astype(np.int64)

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """The vectors (n, d) held under ``ids`` (n,), as exact as the tier keeps them."""
        place = {one: at for at, one in enumerate(self.ids.tolist())}
        rows = [place[int(one)] for one in np.asarray(ids, np.int64)]
        return np.stack([self._index.index.reconstruct(row) for row in rows])

    def search(self, queries: ArrayLike, top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For ``queries`` (q, d) the ``top`` nearest: (ids (q, top), similarities (q, top)), best first.

        Where there are fewer, ids are -1 and similarities -inf. Equal similarities come by ascending id.
        """
        rows = np.ascontiguousarray(np.atleast_2d(np.asarray(queries, np.float32)))
        if rows.shape[1] != self.dim:
            raise SchemaMismatch(f"A query has {rows.shape[1]} numbers, the index {self.dim}.", where="index")
        take = min(top, len(self))
        ids = np.full((len(rows), top), -1, np.int64)
        similarities = np.full((len(rows), top), -np.inf, np.float32)
        if take and len(rows):
            found, nearest = self._index.search(rows, take)
            found = np.where(nearest < 0, -np.inf, found)
            order = np.lexsort((nearest, -found), axis=1)
            ids[:, :take] = np.take_along_axis(nearest, order, axis=1)
            similarities[:, :take] = np.take_along_axis(found, order, axis=1)
        return ids, similarities

    def to_bytes(self) -> bytes:
        """As FAISS writes it."""
        return bytes(faiss.serialize_index(self._index).tobytes())

    @classmethod
    def from_bytes(cls, data: bytes, tier: str) -> "VectorIndex":
        """Back from ``to_bytes``. Only for bytes whose hash was checked: FAISS trusts what it reads."""
        return cls(faiss.deserialize_index(np.frombuffer(data, np.uint8)), tier)


def _empty(tier: str, rows: int, dim: int) -> Any:
    inner_product = faiss.METRIC_INNER_PRODUCT
    if tier == "flat":
        return faiss.IndexFlatIP(dim)
    if tier == "sqfp16":
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, inner_product)
    if tier == "hnsw":
        graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, 32, inner_product)  # type: ignore[arg-type]
        graph.hnsw.efConstruction, graph.hnsw.efSearch = 100, 128
        return graph
    if tier == "opq-ivf-pq":
        return _compressed(rows, dim)
    raise SchemaMismatch(f"No index tier {tier!r}.", where="index", fix=f"Tiers: auto, {', '.join(TIERS)}")


def _compressed(rows: int, dim: int) -> Any:
    """Rotation, inverted lists, and a byte of product code for each 4 numbers or more."""
    pieces = max(pieces for pieces in range(1, dim // 4 + 1) if dim % pieces == 0) if dim >= 4 else 1
    lists = max(1, min(int(4 * math.sqrt(rows)), rows // 39))  # FAISS wants 39 training vectors for each list
    index = faiss.index_factory(dim, f"OPQ{pieces},IVF{lists},PQ{pieces}x8", faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).nprobe = max(1, lists // 32)
    return index


def _training_rows(rows: NDArray[np.float32], most: int = 262_144) -> NDArray[np.float32]:
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(SEED).choice(len(rows), most, replace=False))]


def recall_at_10(index: VectorIndex, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> float:
    """Share of the exact ten nearest that the index finds too, for a sample of the vectors as queries.

    Vectors at the exact tenth's similarity count as found whichever of them was returned.
    """
    if not len(ids):
        return 1.0
    sample = np.random.default_rng(SEED).choice(len(ids), min(RECALL_QUERIES, len(ids)), replace=False)
    queries = np.ascontiguousarray(vectors[sample], np.float32)
    top = min(RECALL_TOP, len(ids))
    similarities = queries @ vectors.T  # (q, n)
    tenth = np.partition(similarities, -top, axis=1)[:, -top]
    order = np.argsort(ids)
    found, _ = index.search(queries, top)
    place = order[np.searchsorted(ids, np.maximum(found, ids[order[0]]), sorter=order)]
    good = np.take_along_axis(similarities, place, axis=1) >= tenth[:, None] - 1e-6
    return float((good & (found >= 0)).mean())


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
    """Build, measure and write the index over a table's vectors, with its card.

    Raises ``IndexMismatch`` where recall@10 is below ``min_recall``; then nothing was written.
    """
    own_ids, rows = np.asarray(ids, np.int64), np.asarray(vectors, np.float32)
    index = VectorIndex.build(own_ids, rows, tier)
    recall = recall_at_10(index, own_ids, rows)
    if recall < min_recall:
        raise IndexMismatch(
            f"The {index.tier} index finds {recall:.3f} of the ten nearest; the limit is {min_recall}.",
            where=table,
            fix="Choose a more exact tier or lower the limit.",
        )
    source = built_from(parts)
    data = index.to_bytes()
    digest = sha256(data)
    card = Card(table, source, len(index), index.dim, index.tier, round(recall, 6))
    card_data = (json.dumps(asdict(card), indent=1, sort_keys=True) + "\n").encode()
    name = f"indexes/{table}-{source[:12]}-{digest[:12]}"
    for path, content in ((f"{name}.faiss", data), (f"{name}.json", card_data)):
        if not (storage.exists(path) and storage.read(path) == content):
            storage.put(path, content)
    return IndexRecord(table, f"{name}.faiss", len(data), digest, f"{name}.json", sha256(card_data))


def read_card(storage: Storage, record: IndexRecord) -> Card:
    """The index's card, checked."""
    data = read_checked(storage, record.card_path, record.card_sha256)
    try:
        return Card(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise Damaged(f"The index's card cannot be understood: {error}", where=record.card_path) from None


def load_index(snapshot: "Snapshot", table: str) -> VectorIndex:
    """The index over a table. Where the snapshot has none, an exact one is built from the table, if small.

    Raises ``IndexMismatch`` where the card does not name this table's content, ``Damaged`` for other bytes.
    """
    if table not in INDEXED:
        raise IndexMismatch(f"Table {table} has no index.", fix=f"Indexed tables: {', '.join(INDEXED)}")
    record = snapshot.manifest.index_of(table)
    if record is None:
        return _built_now(snapshot, table)
    card = read_card(snapshot.storage, record)
    index = VectorIndex.from_bytes(read_checked(snapshot.storage, record.path, record.sha256), card.tier)
    found = (card.table, card.built_from, card.rows, card.dim, len(index), index.dim)
    source, rows, dim = built_from(snapshot.parts(table)), snapshot.count(table), snapshot.dims.embedding
    if found != (table, source, rows, dim, rows, dim):
        raise IndexMismatch(
            "The index was not built from the table beside it.",
            where=record.path,
            fix="Run the precompute again.",
        )
    return index


def _built_now(snapshot: "Snapshot", table: str) -> VectorIndex:
    if snapshot.count(table) > (TIERS["flat"] or 0):
        raise IndexMismatch(
            f"The snapshot has no index over {table}, and the table is too large for an exact one."
        )
    return VectorIndex.build(*snapshot.matrix(table, INDEXED[table]), tier="flat")
