"""Which number format each model runs in, where the configuration says ``auto``.

bfloat16 doubles the rate of some networks on some machines and halves that of others, so both formats are
tried when a run begins, on some of its own images and on one of its workers. bfloat16 is taken where it is
faster by a tenth and every probed image keeps its outputs and its CAM (ours). Where a run is told to use
bfloat16, it says at its end what that cost the CAMs.

The decision shapes numbers, so it is made once: it lies with the store's run records and, after the commit,
in the snapshot's configuration. A run that goes on, its other workers and images that are added later all use
it. It depends on the machine, though, and that is why ``auto`` is not the default.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial as bind
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.bench import Bench, digest
from pipelines.config import ModelName, RunSection
from pipelines.events import EventLog
from pipelines.execute import open_pool
from pipelines.feed import read_batches, stack
from pipelines.images import ImagePlan, Shard
from pipelines.ledger import Codec, Ledger
from pipelines.spread import Report, Spreader
from pipelines.working import Clock
from store.manifest import Manifest
from store.signs import at_work
from textcam.arrays import Floats
from textcam.cam_methods import METHODS
from textcam.classifier import TorchClassifier
from textcam.device import is_out_of_memory
from textcam.encoder import ClipEncoder

STAGE = "formats"
MODELS: tuple[ModelName, ...] = ("classifier", "encoder")
LEAST_COSINE = 0.999  # of an image's outputs in bfloat16 with those in float32, and of its contributions
LARGEST_ERROR = 0.02  # of the sum of an image's contributions, by the largest of these sums
LEAST_GAIN = 1.1
IMAGES = 16
CHECKED = 4  # images, where the format is not to be chosen
ROUNDS, ENOUGH_SECONDS = 3, 4.0


@dataclass(frozen=True)
class Trial:
    """One model in both formats: images a second, the lowest cosine of an image's outputs in one with those
    in the other, how well its contributions agree, and the format to use. No numbers where no image could be
    had, or the model has no pass in bfloat16; none for contributions where the head is linear."""

    model: ModelName
    float32: float | None
    bfloat16: float | None
    cosine: float | None
    chosen: str
    contributions_cosine: float | None = None
    contributions_error: float | None = None

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Back from plain JSON."""
        return cls(**plain)


TRIALS = Codec(asdict, Trial.from_dict, lambda trial: [])


@dataclass(frozen=True)
class TrialItem:
    """A model to be tried, and the images to try it on."""

    model: ModelName
    shard: Shard

    @property
    def label(self) -> str:
        """Its name in a message."""
        return f"the {self.model}"


# --- the decision -----------------------------------------------------------------------------------------


def decide(bench: Bench, plan: ImagePlan, base: Manifest | None, report: Report) -> None:
    """Give the bench a format for each model that its configuration leaves open: what the store has, or else
    what a trial on one worker finds. Raises RunIncomplete if that worker cannot be had.
    """
    formats: dict[ModelName, str] = {name: bench.config.run.format_of(name) for name in MODELS}
    if "auto" not in formats.values():
        return
    formats |= kept_formats(bench, base)
    undecided = [name for name in MODELS if formats[name] == "auto"]
    if undecided:
        formats |= {trial.model: trial.chosen for trial in _tried(bench, plan, undecided, report)}
    bench.use_formats(formats)


def kept_formats(bench: Bench, base: Manifest | None) -> dict[ModelName, str]:
    """The formats that a snapshot or the store's run records have for models that may choose."""
    ledger, kept = Ledger(bench.store), {}
    for name in MODELS:
        if bench.config.run.format_of(name) != "auto":
            continue
        if base is not None and _model(bench, name).made(base.fingerprints.get(name, "")):
            kept[name] = RunSection.model_validate(base.config.get("run", {})).format_of(name)
        elif (record := ledger.get(STAGE, _key(bench, name))) is not None:
            kept[name] = TRIALS.load(record).chosen
    return kept


