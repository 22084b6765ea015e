"""What a run would do, before it does it: shards, bytes, what bounds it, and how long it may take.

Times come from a probe of a few images on this machine, one step after another. Reading and decoding run
beside the forward passes, so on a GPU the slower of the two sides sets the pace (ours).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow.compute as pc

from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.execute import worker_count
from pipelines.extract import Batch, read_batches, stack
from pipelines.images import ImagePlan, Shard, plan_shards
from pipelines.labels import class_ids_of, read_aliases
from textcam.cam_methods import METHODS
from textcam.texts import load_bank

PROBE_IMAGES = 64


@dataclass(frozen=True)
class PlanSummary:
    """A run on paper. Times are seconds of this machine with all its workers; sizes are bytes."""

    images: int
    shards: int
    workers: int
    labelled_classes: int
    source_bytes: int | None
    store_bytes: int
    images_per_second: float
    seconds: float
    bound: str
    milliseconds_per_image: dict[str, float] = field(default_factory=dict)
    probe_errors: int = 0


def plan(config: Config) -> PlanSummary:
    """List the images, try both models on a few of them, and say what the whole run would take.

    Raises what a run would raise before its first shard: SourceError, ModelError, ConfigError.
    """
    load_bank(config.texts.bank, config.texts.templates)
    listed = plan_shards(config.images, config.run.shard_size, config.added)
    bench = Bench(config)
    aliases = read_aliases(config.classifier.class_names)
    bench.labels = class_ids_of(listed.labels, bench.classifier.class_names, aliases)
    spent, tried, failed = probe(bench, listed)
    workers = worker_count(config.run)
    per_image = {name: seconds / max(tried, 1) for name, seconds in spent.items()}
    reading, device = per_image["read and decode"], per_image["classifier"] + per_image["encoder"]
    if bench.classifier.head is None:  # then every image's explanation needs channel weights of its own
        passes = METHODS[config.cam.method].passes(bench.classifier.channels, linear_head=False)
        if passes:
            per_image["channel weights"] = passes * per_image["classifier"]
            device += per_image["channel weights"]
    # On a GPU the two sides overlap; on cores they share the same time.
    pace = max(reading, device) if config.run.gpus_per_worker else reading + device
    slowest = max(per_image, key=lambda name: per_image[name])
    images = listed.rows.num_rows
    return PlanSummary(
        images=images,
        shards=len(listed),
        workers=workers,
        labelled_classes=len(bench.labels),
        source_bytes=pc.sum(listed.rows["size"]).as_py(),
        store_bytes=images * row_bytes(bench),
        images_per_second=workers / pace if pace else 0.0,
        seconds=images * pace / workers,
        bound=slowest,
        milliseconds_per_image={name: round(1000 * value, 3) for name, value in per_image.items()},
        probe_errors=failed,
    )


def probe(bench: Bench, listed: ImagePlan) -> tuple[dict[str, float], int, int]:
    """Seconds by step over a few images, how many were tried, and how many of them could not be used."""
    every = max(1, listed.rows.num_rows // PROBE_IMAGES)
    rows = listed.rows.take(list(range(0, listed.rows.num_rows, every))[:PROBE_IMAGES])
    shard = Shard(0, rows, "probe")
    spent = {"read and decode": 0.0, "classifier": 0.0, "encoder": 0.0}
    size, failed = bench.config.run.batch_size, 0

    batches: list[Batch] = []
    with timed(spent, "read and decode"):
        batches += read_batches(bench, shard)
    for batch in batches:
        failed += len(batch.errors)
        if not len(batch):
            continue
        pixels, pictures = stack(batch.for_classifier, 0), stack(batch.for_encoder, 0)
        if batch is batches[0]:
            # Before the clock starts: the first call of a network sets itself up.
            bench.classifier.forward(pixels[: size // 8 + 1])
            bench.encoder.encode_images(pictures[: size // 8 + 1])
        with timed(spent, "classifier"):
            bench.classifier.forward(pixels)
        with timed(spent, "encoder"):
            bench.encoder.encode_images(pictures)
    return spent, len(shard), failed


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to ``spent[name]``."""
    started = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - started


def row_bytes(bench: Bench) -> int:
    """Bytes that one image adds to a store: half-precision vectors, and about 200 for everything else."""
    return 2 * (bench.dims.channels + bench.dims.embedding) + 200
