"""Directions: examples of each channel, its direction from whole images, and its direction from regions.

Whole images alone name what goes together in the data, not what the channel looks at. So the example images
are read a second time (at most 2 M K of them, in practice far fewer): the encoder's dense features, pooled
where the channel fires, against the rest of the same images and random windows of the negatives (ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.bench import Bench, digest
from pipelines.execute import worker_count
from pipelines.extract import ShardRecord
from pipelines.ledger import File, WorkFile, read_arrays, write_arrays
from pipelines.partial import Partial, read_partial, write_partial
from pipelines.regions import Pairs, RegionVectors, fit_regions
from store.manifest import PartRecord
from store.reader import as_matrix, read_part
from store.writer import write_part
from textcam.accumulate import ExampleSide
from textcam.arrays import unit_rows
from textcam.lda import ChannelDirections, fit_directions_indexed
from textcam.records import example_rows

FAN_IN = 64  # partials that one worker merges into one, and that the driver merges in the end


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
    def pairs(self) -> Pairs:
        """Every image, channel and side of an example."""
        return Pairs.of((self.positives, self.negatives))

    @property
    def sides(self) -> dict[str, ExampleSide]:
        """Both sides by name."""
        return {"positive": self.positives, "negative": self.negatives}


@dataclass(frozen=True)
class Bundle:
    """Some partials that one worker merges into one."""

    index: int
    partials: tuple[WorkFile, ...]

    @property
    def label(self) -> str:
        """Its name in a message."""
        return f"bundle {self.index}"

    @property
    def key(self) -> str:
        """What the merged partial depends on: the bytes of those that go in, in any order."""
        return digest(sorted(one.sha256 for one in self.partials))


def bundles(partials: Sequence[WorkFile]) -> list[Bundle]:
    """The next level of the tree: ``FAN_IN`` partials a bundle, the last one with what is left."""
    return [
        Bundle(index, tuple(partials[start : start + FAN_IN]))
        for index, start in enumerate(range(0, len(partials), FAN_IN))
    ]


def merge_bundle(bench: Bench, bundle: Bundle) -> WorkFile:
    """One partial instead of many. A stage for ``execute``."""
    merged = _merged(bench, bundle.partials)
    return write_partial(bench.store, f"work/partials/merged-{bundle.key[:24]}.safetensors", merged)


def _merged(bench: Bench, partials: Sequence[WorkFile]) -> Partial:
    """All in one; any order gives the same bits, and one file at a time is in memory."""
    merged = Partial.empty(bench.dims.channels, bench.dims.embedding, bench.config.directions.examples)
    for partial in partials:
        merged.merge(read_partial(bench.store, partial))
    return merged


def merge_examples(bench: Bench, partials: Sequence[WorkFile], key: str) -> tuple[WorkFile, PartRecord]:
    """Examples and moments of all partials, as a work file and as the ``examples`` table."""
    merged = _merged(bench, partials)
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
        threads=worker_count(bench.config.run),
    )


# --- both forms together --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """Directions (K, D) from whole images and from regions (zeros where there are none), separation (K,)."""

    whole: NDArray[np.float32]
    region: NDArray[np.float32]
    separation: NDArray[np.float32]


def fit(
    bench: Bench,
    records: Sequence[ShardRecord],
    examples: Examples,
    regions: Sequence[RegionVectors],
    key: str,
) -> WorkFile:
    """Fit both forms and write them as a work file."""
    whole = fit_whole(bench, records, examples)
    region = fit_regions(bench, regions, examples.pairs, bench.config.directions.examples)
    arrays = {"whole": whole.direction, "region": region, "separation": whole.separation}
    return write_arrays(bench.store, f"work/directions/{key}.safetensors", arrays)


def read_fitted(bench: Bench, file: File) -> Fitted:
    """Back from the work file of ``fit``."""
    return Fitted(**read_arrays(bench.store, file))
