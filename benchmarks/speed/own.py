"""A run beside its own limits: decoding and models alone, two workers, ten times the images, no work."""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measure, in_own_process
from benchmarks.speed.world import (
    BATCH,
    BIG,
    FORMATS,
    SMALL,
    TINY,
    config,
    decided,
    drain,
    ratios,
    seconds,
    shards_of,
    warm_up,
    write_photos,
)
from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.estimate import plan
from pipelines.execute import local_ray, open_pool
from pipelines.extract import extract_shard
from pipelines.feed import load_image, stack, thread_count
from pipelines.images import Shard
from pipelines.run import precompute


def limit(folder: Path, options: argparse.Namespace) -> list[Measure]:
    """The whole extraction against decoding, classifier and encoder, each alone on the same cores with the
    same batch and number formats; and what ``plan`` says of it."""
    write_photos(folder / "images", options.photos, options.folder)
    return [one for kind in FORMATS for one in _limit(folder, kind, options)]


def _limit(folder: Path, number_format: str, options: argparse.Namespace) -> list[Measure]:
    settings = config(folder, BIG, store=f"store-{number_format}", number_format=number_format)
    bench, shard = decided(settings), shards_of(settings, options.photos)[0]
    warm_up(bench, shard)
    refs, rounds = list(shard.refs()), []
    for _ in range(options.rounds):
        loaded: list[Any] = []
        decode = seconds(partial(_load, bench, refs, loaded))
        batches = [loaded[first : first + BATCH] for first in range(0, len(loaded), BATCH)]
        for_classifier = [[x.for_classifiers[0] for x in b] for b in batches]
        classifier = seconds(partial(_each, bench.classifier.forward, for_classifier))
        encoder = seconds(
            partial(_each, bench.encoder.encode_images, [[x.for_encoder for x in b] for b in batches])
        )
        whole = seconds(partial(drain, bench, shard))
        told = plan(settings).images_per_second * whole[1] / settings.run.cpus_per_worker / len(refs)
        rounds.append((decode, classifier, encoder, whole, told))
        print(number_format, [np.round(len(refs) / one[0], 2) for one in rounds[-1][:4]], told, flush=True)
    parts = [(d + c + e) / w for d, c, e, w, _ in rounds]
    rates = {
        name: [len(refs) / one[at][1] for one in rounds]
        for at, name in enumerate(("decode", "classifier", "encoder", "run"))
    }
    named = f"limit: {number_format}"
    return [
        ratios(f"{named}, extraction against the serial limit, clock", [one[0] for one in parts], 0.9),
        ratios(f"{named}, extraction against the serial limit, cores", [one[1] for one in parts], 0.9),
        ratios(f"{named}, rate that plan predicts, of the rate measured", [one[4] for one in rounds], 1.0),
        *(ratios(f"{named}, images a second of a core, {name}", r, None) for name, r in rates.items()),
    ]


def _load(bench: Bench, refs: Sequence[Any], loaded: list[Any]) -> None:
    with ThreadPoolExecutor(thread_count(bench)) as pool:
        loaded.extend(pool.map(partial(load_image, [bench]), refs))


def _each(forward: Callable[[Any], Any], batches: Sequence[Any]) -> None:
    for batch in batches:
        forward(stack(batch, len(batch)))


def workers(folder: Path, options: argparse.Namespace) -> list[Measure]:
    """Two workers with a core each against one, started and warm."""
    write_photos(folder / "images", options.photos * 4, options.folder)
    found = []
    with local_ray():
        for _ in range(options.rounds):
            times = []
            for count in (1, 2):
                settings = config(folder, SMALL, executor="ray", workers=count, cpus_per_worker=1)
                shards = shards_of(settings, options.photos // 2)
                with open_pool(settings.run, partial(Bench, settings)) as pool:
                    warm = [
                        Shard(9000 + at, one.rows.slice(0, 32), "warm")
                        for at, one in enumerate(shards[:count])
                    ]
                    list(pool.map(extract_shard, warm))
                    times.append(seconds(lambda: list(pool.map(extract_shard, shards)))[0])  # noqa: B023
            found.append(times[0] / times[1] / 2)
            print("workers", np.round(times, 1), flush=True)
    return [ratios("workers: two against one, each with a core, efficiency", found, 0.9)]


def growth(folder: Path, options: argparse.Namespace) -> list[Measure]:
    """Ten times the images: time and most memory, each run in its own process."""
    count, times, peaks = 400, [], []
    write_photos(folder / "few" / "images", count, None, side=160)
    write_photos(folder / "many" / "images", 10 * count, None, side=160)
    for _ in range(options.rounds):
        costs = []
        for name in ("few", "many"):
            settings = config(
                folder / name, TINY, store=f"store-{time.time_ns()}", shard_size=200, cpus_per_worker=1
            )
            costs.append(in_own_process(_run, settings))
        (few, one), (many, ten) = costs
        times.append(many / few)
        peaks.append(ten.peak / one.peak)
        print("growth", round(few, 2), round(many, 2), one.peak >> 20, ten.peak >> 20, flush=True)
    return [
        ratios("growth: ten times the images, seconds of a core", times, 10.5, "lower"),
        ratios("growth: ten times the images, peak memory", peaks, 1.1, "lower"),
    ]


def _run(settings: Config) -> float:
    """Seconds of all cores of a whole run, without loading libraries and models."""
    bench = Bench(settings)
    bench.classifier, bench.encoder  # noqa: B018 (loaded before the clock starts)
    return float(seconds(lambda: precompute(settings))[1])
