"""Directions: examples of each channel, its direction from whole images, and its direction from regions.

Whole images alone name what goes together in the data, not what the channel looks at. So the example images
are read a second time (at most 2 M K of them, in practice far fewer): the encoder's dense features, pooled
where the channel fires, against the rest of the same images and random windows of the negatives (ours).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.extract import Batch, ShardRecord, add_image, stack
from pipelines.images import ImagePlan, Shard
from pipelines.ledger import File, WorkFile, read_arrays, write_arrays
from pipelines.partial import Partial, read_partial
from store.manifest import PartRecord
from store.reader import as_matrix, read_part
from store.writer import write_part
from textcam.accumulate import ExampleSide
from textcam.arrays import unit_rows
from textcam.lda import ChannelDirections, fit_directions_indexed
from textcam.records import example_rows

REGION_IMAGES = 512  # example images in one unit of the second pass


@dataclass(frozen=True)
class Examples:
    """Positives and negatives of all channels, and what their activations are like over all images.

    ``mean_pooled`` (K,) in units of the activation, ``active_fraction`` (K,) of images above 0.
    """

    positives: ExampleSide
    negatives: ExampleSide
    mean_pooled: NDArray[np.float64]
    active_fraction: NDArray[np.float64]

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """The distinct images that are an example of any channel, sorted."""
        ids = np.unique(np.concatenate([self.positives.image_ids.ravel(), self.negatives.image_ids.ravel()]))
        return ids[ids >= 0]

    @property
    def sides(self) -> dict[str, ExampleSide]:
        """Both sides by name."""
        return {"positive": self.positives, "negative": self.negatives}


def merge_examples(bench: Bench, records: Sequence[ShardRecord], key: str) -> tuple[WorkFile, PartRecord]:
    """Examples and moments of all shards, as a work file and as the ``examples`` table.

    Any order gives the same bits; one shard's partial is in memory at a time.
    """
    merged = Partial.empty(bench.dims.channels, bench.dims.embedding, bench.config.directions.examples)
    for record in records:
        merged.merge(read_partial(bench.store, record.partial))
    moments = merged.moments
    examples = Examples(
        merged.examples.positives, merged.examples.negatives, moments.mean, moments.active_fraction
    )
    arrays: dict[str, NDArray[Any]] = {
        "mean_pooled": examples.mean_pooled,
        "active_fraction": examples.active_fraction,
    }
    for name, side in examples.sides.items():
        arrays |= {f"{name}.image_ids": side.image_ids, f"{name}.activations": side.activations}
    file = write_arrays(bench.store, f"work/examples/{key}.safetensors", arrays)
    table = bench.tables["examples"]
    return file, write_part(bench.store, table, example_rows(table, examples.sides), key[:12])


def read_examples(bench: Bench, file: File) -> Examples:
    """Back from the work file of ``merge_examples``."""
    arrays = read_arrays(bench.store, file)
    sides = []
    for name in ("positive", "negative"):
        ids = arrays[f"{name}.image_ids"]
        sides.append(ExampleSide(ids, arrays[f"{name}.activations"], (ids >= 0).sum(1)))
    return Examples(sides[0], sides[1], arrays["mean_pooled"], arrays["active_fraction"])


def gather_embeddings(
    bench: Bench, records: Sequence[ShardRecord], image_ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(n, D) unit embeddings of these images (sorted ids), joined by id."""
    found = np.zeros((len(image_ids), bench.dims.embedding), np.float32)
    for record in records:
        part = record.part("embeddings")
        if part is not None:
            rows = read_part(bench.store, part)
            ids = rows["image_id"].to_numpy()
            wanted = np.isin(ids, image_ids)
            matrix = as_matrix(rows["embedding"].combine_chunks())
            found[np.searchsorted(image_ids, ids[wanted])] = matrix[wanted]
    return unit_rows(found)


def fit_whole(bench: Bench, records: Sequence[ShardRecord], examples: Examples) -> ChannelDirections:
    """Directions from whole-image embeddings of the examples (the paper's form)."""
    ids = examples.image_ids
    embeddings = gather_embeddings(bench, records, ids)

    def rows_of(side: ExampleSide) -> NDArray[np.int64]:
        return np.where(side.image_ids >= 0, np.searchsorted(ids, side.image_ids), -1)

    return fit_directions_indexed(
        embeddings,
        rows_of(examples.positives),
        rows_of(examples.negatives),
        shrinkage=bench.config.directions.shrinkage,
    )


# --- the second pass: regions ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RegionItem:
    """Some example images, and for which channels, on which side and at which rank each is an example.

    ``pairs`` is (P, 4): row in ``shard``, channel, side (0 positive, 1 negative), rank.
    """

    shard: Shard
    pairs: NDArray[np.int64]
    key: str


