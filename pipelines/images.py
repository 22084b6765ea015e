"""Images: the frozen plan of shards.

The plan is sorted by URI, never by listing order, so that two runs over the same files make the same shards.
Rows of Parquet files are sorted by file and row, so that those of a row group come together.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ImagesSection
from pipelines.reading import ImageRef
from pipelines.sources import list_sources
from store.errors import SourceError


@dataclass(frozen=True)
class Shard:
    """The unit of work: a slice of the plan. ``digest`` changes if one of its files does, or its label."""

    index: int
    rows: pa.Table
    digest: str

    def __len__(self) -> int:
        return self.rows.num_rows

    def refs(self) -> Iterator[ImageRef]:
        """Its images, in the order of the plan."""
        names = ("image_id", "uri", "label", "path", "offset", "size", "row", "source")
        for batch in self.rows.select(list(names)).to_batches():
            for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                yield ImageRef(*values)


@dataclass(frozen=True)
class ImagePlan:
    """All images of a run, sorted as ``in_order`` says, with the number of the shard that each is in."""

    rows: pa.Table

    @property
    def fingerprint(self) -> str:
        """SHA-256 of URIs, stamps and labels: the same files give the same plan, however they are sharded."""
        return _digest(self.rows)

    @property
    def labels(self) -> tuple[str, ...]:
        """Distinct labels of the source, sorted."""
        return tuple(
            sorted(value for value in pc.unique(self.rows["label"]).to_pylist() if value is not None)
        )

    def __len__(self) -> int:
        return len(pc.unique(self.rows["shard"]))

    def shards(self) -> Iterator[Shard]:
        """The shards, in order; within one, images are in the order of the plan."""
        order = np.argsort(self.rows["shard"].to_numpy(), kind="stable")
        rows = self.rows.take(pa.array(order))
        numbers, starts = np.unique(rows["shard"].to_numpy(), return_index=True)
        for index, start, end in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
            mine = rows.slice(start, end - start)
            yield Shard(int(index), mine, _digest(mine))


def _digest(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    names = ["uri", "stamp", "label", "path", "row"]
    for batch in rows.select(names).to_batches():
        for uri, stamp, label, path, row in zip(*(batch[name].to_pylist() for name in names), strict=True):
            # A column may give another row of a file the URI that this one had; the file is the same.
            place = None if row is None else f"{path}#{row}"
            digest.update(f"{(uri, stamp, label, place)!r}\n".encode())
    return digest.hexdigest()


# --- planning -------------------------------------------------------------------------------------------


def plan_shards(
    images: ImagesSection,
    shard_size: int,
    added: Sequence[ImagesSection] = (),
    frozen: pa.Table | None = None,
) -> ImagePlan:
    """List the images, sort them, and cut them into shards.

    ``frozen`` (uri, shard) says where images are that have a shard already; the others are cut into new
    shards with the numbers after these. Raises SourceError if a source is missing or holds no image, or if
    two URIs share an id.
    """
    rows = in_order(list_sources([images, *added]))
    check_ids(rows, images.uri)
    return cut(rows, shard_size, frozen)


def in_order(rows: pa.Table) -> pa.Table:
    """Listed images as a plan has them: by URI; rows of Parquet files by file and row."""
    place = pc.if_else(pc.is_valid(rows["row"]), rows["path"], rows["uri"])
    keys = [(name, "ascending") for name in ("place", "source", "row", "uri")]
    return rows.append_column("place", place).sort_by(keys).drop_columns("place").combine_chunks()


def cut(rows: pa.Table, shard_size: int, frozen: pa.Table | None) -> ImagePlan:
    """A plan of listed images, sorted. ``frozen`` as in ``plan_shards``."""
    numbers = np.full(rows.num_rows, -1, np.int64)
    first = 0
    if frozen is not None and frozen.num_rows:
        place = pc.index_in(rows["uri"], value_set=frozen["uri"]).fill_null(-1).to_numpy()
        shards = frozen["shard"].to_numpy()
        numbers = np.where(place >= 0, shards[place], -1)
        first = int(shards.max()) + 1
    fresh = np.flatnonzero(numbers < 0)
    numbers[fresh] = first + np.arange(len(fresh)) // shard_size
    return ImagePlan(rows.append_column("shard", pa.array(numbers, pa.int32())))


def check_ids(rows: pa.Table, uri: str) -> None:
    """Raise SourceError if two images of ``uri`` have one id."""
    ids = rows["image_id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if same.size:
        pair = [rows["uri"][int(order[same[0] + step])].as_py() for step in (0, 1)]
        raise SourceError(
            f"Two images share one id: {pair[0]!r} and {pair[1]!r}.", where=uri, fix="List each image once."
        )