def _tried(bench: Bench, plan: ImagePlan, names: Sequence[ModelName], report: Report) -> list[Trial]:
    """Trials by one worker, written down."""
    config = bench.config
    run = config.run.model_copy(update={"workers": 1})
    make: Callable[[], Bench] = bind(Bench, config) if run.executor == "ray" else lambda: bench
    log = EventLog(run.events)
    items = [(_key(bench, name), TrialItem(name, sampled(plan, IMAGES))) for name in names]
    try:
        with at_work(bench.store), open_pool(run, make) as pool:
            spreader = Spreader(pool, Ledger(bench.store), report, log)
            trials: list[Trial] = spreader.spread(STAGE, try_formats, items, len(items), TRIALS)
        for trial in trials:
            log.write("format", **asdict(trial))
    finally:
        log.close()
    return trials


def _key(bench: Bench, name: ModelName) -> str:
    return digest(name, bench.model_key(name))


def _model(bench: Bench, name: ModelName) -> TorchClassifier | ClipEncoder:
    return bench.classifier if name == "classifier" else bench.encoder


def sampled(plan: ImagePlan, count: int) -> Shard:
    """``count`` images from all over a plan, or all of fewer."""
    tried = min(plan.rows.num_rows, count)
    rows = plan.rows.take(np.linspace(0, plan.rows.num_rows - 1, tried).round().astype(np.int64))
    return Shard(0, rows, "sample")


# --- the trial --------------------------------------------------------------------------------------------


def try_formats(bench: Bench, item: TrialItem) -> Trial:
    """One model over a few images in both formats. A stage for ``execute``."""
    pixels: list[NDArray[Any]] = []
    for batch in read_batches([bench], item.shard, Clock()):
        pixels += batch.for_classifier() if item.model == "classifier" else batch.for_encoder
    if not pixels:
        return Trial(item.model, None, None, None, "float32")
    model = bench.classifier if item.model == "classifier" else bench.encoder
    before = model.number_format
    try:
        return bench.with_room(bind(_compare, bench, item.model, pixels))
    finally:
        model.number_format = before


