"""The second pass: what the encoder sees where a channel fires, for every image that is an example of it.

A vector belongs to one image, channel and side, and depends on nothing else. So each is computed once and
kept with the shard that its image is in: when images are added, examples of old images were examples before
(with 2 M images or more), and no old image is opened again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.bench import Bench, digest
from pipelines.execute import worker_count
from pipelines.extract import ShardRecord
from pipelines.feed import Batch, add_image, stack
from pipelines.images import ImagePlan, Shard
from pipelines.ledger import Codec, Ledger, WorkFile, read_arrays, write_arrays
from store.manifest import PartRecord
from textcam.accumulate import ExampleSide
from textcam.arrays import unit_rows
from textcam.lda import fit_directions_indexed

REGION_IMAGES = 512  # example images in one unit of the second pass
STAGE = "regions"
OF_SHARD = 16  # digits of a shard's key that the records of its vectors begin with

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Which image is an example of which channel, on which side (0 positive, 1 negative) and at which rank.

    All (P,), sorted by image, channel and side. ``channels_in_all`` is K.
    """

    channels_in_all: int
    image_ids: Ints
    channels: Ints
    sides: Ints
    ranks: Ints

    @classmethod
    def of(cls, sides: Sequence[ExampleSide]) -> Self:
        """All examples of both sides, positives first."""
        pieces = []
        for side, examples in enumerate(sides):
            channel, rank = np.nonzero(examples.image_ids >= 0)
            pieces.append((examples.image_ids[channel, rank], channel, np.full_like(channel, side), rank))
        columns = [np.concatenate(column) for column in zip(*pieces, strict=True)]
        order = np.lexsort(columns[2::-1])
        return cls(len(sides[0].image_ids), *(column[order] for column in columns))

    @cached_property
    def _ids(self) -> Ints:
        return np.unique(self.image_ids)

    @cached_property
    def _codes(self) -> Ints:
        return self._code(self.image_ids, self.channels, self.sides)

    def _code(self, image_ids: Ints, channels: Ints, sides: Ints) -> Ints:
        """One number a pair, ascending as the pairs are sorted."""
        image: Ints = np.searchsorted(self._ids, image_ids)
        return (image * self.channels_in_all + channels) * 2 + sides

    def find(self, image_ids: Ints, channels: Ints, sides: Ints) -> Ints:
        """Which pair each of these is, -1 where it is none."""
        if not len(self._ids):
            return np.full(len(image_ids), -1)
        codes = self._code(image_ids, channels, sides)
        place = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        known = (self._codes[place] == codes) & np.isin(image_ids, self._ids)
        return np.where(known, place, -1)


# --- what is known, and what is to be done ----------------------------------------------------------------


