"""How fast a run is, beside its own limits and beside what users write today.

    python -m benchmarks.speed_run [PART ...] [--photos 96] [--rounds 3] [--folder PHOTOGRAPHS]

Parts: limit, loop, raydata, workers, growth, resume. Both sides of a ratio take turns on the same files, so
that a busy machine slows both. Seconds of the clock and of all cores are given. Models have random weights
(ResNet-50 and ViT-B/32; the demo's small ones where the pipeline itself is measured). Photographs are those
of ``--folder``, or drawn ones of 500 x 375.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import RESULTS, Measure, in_own_process, machine, publish
from demo.models import CLIP_FOLDER
from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.config_file import make_config
from pipelines.estimate import plan
from pipelines.execute import Outcome, local_ray, open_pool
from pipelines.extract import extract_shard
from pipelines.feed import load_image, stack
from pipelines.images import Shard, plan_shards
from pipelines.run import precompute
from tests.textcam.photographs import photograph

NAME = "speed_run"
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
            shutil.copy(found[number * step % len(found)], path)
        else:
            drawn[number % len(drawn)].save(path, quality=90)


def config(folder: Path, models: dict[str, Any], store: str = "store", **run: Any) -> Config:
    """A run over ``folder/images``."""
    settings = {
        "executor": "inline",
        "workers": 1,
        "cpus_per_worker": 2,
        "batch_size": 32,
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


def seconds(work: Callable[[], Any]) -> np.ndarray:
    """Seconds of the clock and of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def shards_of(settings: Config, size: int) -> list[Shard]:
    """The shards of a run."""
    return list(plan_shards(settings.images, size).shards())


def drain(bench: Bench, shard: Shard) -> None:
    """One shard, as a worker does it."""
    for _ in extract_shard(bench, shard):
        pass


def ratios(name: str, found: Sequence[float], goal: float, better: str = "higher") -> Measure:
    """The median of the rounds, between the lowest and the highest."""
    return Measure(name, float(np.median(found)), min(found), max(found), goal, better)


# --- the parts --------------------------------------------------------------------------------------------


def limit(folder: Path, options: argparse.Namespace) -> list[Measure]:
    """The whole extraction against decoding, classifier and encoder, each alone on the same cores; and what
    ``plan`` says of it."""
    write_photos(folder / "images", options.photos, options.folder)
    settings = config(folder, BIG)
    bench, shard = Bench(settings), shards_of(settings, options.photos)[0]
    size, refs = settings.run.batch_size, list(shard.refs())
    drain(bench, Shard(0, shard.rows.slice(0, size), "warm"))
    rounds = []
    for _ in range(options.rounds):
        loaded: list[Any] = []
        decode = seconds(partial(_load, bench, refs, loaded))
        batches = [loaded[first : first + size] for first in range(0, len(loaded), size)]
        classifier = seconds(
            partial(_each, bench.classifier.forward, [[x.for_classifiers[0] for x in b] for b in batches])
        )
        encoder = seconds(
            partial(_each, bench.encoder.encode_images, [[x.for_encoder for x in b] for b in batches])
        )
        whole = seconds(partial(drain, bench, shard))
        told = plan(settings).images_per_second * whole[1] / settings.run.cpus_per_worker / len(refs)
        rounds.append((decode, classifier, encoder, whole, told))
        print([np.round(len(refs) / one[0], 2) for one in rounds[-1][:4]], round(told, 3), flush=True)
    parts = [(d + c + e) / w for d, c, e, w, _ in rounds]
    rates = {
        n: [len(refs) / r[i][1] for r in rounds]
        for i, n in enumerate(("decode", "classifier", "encoder", "run"))
    }
    return [
        ratios("limit: extraction against the serial limit, clock", [one[0] for one in parts], 0.9),
        ratios("limit: extraction against the serial limit, cores", [one[1] for one in parts], 0.9),
        ratios("limit: rate that plan predicts, of the rate measured, cores", [r[4] for r in rounds], 1.0),
        *(
            Measure(
                f"limit: images a second of a core, {n}", float(np.median(r)), min(r), max(r), None, "higher"
            )
            for n, r in rates.items()
        ),
    ]


def _load(bench: Bench, refs: Sequence[Any], loaded: list[Any]) -> None:
    loaded.extend(load_image([bench], ref) for ref in refs)


def _each(forward: Callable[[Any], Any], batches: Sequence[Any]) -> None:
    for batch in batches:
        forward(stack(batch, len(batch)))


