"""A store of a million images: the most memory that each act on it holds, each act in its own process.

The goal is 2 GiB for every act. The baseline is the same act on a tenth of the images: where memory is flat
in the number of images, the two are alike. The acts are those of a run and of its readers: write the shards,
merge each channel's examples, build the indexes, commit, then stream, look up, verify, search and SQL.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.large_store import CHANNELS, EXAMPLES, SHARD_ROWS, manifest, write_shard, write_whole
from benchmarks.measure import Cost, Measure, in_own_process, interval, machine, publish
from store.index import INDEXED, index_table
from store.manifest import IndexRecord, PartRecord
from store.reader import Snapshot, as_matrix
from store.schema import stable_id
from store.storage import open_storage
from store.verify import verify
from store.writer import commit
from textcam.accumulate import TopK

IMAGES, GOAL_MIB, BYTES_PER_IMAGE = 1_000_000, 2048, 9000
QUERIES = {
    "SQL, labels": "SELECT label, count(*), avg(confidence) FROM images GROUP BY label",
    "SQL, words of explanations": (
        "SELECT text, count(*) FROM (SELECT unnest(text_ids) AS text_id FROM explanations)"
        " JOIN texts USING (text_id) GROUP BY text ORDER BY 2 DESC LIMIT 10"
    ),
    "SQL, one channel by label": (
        "SELECT label, avg(pooled[8]) FROM activations JOIN images USING (image_id) GROUP BY label"
    ),
}


def write_shards(folder: Path, images: int) -> list[PartRecord]:
    """All parts that a run's workers write."""
    storage = open_storage(folder)
    return [
        part for number in range(-(-images // SHARD_ROWS)) for part in write_shard(storage, number, images)
    ]


def merge(folder: Path, images: int, parts: list[PartRecord]) -> list[PartRecord]:
    """Each shard's examples, merged into one; the tables that a run writes once."""
    snapshot, merged = Snapshot(open_storage(folder), manifest(parts)), TopK(CHANNELS, EXAMPLES)
    for part in snapshot.parts("activations"):
        of_shard = TopK(CHANNELS, EXAMPLES)
        for batch in snapshot.open_part(part).iter_batches(1024):
            of_shard.update(batch.column(0).to_numpy(), as_matrix(batch.column(1)))
        merged.merge(of_shard)
    return write_whole(snapshot.storage, merged, images)


def index(folder: Path, parts: list[PartRecord]) -> list[IndexRecord]:
    """All indexes, streamed from the tables."""
    snapshot = Snapshot(open_storage(folder), manifest(parts))
    return [index_table(snapshot, table) for table in INDEXED]


def finish(folder: Path, parts: list[PartRecord], indexes: list[IndexRecord]) -> None:
    """The commit, with its checks."""
    commit(open_storage(folder), manifest(parts, indexes=tuple(indexes)))


def stream(folder: Path, images: int) -> None:
    """Every row of every table, once."""
    snapshot = Snapshot.open(folder)
    rows = {name: sum(len(batch) for batch in snapshot.batches(name)) for name in snapshot.tables}
    if rows["activations"] != images:
        raise RuntimeError(f"{rows['activations']} rows of activations for {images} images.")


def look_up(folder: Path, images: int) -> tuple[float, list[float]]:
    """Rows of images, embeddings and activations by id: seconds of the first question and of 30 more."""
    snapshot = Snapshot.open(folder)
    chosen = np.random.default_rng(3).integers(0, images, 31)
    seconds = []
    for row in chosen.tolist():
        start, image_id = time.perf_counter(), stable_id(f"images/{row:08d}.jpg")
        for name in ("images", "embeddings", "activations"):
            if snapshot.rows(name, "image_id", [image_id]).num_rows != 1:
                raise RuntimeError(f"Image {image_id} is not in {name}.")
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1:]


def look_up_many(folder: Path, images: int) -> None:
    """The three tables' rows of 100 images in one question."""
    snapshot = Snapshot.open(folder)
    chosen = np.random.default_rng(4).permutation(images)[:100].tolist()
    ids = [stable_id(f"images/{row:08d}.jpg") for row in chosen]
    for name in ("images", "embeddings", "activations"):
        if snapshot.rows(name, "image_id", ids).num_rows != len(ids):
            raise RuntimeError(f"Not all of {len(ids)} images are in {name}.")


def prove(folder: Path) -> None:
    """``verify``, which must find nothing."""
    found = verify(folder)
    if found:
        raise RuntimeError(f"{len(found)} problems, the first: {found[0]}")


def search(folder: Path) -> None:
    """Load the largest index and ask it for the neighbours of 64 images."""
    snapshot = Snapshot.open(folder)
    batch = next(snapshot.batches("embeddings", batch_rows=64))
    found, _ = snapshot.index("embeddings").search(as_matrix(batch.column(1)), 10)
    if set(batch.column(0).to_pylist()) - set(found[:, 0].tolist()):
        raise RuntimeError("An image is not its own nearest neighbour.")


def ask(folder: Path, query: str) -> None:
    """One question in SQL."""
    if not Snapshot.open(folder).sql(query).num_rows:
        raise RuntimeError("The answer has no rows.")


def acts(folder: Path, images: int, told: Callable[[str, Cost], None]) -> tuple[int, list[float]]:
    """Do everything once, each act in its own process. Bytes of the store, and seconds of the look-ups."""

    def do(name: str, act: Callable[..., Any], *arguments: Any) -> Any:
        outcome, cost = in_own_process(act, folder, *arguments)
        told(name, cost)
        return outcome

    parts = do("write shards", write_shards, images)
    parts += do("merge examples", merge, images, parts)
    do("commit", finish, parts, do("build indexes", index, parts))
    do("stream all tables", stream, images)
    _, seconds = do("look up 31 images, one by one", look_up, images)
    do("look up 100 images at once", look_up_many, images)
    do("verify", prove)
    do("load and search the index", search)
    for name, query in QUERIES.items():
        do(name, ask, query)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), seconds


def main() -> None:
    """Print and keep the table; the store lies in a temporary folder, removed at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images; only 1 is kept")
    scale = parser.parse_args().scale
    images, where, measures = int(IMAGES * scale), machine(), []
    peaks: dict[str, float] = {}

    def small(name: str, cost: Cost) -> None:
        peaks[name] = cost.peak / 2**20

    def told(name: str, cost: Cost) -> None:
        measures.extend(
            [
                Measure(f"{name}: peak MiB", cost.peak / 2**20, goal=GOAL_MIB, baseline=peaks[name]),
                Measure(f"{name}: seconds", cost.wall),
                Measure(f"{name}: CPU seconds", cost.cpu),
            ]
        )
        publish("store_memory", measures[-3:], where, write=False)

    with tempfile.TemporaryDirectory(prefix="store-memory-") as folder:
        if shutil.disk_usage(folder).free < 1.5 * BYTES_PER_IMAGE * images:
            raise SystemExit(f"Not enough space in {tempfile.gettempdir()}: set TMPDIR to another folder.")
        acts(Path(folder) / "tenth", images // 10, small)
        shutil.rmtree(Path(folder) / "tenth")
        size, seconds = acts(Path(folder) / "whole", images, told)
    measures.append(Measure("one image's rows, p50 seconds", *interval(seconds, np.median)))
    measures.append(Measure("bytes per image", size / images))
    publish("store_memory", measures, where, write=scale == 1)


if __name__ == "__main__":
    main()