def _compare(bench: Bench, name: ModelName, pixels: Sequence[NDArray[Any]], size: int) -> Trial:
    """Both formats in turn. A GPU gets whole batches, images again and again; cores get few images."""
    on_cores = bench.classifier.device.type == "cpu"
    size = min(size, IMAGES) if on_cores else size
    count = -(-max(len(pixels), size) // size) * size
    again = [pixels[at % len(pixels)] for at in range(count)]
    batches = [stack(again[first : first + size], size) for first in range(0, count, size)]
    clock, cores = time.perf_counter, 1
    if on_cores:  # their own time, which other work on this machine changes least
        clock, cores = time.process_time, max(1, int(bench.config.run.cpus_per_worker))
    plain, fast = (_outputs(bench, name, kind, batches) for kind in ("float32", "bfloat16"))  # and warm up
    seconds = {"float32": np.inf, "bfloat16": np.inf}
    begun = time.monotonic()
    for number in range(ROUNDS if plain and fast else 0):
        if number and time.monotonic() - begun > ENOUGH_SECONDS:
            break
        for kind in seconds:
            started = clock()
            _outputs(bench, name, kind, batches)
            seconds[kind] = min(seconds[kind], (clock() - started) / cores)
    if not plain or not fast:
        return Trial(name, None, None, None, "float32")
    cosine = min(float(cosines(*pair)[: len(pixels)].min()) for pair in zip(plain, fast, strict=True))
    rates = {kind: count / max(spent, 1e-9) for kind, spent in seconds.items()}
    kept = agreement(bench.classifier, bench.config.cam.method, batches[0]) if name == "classifier" else None
    chosen = choose(**rates, cosine=cosine, kept=kept)
    told = (None, None) if kept is None else (kept.cosine, kept.error)
    return Trial(name, rates["float32"], rates["bfloat16"], cosine, chosen, *told)


def choose(float32: float, bfloat16: float, cosine: float, kept: "Agreement | None" = None) -> str:
    """The format to use, from the rate of each, the lowest cosine of an image and what CAMs keep."""
    faithful = cosine >= LEAST_COSINE and (kept is None or kept.enough)
    return "bfloat16" if bfloat16 >= LEAST_GAIN * float32 and faithful else "float32"


def _outputs(
    bench: Bench, name: ModelName, number_format: str, batches: Sequence[NDArray[Any]]
) -> list[Floats] | None:
    """What a model makes of all batches: pooled (B, K) and logits (B, C), or embeddings (B, D). None where it
    has no such pass in bfloat16."""
    model = bench.classifier if name == "classifier" else bench.encoder
    model.number_format = number_format
    try:
        made = [_forward(bench, name, pixels) for pixels in batches]
    except (RuntimeError, TypeError) as error:
        if number_format == "float32" or is_out_of_memory(error):
            raise
        return None
    return [np.concatenate(column) for column in zip(*made, strict=True)]


def _forward(bench: Bench, name: ModelName, pixels: NDArray[Any]) -> tuple[Floats, ...]:
    if name == "encoder":
        return (bench.encoder.encode_images(pixels),)
    classifier, method = bench.classifier, bench.config.cam.method
    if classifier.head is None and not METHODS[method].passes(1, linear_head=False):
        seen = classifier.forward_cam(pixels, method=method)[0]  # as extraction does
    else:
        seen = classifier.forward(pixels)
    return seen.pooled, seen.logits


# --- what CAMs keep -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Contributions in bfloat16 beside those in float32: the lowest ``cosine`` of an image's, and the largest
    ``error`` of their sum, by the largest of the sums."""

    cosine: float
    error: float

    @property
    def enough(self) -> bool:
        """Whether explanations are the same to what bfloat16 rounds."""
        return self.cosine >= LEAST_COSINE and self.error <= LARGEST_ERROR


def agreement(classifier: TorchClassifier, method: str, pixels: NDArray[Any]) -> Agreement | None:
    """Contributions, weight times activation, of one class an image, in both formats; pixels (B, 3, H, W).

    One image has to do for methods that try channel by channel. None where weights are the rows of a linear
    head: what then adds up are the logits.
    """
    if classifier.head is not None:
        return None
    if METHODS[method].passes(1, linear_head=False):
        pixels = pixels[:1]
    before = classifier.number_format
    made, class_ids = [], None
    try:
        for number_format in ("float32", "bfloat16"):
            classifier.number_format = number_format
            seen, weights = classifier.forward_cam(pixels, class_ids, method)
            class_ids = seen.logits.argmax(1) if class_ids is None else class_ids
            made.append(weights * seen.pooled)
    finally:
        classifier.number_format = before
    sums = [one.sum(1, dtype=np.float64) for one in made]
    error = np.abs(sums[1] - sums[0]).max() / max(float(np.abs(sums[0]).max()), 1e-12)
    return Agreement(float(cosines(*made).min()), float(error))


def cam_doubts(bench: Bench, plan: ImagePlan) -> tuple[str, ...]:
    """What the number format and norms that cannot be held do to the CAMs of a run, as sentences."""
    classifier, method = bench.classifier, bench.config.cam.method
    said = [
        f"the scale of {name} cannot be held: contributions do not add up"
        for name in classifier.norms_not_held(method)
    ]
    if classifier.number_format == "bfloat16" and classifier.head is None:
        pixels: list[NDArray[Any]] = []
        for batch in read_batches([bench], sampled(plan, CHECKED), Clock()):
            pixels += batch.for_classifier()
        kept = None
        if pixels:
            kept = bench.with_room(
                lambda size: agreement(classifier, method, stack(pixels[:size], len(pixels[:size])))
            )
        if kept is not None and not kept.enough:
            said.append(
                f"in bfloat16 contributions add up to {kept.error:.1%} more or less than in float32, "
                f"with a cosine of {kept.cosine:.3f}"
            )
    return tuple(said)


def cosines(plain: Floats, fast: Floats) -> NDArray[np.float64]:
    """The cosine (B,) of each row of one (B, X) with that of the other.

    1 for two rows of zeros, and where ``plain`` is not finite: such an image is an error in any format; 0
    where only ``fast`` is not.
    """
    one, other = (
        np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0).astype(np.float64)
        for rows in (plain, fast)
    )
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products = np.einsum("bx,bx->b", one, other)
    same = ~one.any(axis=1) & (~other.any(axis=1) | ~np.isfinite(plain).all(axis=1))
    return np.where(same, 1.0, np.divide(products, lengths, out=np.zeros(len(one)), where=lengths > 0))
