"""What the parts share: photographs, configurations, one shard as a worker does it, clocks and ratios."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measure
from demo.models import CLIP_FOLDER
from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.config_file import make_config
from pipelines.extract import extract_shard
from pipelines.images import Shard, plan_shards
from pipelines.run import prepare
from tests.textcam.photographs import photograph

FORMATS = ("float32", "auto")
BATCH = 32
CORES = len(os.sched_getaffinity(0))
BIG = {
    "classifier": {"model": "timm:resnet50", "weights": "random"},
    "encoder": {"model": "ViT-B-32", "weights": "random"},
}
SMALL = {
    "classifier": {"model": "timm:resnet18", "weights": "random"},
    "encoder": {"model": f"local-dir:{CLIP_FOLDER}"},
}
TINY = {
    "classifier": {"model": "python:tests.pipelines.models:linear_classifier"},
    "encoder": {"model": "python:tests.pipelines.models:clip"},
}


def write_photos(folder: Path, count: int, source: Path | None, side: int = 500) -> None:
    """``count`` JPEGs: photographs in turn, or drawn ones."""
    folder.mkdir(parents=True)
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")) if source else []
    step = max(1, len(found) // count)
    drawn = [photograph(side, side * 3 // 4, seed) for seed in range(0 if found else min(count, 40))]
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if found:
            shutil.copyfile(found[number * step % len(found)], path)
        else:
            drawn[number % len(drawn)].save(path, quality=90)


def config(folder: Path, models: dict[str, Any], store: str = "store", **run: Any) -> Config:
    """A run over ``folder/images``."""
    settings = {
        "executor": "inline",
        "workers": 1,
        "cpus_per_worker": CORES,
        "batch_size": BATCH,
        "device": "cpu",
        **run,
    }
    raw = {"images": {"uri": "images"}, **models, "run": settings, "store": store}
    raw |= {
        "directions": {"regions": False, "examples": 5},
        "groups": {"count": 4},
        "report": {"exemplars": 0},
    }
    return make_config({**raw, "proof": {"findings": 0}}, base=folder)


def decided(settings: Config) -> Bench:
    """What a worker holds, its number formats decided as a run decides them."""
    return prepare(settings)[0]


def shards_of(settings: Config, size: int) -> list[Shard]:
    """The shards of a run."""
    return list(plan_shards(settings.images, size).shards())


def drain(bench: Bench, shard: Shard) -> None:
    """One shard, as a worker does it."""
    for _ in extract_shard(bench, shard):
        pass


def warm_up(bench: Bench, shard: Shard) -> None:
    """The first batch of a shard: networks set themselves up."""
    drain(bench, Shard(0, shard.rows.slice(0, BATCH), "warm"))


def seconds(work: Callable[[], Any]) -> np.ndarray:
    """Seconds of the clock and of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def ratios(name: str, found: Sequence[float], goal: float | None, better: str = "higher") -> Measure:
    """The median of the rounds, between the lowest and the highest."""
    return Measure(name, float(np.median(found)), min(found), max(found), goal, better)
