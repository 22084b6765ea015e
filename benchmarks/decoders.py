"""Decoding elsewhere: a worker short of cores, alone and with a decoder beside it.

    python -m benchmarks.decoders [--photos 200] [--rounds 3]

One worker with one core runs models so small that it mostly decodes; then the same with one decoder that has
a core of its own. Both take turns on the same photographs, drawn ones of 1000 x 750, started and warm. Two
free cores are needed.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measure, machine, publish
from demo.models import CLIP_FOLDER
from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.config_file import make_config
from pipelines.decoding import Decoder
from pipelines.execute import Outcome, local_ray, open_pool
from pipelines.extract import extract_shard
from pipelines.images import Shard, plan_shards
from tests.textcam.photographs import photograph

NAME = "decoders"


def config(folder: Path, decoders: int) -> Config:
    """A run of one worker with one core."""
    raw: dict[str, Any] = {
        "images": {"uri": "images"},
        "classifier": {"model": "python:tests.pipelines.models:linear_classifier"},
        "encoder": {"model": f"local-dir:{CLIP_FOLDER}"},
        "run": {
            "executor": "ray",
            "workers": 1,
            "cpus_per_worker": 1,
            "batch_size": 16,
            "decoders": decoders,
        },
        "store": f"store-{decoders}",
    }
    return make_config(raw, base=folder)


def rates(folder: Path, count: int, rounds: int) -> dict[int, list[float]]:
    """Images a second without and with a decoder, round by round."""
    found: dict[int, list[float]] = {0: [], 1: []}
    with local_ray():
        for _ in range(rounds):
            for decoders, rate in found.items():
                settings = config(folder, decoders)
                rows = plan_shards(settings.images, count + 32).rows
                bench = partial(Bench, settings)
                with open_pool(settings.run, bench, partial(Decoder, [settings])) as pool:
                    _finish(pool, Shard(1, rows.slice(0, 32), "warm"))
                    time.sleep(10)  # until the decoder is there, too
                    _finish(pool, Shard(2, rows.slice(0, 32), "warm"))
                    started = time.perf_counter()
                    _finish(pool, Shard(3, rows.slice(32), "timed"))
                    rate.append(count / (time.perf_counter() - started))
            print({decoders: round(rate[-1], 1) for decoders, rate in found.items()}, flush=True)
    return found


def _finish(pool: Any, shard: Shard) -> None:
    for news in pool.map(extract_shard, [shard]):
        assert not isinstance(news, Outcome) or news.failure is None, news


def main() -> None:
    """Draw photographs, measure, publish."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        for number in range(options.photos + 32):
            drawn = photograph(1000, 750, number % 20)
            drawn.save(folder / "images" / f"{number:04d}.jpg", quality=90)
        found = rates(folder, options.photos, options.rounds)
    gains = [helped / alone for alone, helped in zip(found[0], found[1], strict=True)]
    measures = [
        Measure(
            "gain by one decoder, one core each",
            float(np.median(gains)),
            min(gains),
            max(gains),
            1.6,
            "higher",
        )
    ]
    measures += [
        Measure(f"images a second, {decoders} decoders", float(np.median(r)), min(r), max(r), None, "higher")
        for decoders, r in found.items()
    ]
    publish(NAME, measures, machine(), write=options.photos >= 200)


if __name__ == "__main__":
    main()