@dataclass(frozen=True)
class RegionVectors:
    """Vectors of some pairs, and the part with their images: the vectors hold as long as it does."""

    file: WorkFile
    images: PartRecord

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Back from plain JSON."""
        return cls(WorkFile(**plain["file"]), PartRecord.from_dict(plain["images"]))


REGIONS = Codec(
    lambda made: {"file": asdict(made.file), "images": made.images.to_dict()},
    RegionVectors.from_dict,
    lambda made: [made.file, made.images],
)


def known_vectors(ledger: Ledger, records: Sequence[ShardRecord]) -> list[RegionVectors]:
    """All vectors that were computed for images of these shards, in this run or an earlier one."""
    shards = {record.key[:OF_SHARD] for record in records}
    keys = [key for key in ledger.keys(STAGE) if key[:OF_SHARD] in shards]
    found = (ledger.get(STAGE, key) for key in keys)
    return [REGIONS.load(one) for one in found if one is not None]


@dataclass(frozen=True)
class RegionItem:
    """Some example images of one shard, and for which channels and on which side each is an example.

    ``pairs`` is (P, 3): row in ``shard``, channel, side (0 positive, 1 negative).
    """

    shard: Shard
    pairs: Ints
    images: PartRecord
    key: str


def region_items(
    bench: Bench,
    plan: ImagePlan,
    records: Sequence[ShardRecord],
    wanted: Pairs,
    known: Sequence[RegionVectors],
) -> Iterator[RegionItem]:
    """Units of the second pass over the pairs that no vectors are known of."""
    missing = np.ones(len(wanted.image_ids), bool)
    for vectors in known:
        place = wanted.find(*_pairs_of(read_arrays(bench.store, vectors.file)))
        missing[place[place >= 0]] = False
    ids, channels, sides = (one[missing] for one in (wanted.image_ids, wanted.channels, wanted.sides))
    by_shard = {record.index: record for record in records}
    rows = plan.rows.filter(pa.array(np.isin(plan.rows["image_id"].to_numpy(), ids)))
    for shard in ImagePlan(rows).shards() if rows.num_rows else ():
        record = by_shard[shard.index]
        images = record.part("images")
        for first in range(0, len(shard), REGION_IMAGES if images else len(shard) + 1):
            piece = shard.rows.slice(first, REGION_IMAGES)
            of_piece = piece["image_id"].to_numpy()
            mine = np.flatnonzero(np.isin(ids, of_piece))
            order = np.argsort(of_piece)
            row = order[np.searchsorted(of_piece, ids[mine], sorter=order)]
            pairs = np.stack([row, channels[mine], sides[mine]], 1).astype(np.int64)
            content = digest(of_piece.tolist(), pairs.tolist())
            key = f"{record.key[:OF_SHARD]}-{content[:OF_SHARD]}"
            if images is not None:
                yield RegionItem(Shard(shard.index, piece, key), pairs, images, key)


def _pairs_of(arrays: dict[str, NDArray[Any]]) -> tuple[Ints, Ints, Ints]:
    return arrays["image_ids"], arrays["channels"], arrays["sides"]


def region_vectors(bench: Bench, item: RegionItem) -> RegionVectors:
    """Dense features of some example images pooled by channel maps. A stage for ``execute``.

    An image that cannot be read again has no vectors, and is taken up when it can; nor has one of which a
    model makes no finite maps.
    """
    return bench.with_room(lambda size: _region_vectors(bench, item, size))


def _region_vectors(bench: Bench, item: RegionItem, size: int) -> RegionVectors:
    refs = list(item.shard.refs())
    regions = np.zeros((len(item.pairs), bench.dims.embedding), np.float16)
    rests = np.zeros_like(regions)
    seen = np.zeros(len(refs), bool)
    for first in range(0, len(refs), size):
        batch, at = Batch(), []
        for row in range(first, min(first + size, len(refs))):
            before = len(batch)
            add_image(bench, refs[row], batch, refs)
            at += [row] * (len(batch) - before)
        if not at:
            continue
        maps = bench.classifier.maps(stack(batch.for_classifier(), size))
        dense = bench.encoder.dense(stack(batch.for_encoder, size))
        for place, row in enumerate(at):
            if not (np.isfinite(maps[place]).all() and np.isfinite(dense[place]).all()):
                continue
            seen[row] = True
            mine = np.flatnonzero(item.pairs[:, 0] == row)
            channels, sides = item.pairs[mine, 1], item.pairs[mine, 2]
            inside, outside = pool_regions(maps[place], dense[place], channels, sides, refs[row].image_id)
            regions[mine], rests[mine] = inside, outside
    row, channels, sides = item.pairs[seen[item.pairs[:, 0]]].T
    arrays: dict[str, NDArray[Any]] = {
        "image_ids": np.array([ref.image_id for ref in refs], np.int64)[row],
        "channels": channels,
        "sides": sides,
        "regions": regions[seen[item.pairs[:, 0]]],
        "rests": rests[seen[item.pairs[:, 0]]],
    }
    return RegionVectors(
        write_arrays(bench.store, f"work/regions/{item.key}.safetensors", arrays), item.images
    )


def pool_regions(
    maps: NDArray[np.float32],
    dense: NDArray[np.float32],
    channels: NDArray[np.int64],
    sides: NDArray[np.int64],
    image_id: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Dense features of one image where each channel fires, and in the rest of the image (ours).

    ``maps`` (K, h, w), ``dense`` (D, gh, gw), ``channels`` and ``sides`` (P,). Returns two (P, D) arrays of
    unit rows. A positive is pooled with the positive part of its map as weights, its rest with what is left
    to the map's maximum. A negative is pooled over a window of a quarter of the image, placed by a hash of
    channel and image.
    """
    grid = dense.shape[1:]
    cells = dense.reshape(dense.shape[0], -1).T  # (cells, D)
    fired = np.maximum(resize_maps(maps[channels], grid), 0).reshape(len(channels), -1)  # (P, cells)
    windows = np.stack([_window(grid, image_id, int(channel)) for channel in channels])
    weights = np.where((sides == 0)[:, None], fired, windows)
    rest = weights.max(1, keepdims=True) - weights
    # One product a pair: what a pair gets must not depend, by its last bit, on which others came with it.
    return unit_rows((weights[:, None] @ cells)[:, 0]), unit_rows((rest[:, None] @ cells)[:, 0])


