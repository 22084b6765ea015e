"""A run with everything done: what it costs to find that out, over 10,000 shards.

    python -m benchmarks.resume [--shards 10000] [--rounds 3] [--folder FOLDER]

The store is made of numbers: shards' rows are drawn and written by what a run writes them with, so that no
image is decoded. The stages after that are run for real, once. Then the same run is called again, each time
in a new process: with its imports and its models, as from the command line. ``--folder`` keeps the store, and
takes it up if it is there.
"""

import argparse
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Cost, Measure, in_own_process, interval, machine, publish
from pipelines.config import Config
from pipelines.config_file import make_config

NAME = "resume"
GOAL = 10.0  # seconds for 10,000 shards
FULL = 10_000


def config(folder: Path) -> Config:
    """A run with one image a shard."""
    raw: dict[str, Any] = {
        "images": {"uri": "images"},
        "classifier": {"model": "python:tests.pipelines.models:linear_classifier"},
        "encoder": {"model": "python:tests.pipelines.models:clip"},
        "directions": {"examples": 5},
        "groups": {"count": 4},
        "run": {"executor": "inline", "shard_size": 1, "batch_size": 1, "device": "cpu"},
        "store": "store",
    }
    return make_config(raw, base=folder)


def build(folder: Path, shards: int) -> None:
    """The images, all alike, and a store in which every stage is done."""
    sink = io.BytesIO()
    Image.new("RGB", (16, 16), "olive").save(sink, "PNG")
    for number in range(shards):
        path = folder / "images" / ("red", "green", "blue")[number % 3] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sink.getvalue())
    in_own_process(extract, config(folder))
    in_own_process(finish, config(folder))


def finish(settings: Config) -> None:
    """All stages after extraction, for real. No write waits for the disk: nothing of this is to last."""
    os.fsync = _no_wait
    resume(settings)


def _no_wait(_file: int) -> None:
    pass


def extract(settings: Config) -> None:
    """All shards, their numbers drawn."""
    os.fsync = _no_wait
    from pipelines.extract import SHARDS, Harvest, Seen
    from pipelines.feed import Batch
    from pipelines.frozen import keep_plan
    from pipelines.ledger import Ledger
    from pipelines.run import prepare

    bench, plan = prepare(settings)
    keep_plan(settings, bench.store, plan)
    ledger, rng = Ledger(bench.store), np.random.default_rng(0)
    for shard in plan.shards():
        count = len(shard)
        batch = Batch(list(shard.refs()), [(16, 16)] * count, [f"{shard.index:064x}"] * count)
        pooled = rng.random((count, bench.dims.channels), np.float32)
        embeddings = rng.standard_normal((count, bench.dims.embedding), np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        logits = rng.random((count, len(bench.classifier.class_names)), np.float32)
        harvest = Harvest(bench, shard)
        harvest.take(batch, Seen(pooled, logits, embeddings, None), {})
        record = harvest.write()
        ledger.put("extract", record.key, SHARDS.dump(record), SHARDS.files(record))


def resume(settings: Config) -> bool:
    """One whole run; whether it committed anything."""
    from pipelines.run import precompute

    return precompute(settings).new


def measured(folder: Path, rounds: int) -> list[Cost]:
    """What the run costs with everything done, each time in a new process."""
    costs = []
    for _ in range(rounds):
        new, cost = in_own_process(resume, config(folder))
        assert not new, "something was left to do"
        costs.append(cost)
    return costs


def measures(costs: list[Cost], empty: list[Cost], shards: int) -> list[Measure]:
    """Seconds and memory, beside those of the same run of one shard."""

    def measure(name: str, values: list[float], goal: float | None) -> Measure:
        value, low, high = interval(values, np.median)
        return Measure(f"{name}, {shards} shards", value, low, high, goal, "lower")

    mib = 1 << 20
    return [
        measure("seconds of the clock", [one.wall for one in costs], GOAL),
        measure("seconds of a core", [one.cpu for one in costs], GOAL),
        measure("peak memory, MiB", [one.peak / mib for one in costs], None),
        Measure("seconds of a core, 1 shard", float(np.median([one.cpu for one in empty]))),
        Measure("peak memory, MiB, 1 shard", float(np.median([one.peak / mib for one in empty]))),
    ]


def main() -> None:
    """Build, run again, publish."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=FULL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "many"
        if not (folder / "store" / "snapshots").exists():
            build(folder, options.shards)
        build(Path(temporary) / "one", 1)
        costs = measured(folder, options.rounds)
        empty = measured(Path(temporary) / "one", options.rounds)
    publish(NAME, measures(costs, empty, options.shards), machine(), write=options.shards == FULL)


if __name__ == "__main__":
    main()
