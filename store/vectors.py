"""Nearest unit vectors by inner product, under our own int64 ids. FAISS lives only in this file.

The tier follows the number of vectors: exact to 200,000; half precision to a million; a graph to four
million; then compressed codes. What a tier loses is measured when it is built (recall@10 against the exact
answer, for a sample of its own vectors) and stands in the index's card. Vectors come in batches, so that
building needs little more memory than the index itself.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from store.errors import Damaged, SchemaMismatch

TIERS = {"flat": 200_000, "sqfp16": 1_000_000, "hnsw": 4_000_000, "opq-ivf-pq": None}  # most vectors of each
RECALL_TOP, RECALL_QUERIES = 10, 200
TRAINING_ROWS = 65_536
CANDIDATES = 10  # for each answer asked for, how many of the nearest codes are looked at again
SEED = 20_251_001
_FIX = "Restore the store from a copy."

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Batches = Callable[[], Iterable[tuple[Ids, Vectors]]]  # each call: the same rows, in the same order


def tier_for(rows: int) -> str:
    """The tier for this many vectors."""
    return next(tier for tier, most in TIERS.items() if most is None or rows <= most)


def is_tier(name: str) -> bool:
    """Whether there is such a tier."""
    return name in TIERS


class VectorIndex:
    """Search over (n, d) unit vectors by inner product, which is their cosine similarity."""

    def __init__(self, index: Any, tier: str) -> None:
        self._index, self.tier = index, tier

    @classmethod
    def build(cls, ids: ArrayLike, vectors: ArrayLike, tier: str = "auto") -> "VectorIndex":
        """Index ``vectors`` (n, d) under ``ids`` (n,), all different and not negative.

        Raises ``SchemaMismatch`` for ids that repeat or do not fit, or an unknown tier.
        """
        own_ids, rows = np.asarray(ids, np.int64), np.asarray(vectors, np.float32)
        if rows.ndim != 2 or own_ids.shape != rows.shape[:1]:
            raise SchemaMismatch(f"{own_ids.shape} ids do not fit {rows.shape} vectors.", where="index")
        return cls.build_from(lambda: [(own_ids, rows)], len(rows), rows.shape[1], tier)

    @classmethod
    def build_from(cls, batches: Batches, rows: int, dim: int, tier: str = "auto") -> "VectorIndex":
        """As ``build``, from batches of ids (b,) and vectors (b, d) that are ``rows`` in all."""
        tier = tier_for(rows) if tier == "auto" else tier
        inner = _empty(tier, rows, dim)
        if not inner.is_trained:
            sample = np.random.default_rng(SEED).permutation(rows)[:TRAINING_ROWS]
            inner.train(_rows_at(batches, np.sort(sample), dim)[1])
        index = faiss.IndexIDMap(inner)
        for ids, vectors in batches():
            if len(ids):
                contiguous = np.ascontiguousarray(vectors, np.float32)
                index.add_with_ids(contiguous, np.ascontiguousarray(ids, np.int64))
        built = cls(index, tier)
        own = np.sort(built.ids)
        if len(own) and (own[0] < 0 or (own[1:] == own[:-1]).any()):
            raise SchemaMismatch("Ids of an index must be different and not negative.", where="index")
        return built

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """d, the length of a vector."""
        return int(self._index.d)

    @property
    def kind(self) -> str:
        """The tier that the content is of, by inner product; "other" for none of them."""
        inner = faiss.downcast_index(self._index.index)
        found = {
            faiss.IndexFlatIP: "flat",
            faiss.IndexFlat: "flat",
            faiss.IndexScalarQuantizer: "sqfp16",
            faiss.IndexHNSWSQ: "hnsw",
            faiss.IndexRefine: "opq-ivf-pq",
        }.get(type(inner), "other")
        return found if inner.metric_type == faiss.METRIC_INNER_PRODUCT else "other"

    @property
    def ids(self) -> Ids:
        """All ids, in the order in which they were added."""
        return faiss.vector_to_array(self._index.id_map).astype(np.int64)

    def vectors(self, ids: ArrayLike) -> Vectors:
        """The vectors (n, d) held under ``ids`` (n,), as the tier keeps them; not for compressed codes."""
        place = {one: at for at, one in enumerate(self.ids.tolist())}
        rows = [self._index.index.reconstruct(place[int(one)]) for one in np.asarray(ids, np.int64)]
        return np.asarray(rows, np.float32).reshape(len(rows), self.dim)

    def search(self, queries: ArrayLike, top: int) -> tuple[Ids, Vectors]:
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

    def write(self, file: BinaryIO) -> None:
        """Into ``file``, as FAISS writes it."""
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]

    @classmethod
    def read(cls, file: BinaryIO, tier: str, where: str = "index") -> "VectorIndex":
        """Back from ``write``. Only for bytes whose hash was checked: FAISS trusts what it reads.

        Raises ``Damaged`` for what is no index of ours.
        """
        try:
            source = faiss.PyCallbackIOReader(file.read, 1 << 20)  # type: ignore[attr-defined]
            index = faiss.read_index(source)
        except (RuntimeError, MemoryError) as error:
            told = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise Damaged(f"FAISS cannot read this index: {told[0]}", where=where, fix=_FIX) from None
        if not isinstance(index, faiss.IndexIDMap):
            kind = type(index).__name__
            raise Damaged(f"This is no index under ids but FAISS's {kind}.", where=where, fix=_FIX)
        return cls(index, tier)


def _empty(tier: str, rows: int, dim: int) -> Any:
    """An index of this tier, made for this many vectors, still without any."""
    metric, half = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
    if tier == "flat":
        return faiss.IndexFlatIP(dim)
    if tier == "sqfp16":
        return faiss.IndexScalarQuantizer(dim, half, metric)
    if tier == "hnsw":
        graph = faiss.IndexHNSWSQ(dim, half, 32, metric)  # type: ignore[arg-type]
        graph.hnsw.efConstruction, graph.hnsw.efSearch = 100, 128
        return graph
    if tier == "opq-ivf-pq":
        return _compressed(rows, dim)
    raise SchemaMismatch(f"No index tier {tier!r}.", where="index", fix=f"Tiers: auto, {', '.join(TIERS)}")


def _compressed(rows: int, dim: int) -> Any:
    """Rotation, inverted lists with a byte of product code for each 4 numbers or more, and beside them a byte
    for each number: the best by their codes are put in order by those (codes alone lost a quarter).

    FAISS wants 39 training vectors for each list, which bounds their number; a query looks into one list of
    16.
    """
    pieces = max(one for one in range(1, max(1, dim // 4) + 1) if dim % one == 0)
    lists = max(1, min(int(4 * math.sqrt(rows)), min(rows, TRAINING_ROWS) // 39))
    form = f"OPQ{pieces},IVF{lists},PQ{pieces}x8,Refine(SQ8)"
    index: Any = faiss.index_factory(dim, form, faiss.METRIC_INNER_PRODUCT)
    index.k_factor = CANDIDATES
    coded: Any = faiss.downcast_index(index.base_index)
    rotation: Any = faiss.downcast_VectorTransform(coded.chain.at(0))
    rotation.niter = 8  # of 50: more costs minutes and finds no more
    faiss.extract_index_ivf(coded).nprobe = max(1, lists // 16)
    return index


def _rows_at(batches: Batches, places: NDArray[np.int64], dim: int) -> tuple[Ids, Vectors]:
    """The rows at these ascending places of the whole stream."""
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    start = 0
    for batch_ids, batch in batches():
        low, high = np.searchsorted(places, (start, start + len(batch)))
        ids.append(batch_ids[places[low:high] - start])
        vectors.append(batch[places[low:high] - start])
        start += len(batch)
    return np.concatenate(ids), np.concatenate(vectors)


def recall_at_10(index: VectorIndex, batches: Batches) -> float:
    """Share of the ten exactly nearest others that the index finds, for a sample of its vectors as queries.

    A vector as similar as the exact tenth counts as found, whichever of the equals was returned.
    """
    rows = len(index)
    top = min(RECALL_TOP, rows - 1)
    if top < 1:
        return 1.0
    places = np.sort(np.random.default_rng(SEED).permutation(rows)[:RECALL_QUERIES])
    query_ids, queries = _rows_at(batches, places, index.dim)
    found, _ = index.search(queries, top + 1)  # (q, top + 1): the query itself may be among them
    exact = np.full(found.shape, -np.inf, np.float32)  # exact similarity of what was found
    best = np.full((len(queries), top), -np.inf, np.float32)  # the exactly nearest so far
    for ids, vectors in (batch for batch in batches() if len(batch[0])):
        similarity = queries @ vectors.T  # (q, b)
        similarity[query_ids[:, None] == ids] = -np.inf
        best = np.partition(np.concatenate([best, similarity], axis=1), -top, axis=1)[:, -top:]
        order = np.argsort(ids)
        at = order[np.minimum(np.searchsorted(ids, found, sorter=order), len(ids) - 1)]  # (q, top + 1)
        hit = ids[at] == found
        exact[hit] = np.take_along_axis(similarity, at, axis=1)[hit]
    good = exact >= best.min(axis=1, keepdims=True) - 1e-6
    return float(np.minimum(good.sum(axis=1), top).mean() / top)