def _window(grid: tuple[int, ...], image_id: int, channel: int) -> NDArray[np.float32]:
    """(cells,) ones in a window of half the height and width, at a place that depends on ids alone."""
    height, width = (max(1, side // 2) for side in grid)
    mixed = (image_id * 0x9E3779B97F4A7C15 + channel * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 31)) * 0x94D049BB133111EB) & (2**64 - 1)
    top = (mixed >> 40) % (grid[0] - height + 1)
    left = (mixed >> 20) % (grid[1] - width + 1)
    window = np.zeros(grid, np.float32)
    window[top : top + height, left : left + width] = 1
    return window.ravel()


def resize_maps(maps: NDArray[np.float32], grid: tuple[int, ...]) -> NDArray[np.float32]:
    """(P, h, w) maps on another grid, bilinear with pixel centres aligned as image resizing has it."""
    for axis, size in ((1, grid[0]), (2, grid[1])):
        old = maps.shape[axis]
        if old == size:
            continue
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).astype(np.float32)
        share = share[:, None] if axis == 1 else share
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


# --- the directions ---------------------------------------------------------------------------------------


def fit_regions(
    bench: Bench, vectors: Sequence[RegionVectors], wanted: Pairs, count: int
) -> NDArray[np.float32]:
    """Directions (K, D) from regions: where the channel fires, against the rest and against windows of the
    negatives. ``count`` is M, examples a side. Zeros without any vector.
    """
    shape = (wanted.channels_in_all, count)
    regions = np.full((2, *shape), -1, np.int64)  # rows of `gathered`, by side
    rests = np.full(shape, -1, np.int64)
    pieces: list[NDArray[np.float16]] = []
    at, done = 0, np.zeros(len(wanted.image_ids), bool)
    for one in vectors:
        arrays = read_arrays(bench.store, one.file)
        place = wanted.find(*_pairs_of(arrays))
        fresh = (place >= 0) & ~done[place]
        done[place[fresh]] = True
        side, channel, rank = wanted.sides[place], wanted.channels[place], wanted.ranks[place]
        for found, rows, needed in (
            (arrays["regions"], regions, fresh),
            (arrays["rests"], rests, fresh & (side == 0)),
        ):
            usable = np.flatnonzero(needed & found.any(axis=1))  # zeros: the channel fires nowhere
            where = (channel[usable], rank[usable])
            rows[(side[usable], *where) if rows is regions else where] = at + np.arange(len(usable))
            pieces.append(found[usable])
            at += len(usable)
    if not at:
        return np.zeros((shape[0], bench.dims.embedding), np.float32)
    return fit_directions_indexed(
        np.concatenate(pieces),
        regions[0],
        np.concatenate([rests, regions[1]], axis=1),
        shrinkage=bench.config.directions.shrinkage,
        threads=worker_count(bench.config.run),
    ).direction