def loop(folder: Path, options: argparse.Namespace) -> list[Measure]:
    """What users write: pytorch-grad-cam and open_clip, image by image, beside a run's extraction."""
    import torch
    from PIL import Image
    from pytorch_grad_cam import GradCAM

    write_photos(folder / "images", options.photos, options.folder)
    settings = config(folder, BIG)
    bench, shard = Bench(settings), shards_of(settings, options.photos)[0]
    network, clip = deepcopy(bench.classifier._module).requires_grad_(True), bench.encoder._model
    cam = GradCAM(model=network, target_layers=[network.get_submodule("layer4")])
    paths = sorted((folder / "images").iterdir())[: max(8, options.photos // 6)]

    def plain() -> None:
        for path in paths:
            image = Image.open(path).convert("RGB")
            pixels = torch.from_numpy(bench.classifier.prepare(image))[None]
            cam(input_tensor=bench.classifier._preprocess.normalise(pixels), targets=None)
            with torch.no_grad():
                other = torch.from_numpy(bench.encoder.prepare(image))[None]
                clip.encode_image(bench.encoder._preprocess.normalise(other))

    drain(bench, Shard(0, shard.rows.slice(0, 32), "warm"))
    found = []
    for _ in range(options.rounds):
        theirs, ours = seconds(plain) / len(paths), seconds(partial(drain, bench, shard)) / len(shard)
        found.append(theirs / ours)
        print("loop", np.round(found[-1], 2), flush=True)
    return [
        ratios("loop: times as fast as pytorch-grad-cam and open_clip, clock", [one[0] for one in found], 3),
        ratios("loop: times as fast as pytorch-grad-cam and open_clip, cores", [one[1] for one in found], 3),
    ]


class Both:
    """Both models in a Ray Data pipeline, as its documentation writes one."""

    def __init__(self, settings: Config) -> None:
        self.bench = Bench(settings)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Activations and embeddings of a batch of decoded images."""
        from PIL import Image

        images = [Image.fromarray(one) for one in batch["image"]]
        seen = self.bench.classifier.forward(np.stack([self.bench.classifier.prepare(one) for one in images]))
        embeddings = self.bench.encoder.encode_images(
            np.stack([self.bench.encoder.prepare(one) for one in images])
        )
        return {"pooled": seen.pooled, "logits": seen.logits, "embedding": embeddings}


def raydata(folder: Path, options: argparse.Namespace) -> list[Measure]:
    """A Ray Data pipeline, read_images and map_batches with one actor, beside a run with one Ray worker."""
    import ray

    write_photos(folder / "images", options.photos, options.folder)
    settings = config(folder, BIG, executor="ray", cpus_per_worker=1)
    shards = shards_of(settings, options.photos // 2)

    def theirs() -> None:
        ray.data.DataContext.get_current().enable_progress_bars = False
        read = ray.data.read_images(str(folder / "images"), mode="RGB")
        made = read.map_batches(
            Both, fn_constructor_args=(settings,), batch_size=32, concurrency=1, num_cpus=1
        )
        made.write_parquet(str(folder / f"theirs-{time.time_ns()}"))

    found = []
    with local_ray():
        for _ in range(options.rounds):
            one = seconds(theirs)[0]
            two = seconds(partial(_through, settings, shards))[0]
            found.append(one / two)
            print("raydata", round(one, 1), round(two, 1), flush=True)
    return [ratios("raydata: times as fast as Ray Data, one model worker each, clock", found, 1.5)]


def _through(settings: Config, shards: Sequence[Shard]) -> None:
    with open_pool(settings.run, partial(Bench, settings)) as pool:
        for news in pool.map(extract_shard, shards):
            assert not isinstance(news, Outcome) or news.failure is None, news


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


def resume(folder: Path, options: argparse.Namespace) -> list[Measure]:
    """A run with nothing to do, of 10,000 shards."""
    write_photos(folder / "images", 10_000, None, side=40)
    settings = config(folder, TINY, shard_size=1, batch_size=1, cpus_per_worker=1)
    first = seconds(lambda: precompute(settings))
    found = [seconds(lambda: precompute(settings)) for _ in range(options.rounds)]
    print("resume", first, found, flush=True)
    return [
        ratios(
            "resume: nothing to do, 10,000 shards, seconds of the clock",
            [one[0] for one in found],
            10,
            "lower",
        ),
        ratios(
            "resume: nothing to do, 10,000 shards, seconds of a core", [one[1] for one in found], 10, "lower"
        ),
    ]


PARTS: dict[str, Callable[[Path, argparse.Namespace], list[Measure]]] = {
    "limit": limit,
    "loop": loop,
    "raydata": raydata,
    "workers": workers,
    "growth": growth,
    "resume": resume,
}


def keep(measures: Sequence[Measure]) -> None:
    """Print, and take the place of the same measures in the result file; others stay."""
    path = RESULTS / f"{NAME}.json"
    before = json.loads(path.read_text())["measures"] if path.exists() else []
    part = {one.name.partition(":")[0] for one in measures}
    kept = [Measure(**one) for one in before if one["name"].partition(":")[0] not in part]
    publish(NAME, [*kept, *measures], machine(), write=True)


def main() -> None:
    """Run the parts asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            keep(PARTS[name](Path(folder), options))


if __name__ == "__main__":
    main()
