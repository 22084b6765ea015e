"""Each tier of the vector index at its own size: seconds to build, memory, bytes, recall and latency.

The vectors lie around many centres on the unit sphere: each is a centre, plus a spread along 64 shared axes
of falling length, plus a little noise in all directions. So neighbours are told apart by many directions but
not by all, as with embeddings of images. Recall is that of new draws from the same world, against the exact
answer over the same rounded vectors. Other data gives other recall; an index's card tells that of a store.

The graph takes the longest to build for each vector, so it is built over fewer than its tier is for. Its
seconds at 1 and 4 million are extrapolated from how the cost of adding grew while it was built, with
a + b ln(n) for the n-th vector, and are named so.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import (
    RESULTS,
    Cost,
    Measure,
    in_own_process,
    interval,
    machine,
    measured,
    peak_bytes,
    publish,
)
from store.vectors import TIERS, Batches, Ids, VectorIndex, Vectors, recall_at_10

SIZES = {"flat": 200_000, "opq-ivf-pq": 2_000_000, "sqfp16": 1_000_000, "hnsw": 100_000}
RECALL_GOALS = {"flat": 0.999, "sqfp16": 0.98, "hnsw": 0.95, "opq-ivf-pq": 0.9}
DIM, TOP, QUERIES, AT_ONCE = 512, 10, 200, 64
CENTRES, AXES, SPREAD, NOISE = 4_000, 64, 0.7, 0.3
BLOCK = 8192
SECONDS = 20.0  # at most, for the timing of one kind of search
Samples = tuple[list[float], list[float]]  # seconds on the clock, seconds of all cores


def world(rows: int, stream: int) -> Iterator[NDArray[np.float16]]:
    """``rows`` unit vectors in blocks (b, D), the same for the same ``stream``."""
    fixed = np.random.default_rng(0)
    centres = fixed.standard_normal((CENTRES, DIM), np.float32) / math.sqrt(DIM)
    lengths = np.arange(1, AXES + 1, dtype=np.float32) ** -0.25
    axes = fixed.standard_normal((AXES, DIM), np.float32) / math.sqrt(DIM)
    axes *= SPREAD * (lengths / np.linalg.norm(lengths))[:, None]
    for start in range(0, rows, BLOCK):
        random = np.random.default_rng((stream, start))
        count = min(BLOCK, rows - start)
        block = centres[random.integers(0, CENTRES, count)]
        block += random.standard_normal((count, AXES), np.float32) @ axes
        block += random.standard_normal((count, DIM), np.float32) * np.float32(NOISE / math.sqrt(DIM))
        yield (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16)


def stored(file: Path, rows: int) -> Batches:
    """The first ``rows`` vectors of a file of half floats, in batches; the id of each is its place."""

    def batches() -> Iterator[tuple[Ids, Vectors]]:
        with open(file, "rb") as source:
            for start in range(0, rows, BLOCK):
                count = min(BLOCK, rows - start)
                flat = np.fromfile(source, np.float16, count * DIM)
                yield np.arange(start, start + count), flat.reshape(count, DIM).astype(np.float32)

    return batches


def write_world(file: Path, rows: int) -> None:
    """Generate the vectors, one block in memory at a time."""
    with open(file, "wb") as target:
        for block in world(rows, stream=1):
            target.write(block.tobytes())


def queries() -> Vectors:
    """(q, D): new draws from the same world."""
    return np.concatenate(list(world(QUERIES, stream=2))).astype(np.float32)


def exact(file: Path, sizes: list[int]) -> dict[int, Ids]:
    """For each size n the exactly nearest (q, TOP) among the first n vectors."""
    asked, rows = queries(), np.arange(QUERIES)[:, None]
    best, ids = np.full((QUERIES, TOP), -np.inf, np.float32), np.full((QUERIES, TOP), -1, np.int64)
    answers, start = {}, 0
    for size in sorted(sizes):
        for block_ids, block in stored(file, size)():
            if block_ids[-1] < start:
                continue
            keep = block_ids >= start
            similarity = np.concatenate([best, asked @ block[keep].T], axis=1)
            of = np.concatenate([ids, np.broadcast_to(block_ids[keep], (QUERIES, int(keep.sum())))], axis=1)
            order = np.argpartition(-similarity, TOP, axis=1)[:, :TOP]
            best, ids = similarity[rows, order], of[rows, order]
        answers[size], start = ids.copy(), size
    return answers


def build(file: Path, rows: int, tier: str, target: Path) -> tuple[Cost, list[tuple[int, float]]]:
    """Build and write one index; also (vectors added, CPU seconds so far) whenever it asked for a batch."""
    added: list[tuple[int, float]] = []

    def batches() -> Iterator[tuple[Ids, Vectors]]:
        added.clear()  # the pass that trains comes first, the one that adds last
        for ids, vectors in stored(file, rows)():
            added.append((int(ids[0]), time.process_time()))
            yield ids, vectors
        added.append((rows, time.process_time()))

    index, cost = measured(VectorIndex.build_from, batches, rows, DIM, tier)
    with open(target, "wb") as sink:
        index.write(sink)
    return cost, added


def search(file: Path, rows: int, tier: str, source: Path, nearest: Ids) -> dict[str, Any]:
    """Load one index and ask it: recall of each query, seconds of single queries and of 64 at once."""
    with open(source, "rb") as data:
        index, loaded = measured(VectorIndex.read, data, tier)
    asked = queries()
    found, _ = index.search(asked, TOP)
    hits = [len(set(one) & set(other)) / TOP for one, other in zip(found, nearest, strict=True)]
    single = timed(lambda i: index.search(asked[i % QUERIES], TOP))
    many = timed(lambda i: index.search(np.roll(asked, i, axis=0)[:AT_ONCE], TOP))
    peak = peak_bytes()
    card = recall_at_10(index, stored(file, rows))
    return {"loaded": loaded, "hits": hits, "single": single, "many": many, "peak": peak, "card": card}


def timed(ask: Callable[[int], Any]) -> Samples:
    """Seconds of each of up to 200 calls, after one that is not counted."""
    ask(0)
    wall: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(wall) < 200 and (time.perf_counter() < end or len(wall) < 5):
        clock, cores = time.perf_counter(), time.process_time()
        ask(len(wall) + 1)
        wall.append(time.perf_counter() - clock)
        cpu.append(time.process_time() - cores)
    return wall, cpu


def extrapolated(added: list[tuple[int, float]], rows: int) -> float:
    """CPU seconds to add ``rows`` vectors, where the n-th costs a + b ln(n): fitted to the steps measured."""
    places, seconds = (np.array(one, float) for one in zip(*added, strict=True))
    middles = (places[1:] + places[:-1]) / 2
    b, a = np.polyfit(np.log(middles), np.diff(seconds) / np.diff(places), 1)
    return float(rows * (a + b * (math.log(rows) - 1)))


def measures_of(tier: str, rows: int, cost: Cost, size: int, asked: dict[str, Any]) -> list[Measure]:
    """The lines of one tier. The baseline of memory and bytes is to hold the vectors as float32."""
    name, plain = f"{tier} {rows:,}", 4 * DIM * rows
    lines = [
        Measure(f"{name}: build, seconds", cost.wall),
        Measure(f"{name}: build, CPU seconds", cost.cpu),
        Measure(f"{name}: build, peak MiB", cost.peak / 2**20, baseline=plain / 2**20),
        Measure(f"{name}: file, MiB", size / 2**20, baseline=plain / 2**20),
        Measure(f"{name}: load, seconds", asked["loaded"].wall),
        Measure(f"{name}: search, peak MiB", asked["peak"] / 2**20, baseline=plain / 2**20),
        Measure(f"{name}: recall@10", *interval(asked["hits"], np.mean), RECALL_GOALS[tier], "higher"),
        Measure(f"{name}: recall@10 on its card", asked["card"], better="higher"),
    ]
    for kind, (wall, cpu) in (("one query", asked["single"]), (f"{AT_ONCE} at once", asked["many"])):
        on_clock, of_cores = [1000 * one for one in wall], [1000 * one for one in cpu]
        lines += [
            Measure(f"{name}: {kind}, p50 ms", *interval(on_clock, np.median)),
            Measure(f"{name}: {kind}, p95 ms", float(np.quantile(on_clock, 0.95))),
            Measure(f"{name}: {kind}, CPU ms", *interval(of_cores, np.mean)),
        ]
    return lines


def kept(tiers: list[str]) -> list[Measure]:
    """What an earlier run measured of the other tiers, on a machine like this one."""
    file = RESULTS / "store_index.json"
    before = json.loads(file.read_text())["measures"] if file.exists() else []
    return [Measure(**one) for one in before if one["name"].split()[0] not in tiers]


def main() -> None:
    """Measure each tier; what is measured is kept at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the vectors; only 1 is kept")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(SIZES))
    options = parser.parse_args()
    where, measures = machine(), []
    sizes = {tier: max(1000, int(SIZES[tier] * options.scale)) for tier in options.tiers}
    with tempfile.TemporaryDirectory(prefix="store-index-") as folder:
        file = Path(folder) / "vectors.f16"
        in_own_process(write_world, file, max(sizes.values()))
        nearest, _ = in_own_process(exact, file, list(sizes.values()))
        for tier, rows in sizes.items():
            target = Path(folder) / f"{tier}.faiss"
            (cost, added), _ = in_own_process(build, file, rows, tier, target)
            asked, _ = in_own_process(search, file, rows, tier, target, nearest[rows])
            lines = measures_of(tier, rows, cost, target.stat().st_size, asked)
            if tier == "hnsw":
                lines += [
                    Measure(f"hnsw {n:,}: build, CPU seconds (extrapolated)", extrapolated(added, n))
                    for n in (1_000_000, 4_000_000)
                ]
            target.unlink()
            measures += lines
            publish("store_index", [*kept(options.tiers), *measures], where, write=options.scale == 1)


if __name__ == "__main__":
    main()