def region_items(plan: ImagePlan, examples: Examples, key: str) -> Iterator[RegionItem]:
    """Units of the second pass, in the order of the plan."""
    ids = examples.image_ids
    planned = plan.rows["image_id"].to_numpy()
    rows = plan.rows.filter(pa.array(np.isin(planned, ids)))
    positions = {int(image_id): row for row, image_id in enumerate(rows["image_id"].to_numpy())}
    entries = []
    for side, examples_of_side in enumerate((examples.positives, examples.negatives)):
        channel, rank = np.nonzero(examples_of_side.image_ids >= 0)
        image = [positions[int(one)] for one in examples_of_side.image_ids[channel, rank]]
        entries.append(np.stack([image, channel, np.full_like(channel, side), rank], 1))
    pairs = np.concatenate(entries).astype(np.int64)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    for index in range(-(-rows.num_rows // REGION_IMAGES)):
        first = index * REGION_IMAGES
        mine = pairs[(pairs[:, 0] >= first) & (pairs[:, 0] < first + REGION_IMAGES)]
        shard = Shard(index, rows.slice(first, REGION_IMAGES), key)
        yield RegionItem(shard, mine - np.array([first, 0, 0, 0]), key)


def region_vectors(bench: Bench, item: RegionItem) -> WorkFile:
    """Dense features of some example images pooled by channel maps. A stage for ``execute``."""
    refs = list(item.shard.refs())
    size = bench.config.run.batch_size
    regions = np.zeros((len(item.pairs), bench.dims.embedding), np.float16)
    rests = np.zeros_like(regions)
    for first in range(0, len(refs), size):
        batch, at = Batch(), []
        for row in range(first, min(first + size, len(refs))):
            before = len(batch)
            add_image(bench, refs[row], batch)
            at += [row] * (len(batch) - before)
        if not at:
            continue
        maps = bench.classifier.maps(stack(batch.for_classifier, size))
        dense = bench.encoder.dense(stack(batch.for_encoder, size))
        for place, row in enumerate(at):
            mine = np.flatnonzero(item.pairs[:, 0] == row)
            channels, sides = item.pairs[mine, 1], item.pairs[mine, 2]
            inside, outside = pool_regions(maps[place], dense[place], channels, sides, refs[row].image_id)
            regions[mine], rests[mine] = inside, outside
    arrays: dict[str, NDArray[Any]] = {"pairs": item.pairs, "regions": regions, "rests": rests}
    return write_arrays(
        bench.store, f"work/regions/{item.shard.index:06d}-{item.key[:12]}.safetensors", arrays
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
    return unit_rows(weights @ cells), unit_rows(rest @ cells)


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


def fit_regions(bench: Bench, files: Sequence[File], examples: Examples) -> ChannelDirections:
    """Directions from regions: where the channel fires, against the rest and against windows of the
    negatives."""
    channels, count = examples.positives.image_ids.shape
    regions = np.full((2, channels, count), -1, np.int64)  # rows of `gathered`, by side
    rests = np.full((channels, count), -1, np.int64)
    pieces: list[NDArray[np.float16]] = []
    at = 0
    for file in files:
        arrays = read_arrays(bench.store, file)
        _, channel, side, rank = arrays["pairs"].T
        for found, rows, wanted in (
            (arrays["regions"], regions, side >= 0),
            (arrays["rests"], rests, side == 0),
        ):
            usable = np.flatnonzero(
                wanted & found.any(axis=1)
            )  # an image that could not be read again has zeros
            place = (channel[usable], rank[usable])
            rows[(side[usable], *place) if rows is regions else place] = at + np.arange(len(usable))
            pieces.append(found[usable])
            at += len(usable)
    return fit_directions_indexed(
        np.concatenate(pieces),
        regions[0],
        np.concatenate([rests, regions[1]], axis=1),
        shrinkage=bench.config.directions.shrinkage,
    )


# --- both forms together --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """Directions (K, D) from whole images and from regions (zeros where there are none), separation (K,)."""

    whole: NDArray[np.float32]
    region: NDArray[np.float32]
    separation: NDArray[np.float32]


def fit(
    bench: Bench, records: Sequence[ShardRecord], examples: Examples, regions: Sequence[File], key: str
) -> WorkFile:
    """Fit both forms and write them as a work file."""
    whole = fit_whole(bench, records, examples)
    region = fit_regions(bench, regions, examples).direction if regions else np.zeros_like(whole.direction)
    arrays = {"whole": whole.direction, "region": region, "separation": whole.separation}
    return write_arrays(bench.store, f"work/directions/{key}.safetensors", arrays)


def read_fitted(bench: Bench, file: File) -> Fitted:
    """Back from the work file of ``fit``."""
    return Fitted(**read_arrays(bench.store, file))
