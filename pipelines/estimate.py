"""What a run would do, before it does it: shards, bytes, what bounds it, and how long it may take.

Times come from a probe of a few images on this machine. Reading and decoding run beside the forward passes,
so the slower of the two sides sets the pace; where both share cores, their time does (ours), which a busy
machine changes least.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow.compute as pc

from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.execute import worker_count
from pipelines.feed import Batch, read_batches, stack, thread_count
from pipelines.formats import IMAGES, MODELS, TrialItem, kept_formats, sampled, try_formats
from pipelines.frozen import newest
from pipelines.images import ImagePlan, plan_shards
from pipelines.labels import class_ids_of, read_aliases
from pipelines.working import DECODING, READING, Clock
from store.storage import open_storage
from store.trial import try_storage
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
    number_formats: dict[str, dict[str, object]] = field(default_factory=dict)
    probe_errors: int = 0


def plan(config: Config) -> PlanSummary:
    """List the images, try both models on a few of them, and say what the whole run would take.

    Raises what a run would raise before its first shard: SourceError, ModelError, ConfigError, and
    StorageUnavailable where the store could not be written or committed.
    """
    load_bank(config.texts.bank, config.texts.templates)
    try_storage(open_storage(config.store))
    listed = plan_shards(config.images, config.run.shard_size, config.added)
    bench = Bench(config)
    aliases = read_aliases(config.classifier.class_names)
    bench.labels = class_ids_of(listed.labels, bench.classifier.class_names, aliases)
    formats = try_both_formats(bench, listed)
    spent, tried, failed = probe(bench, listed)
    workers = worker_count(config.run)
    per_image = {name: seconds / max(tried, 1) for name, seconds in spent.items()}
    cores = per_image.pop("cores")
    device = sum(per_image[name] for name in MODELS)
    if bench.classifier.head is None:  # then every image's explanation needs channel weights of its own
        passes = METHODS[config.cam.method].passes(bench.classifier.channels, linear_head=False)
        if passes:
            per_image["channel weights"] = passes * per_image["classifier"]
            device += per_image["channel weights"]
            cores += per_image["channel weights"] * config.run.cpus_per_worker
    elsewhere = config.run.decoders * config.run.cpus_per_decoder / workers  # cores that decode for a worker
    threads = thread_count(bench) + elsewhere
    feeding = (per_image[READING] + per_image[DECODING]) / threads
    if bench.classifier.device.type == "cpu":  # then all of it shares the worker's cores
        pace = max(cores / (config.run.cpus_per_worker + elsewhere), per_image[READING] / threads)
        pace = max(pace, device if elsewhere else 0)
    else:
        pace = max(device, feeding)
    if feeding > device:
        limit = max((READING, DECODING), key=lambda name: per_image[name])
    else:
        limit = max((*MODELS, "channel weights"), key=lambda name: per_image.get(name, 0.0))
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
        bound=limit,
        milliseconds_per_image={name: round(1000 * value, 3) for name, value in per_image.items()},
        number_formats=formats,
        probe_errors=failed,
    )


def seconds_together(plans: Sequence[PlanSummary]) -> float:
    """Seconds of several classifiers over one decode (ours): what each does alone, what they share once."""

    def own(plan: PlanSummary) -> float:
        spent = plan.milliseconds_per_image
        alone = spent.get("classifier", 0.0) + spent.get("channel weights", 0.0)
        return plan.seconds * alone / max(sum(spent.values()), 1e-9)

    return sum(own(one) for one in plans) + max(one.seconds - own(one) for one in plans)


def probe(bench: Bench, listed: ImagePlan) -> tuple[dict[str, float], int, int]:
    """Seconds by step over a few images, how many were tried, and how many of them could not be used.

    Steps are reading, decoding, classifier and encoder, in seconds of the clock, and "cores": seconds of all
    cores together.
    """
    sample = sampled(listed, max(PROBE_IMAGES, bench.config.run.batch_size))
    spent, clock, failed = dict.fromkeys((*MODELS, "cores"), 0.0), Clock(), 0
    _warm_up(bench)
    cores = time.process_time()
    for batch in read_batches([bench], sample, clock):
        failed += len(batch.errors)
        if len(batch):
            with timed(spent, "classifier"):
                bench.with_room(partial(_classify, bench, batch))
            with timed(spent, "encoder"):
                bench.with_room(partial(_encode, bench, batch))
    spent["cores"] = time.process_time() - cores
    return spent | {name: clock.seconds[name] for name in (READING, DECODING)}, len(sample), failed


def try_both_formats(bench: Bench, listed: ImagePlan) -> dict[str, dict[str, object]]:
    """Images a second of each model alone in each number format, and which a run will use: the bench too.

    What a store has decided is kept.
    """
    trials = [try_formats(bench, TrialItem(name, sampled(listed, IMAGES))) for name in MODELS]
    kept = kept_formats(bench, newest(bench.store))
    told: dict[str, dict[str, object]] = {}
    for trial in trials:
        wanted = bench.config.run.format_of(trial.model)
        used = kept.get(trial.model, trial.chosen) if wanted == "auto" else wanted
        rates = {"float32": trial.float32, "bfloat16": trial.bfloat16, "cosine": trial.cosine}
        told[trial.model] = {**{key: one for key, one in rates.items() if one is not None}, "used": used}
    bench.use_formats({trial.model: str(told[trial.model]["used"]) for trial in trials})
    return told


def _classify(bench: Bench, batch: Batch, size: int) -> None:
    for first in range(0, len(batch), size):
        bench.classifier.forward(stack(batch.for_classifier(first, size), size))


def _encode(bench: Bench, batch: Batch, size: int) -> None:
    for first in range(0, len(batch), size):
        bench.encoder.encode_images(stack(batch.for_encoder[first : first + size], size))


def _warm_up(bench: Bench) -> None:
    """Before the clock starts: the first call of a network sets itself up."""
    size = bench.config.run.batch_size // 8 + 1
    bench.classifier.forward(np.zeros((size, 3, *bench.classifier.input_size), np.uint8))
    bench.encoder.encode_images(np.zeros((size, 3, *bench.encoder.input_size), np.uint8))


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to ``spent[name]``."""
    started = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - started


def row_bytes(bench: Bench) -> int:
    """Bytes that one image adds to a store: half-precision vectors, and about 200 for everything else."""
    return 2 * (bench.dims.channels + bench.dims.embedding) + 200
