"""Corrected heads, judged on thousands of fresh scenes: before, after, and the best that any head could do.

    .venv/bin/python -m benchmarks.audit_heads demo 0 1 2

For the demo's biased classifier and the worlds of these seeds that ``benchmarks.audit run`` has audited. A
store of 800 images holds out some 250, and its worst group five; so each head is judged here by scenes that
neither run has seen, in groups by what was rendered, of the pairs that the classifier truly uses.

    refit     as ``textcam suppress`` makes it, from the store's images and what the encoder sees in them, for
              all findings called used
    oracle    the same fit on ORACLE scenes without a bias, by what was rendered, as near to the old head as
              is best for the judged scenes themselves: no method can be asked for much more
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.audit import TRUE
from benchmarks.audit_cases import STORES, Case, configuration
from benchmarks.measure import Measure, interval, machine, publish
from benchmarks.truth.shortcuts import (
    PROBE_FOLLOW,
    PROBE_LEAK,
    biased_world,
    cache,
    probe,
    truth,
    weights,
)
from demo.measure import TrainedClassifier
from demo.models import CLASSIFIER_SIZE, WEIGHTS, TinyClassifier
from demo.pictures import Pictures, picture_set
from demo.scenes import VALUES, generator, scenes
from demo.shortcuts import PLANTED, Shortcut, confound
from demo.train_clip import normalised
from pipelines.config_file import make_config
from pipelines.run import precompute
from textcam.query import Query
from textcam.suppress import Samples, group_accuracies, refit, right
from textcam.whatif import Head

ORACLE, JUDGED, BIASED_JUDGED = 4000, 2400, 1200
SEED = 8200  # of scenes that nothing else here is drawn from
NEARNESS = (1.0, 0.1, 0.01, 0.001)
LOSSES = (0.01, 0.2)
GAINED, LOST = 20.0, 1.0  # points: the goal
BIASED, DEMO_SEED, DEMO_PER_CLASS = WEIGHTS / "biased.safetensors", 500, 150
_BATCH = 200


@dataclass(frozen=True)
class Subject:
    """A biased classifier, the pairs that it truly uses, and the stores of its audits (without and with the
    bias)."""

    name: str
    classifier: TrainedClassifier
    used: tuple[Shortcut, ...]
    planted: tuple[Shortcut, ...]
    stores: tuple[Query, Query]


def demo() -> Subject:
    """The demo's biased classifier, audited here as far as it was not."""
    stores = [cache() / f"audit{STORES}-demo-{name}-store" for name in ("unbiased", "confounded")]
    for store, confounded in zip(stores, (False, True), strict=True):
        images = probe(PLANTED, confounded=confounded, per_class=DEMO_PER_CLASS, seed=DEMO_SEED)
        precompute(make_config(configuration(images, BIASED, store)), lambda progress: None)
    return Subject("demo", TrainedClassifier(BIASED), PLANTED, PLANTED, _opened(*stores))


def world(seed: int) -> Subject:
    """The biased classifier of a seed."""
    made = biased_world(seed)
    flips = {(one.class_name, one.concept): one.flip_rate for one in truth(made)}
    used = tuple(one for one in made.planted if flips[one.class_name, one.concept] > TRUE)
    stores = [cache() / f"audit{STORES}-{Case(made, confounded).name}-store" for confounded in (False, True)]
    return Subject(str(seed), TrainedClassifier(weights(made)), used, made.planted, _opened(*stores))


def _opened(unbiased: Path, biased: Path) -> tuple[Query, Query]:
    return Query.open(unbiased), Query.open(biased)


# --- scenes ---------------------------------------------------------------------------------------------


@torch.no_grad()
def pooled(model: TinyClassifier, pictures: Pictures) -> NDArray[np.float32]:
    """(N, K) activations."""
    made = []
    for start in range(0, len(pictures.pixels), _BATCH):
        pixels = normalised(pictures.pixels[start : start + _BATCH])
        made.append(model.features(pixels.contiguous(memory_format=torch.channels_last)).mean((2, 3)).numpy())
    return np.concatenate(made)


def samples(subject: Subject, pictures: Pictures) -> Samples:
    """The pictures as the classifier sees them, with what was rendered."""
    shown = [
        pictures.labels_of(cue.attribute) == VALUES[cue.attribute].index(cue.value) for cue in subject.used
    ]
    seen = pooled(subject.classifier.module, pictures)
    return Samples(np.arange(len(seen)), pictures.labels_of("shape"), seen, np.stack(shown, axis=1))


def biased_pictures(subject: Subject) -> Pictures:
    """Scenes with the bias of the subject."""
    rng = generator("cues", SEED, 9)
    drawn = scenes("held-out", SEED + 1, BIASED_JUDGED)
    with_cues = (
        confound(one, rng, follow=PROBE_FOLLOW, leak=PROBE_LEAK, planted=subject.planted) for one in drawn
    )
    return picture_set(with_cues, BIASED_JUDGED, CLASSIFIER_SIZE)


# --- heads ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """Fresh scenes without and with the bias."""

    classes: NDArray[np.int64]
    unbiased: Samples
    biased: Samples

    def __call__(self, head: Head) -> NDArray[np.float64]:
        """In points: the worst group and the average without the bias, the average with it."""
        correct = right(self.unbiased, head)
        worst = min(one.after for one in group_accuracies(self.unbiased, self.classes, correct, correct))
        return 100 * np.array([worst, correct.mean(), right(self.biased, head).mean()])


def heads(subject: Subject, pool: Pictures) -> dict[str, NDArray[np.float64]]:
    """What the judge says of each head, by name."""
    classes = np.array([VALUES["shape"].index(cue.class_name) for cue in subject.used])
    fresh = samples(subject, pool)
    oracle, judged = fresh.take(fresh.image_ids < ORACLE), fresh.take(fresh.image_ids >= ORACLE)
    judge = Judge(classes, judged, samples(subject, biased_pictures(subject)))
    old = subject.stores[0].audit.head()
    found = {"before": judge(old)}
    for where, query in zip(("unbiased", "biased"), subject.stores, strict=True):
        used = [one for one in query.findings() if one.verdict == "used"]
        ways = {f"refit on {where} images, {lost:.0%} may be lost": ("refit", lost) for lost in LOSSES}
        for name, way in {**ways, f"project, {where} images": ("project",)}.items():
            made = query.audit.suppress(used, *way) if used else None
            found[name] = judge(old if made is None else (made.weights, made.bias))
    best = [judge(refit(oracle, old, nearness)) for nearness in NEARNESS]
    found[f"oracle, {ORACLE} images"] = max(best, key=lambda one: one[0])
    return found


def measures(found: Sequence[dict[str, NDArray[np.float64]]], who: str) -> list[Measure]:
    """Gains over the head before, in points, with intervals over several subjects."""
    made = []
    for name in found[0]:
        rows = np.stack([one[name] - (0 if name == "before" else one["before"]) for one in found])
        for place, what in enumerate(("worst group", "average", "average on biased images")):
            values = rows[:, place]
            spread = interval(values, np.mean) if len(values) > 1 else (float(values[0]), None, None)
            goal = None if name == "before" else (GAINED, -LOST, -LOST)[place]
            made.append(Measure(f"{who}, {name}: {what}, points", *spread, goal=goal, better="higher"))
        if name != "before" and len(found) > 1:
            reached = (rows[:, 0] >= GAINED) & (rows[:, 1] >= -LOST)
            what = f"of {len(found)} gain {GAINED:.0f} points in the worst group, lose at most {LOST:.0f}"
            made.append(Measure(f"{who}, {name}: {what}", int(reached.sum()), better="higher"))
    return made


def judged(name: str, pool: Callable[[], Pictures]) -> dict[str, NDArray[np.float64]]:
    """The judge's words on the heads of one subject, from the cache or made. Findings, as they are now, and
    all settings are part of the name."""
    subject = demo() if name == "demo" else world(int(name))
    used = [[asdict(one) for one in query.findings() if one.verdict == "used"] for query in subject.stores]
    shaped = [name, used, ORACLE, JUDGED, BIASED_JUDGED, SEED, NEARNESS, LOSSES]
    path = cache() / f"heads-{sha256(json.dumps(shaped).encode()).hexdigest()[:16]}.json"
    if not path.exists():
        made = {key: value.tolist() for key, value in heads(subject, pool()).items()}
        path.write_text(json.dumps(made))
    return {key: np.array(value) for key, value in json.loads(path.read_text()).items()}


@lru_cache(maxsize=1)
def fresh() -> Pictures:
    """Scenes without a bias that no run has seen."""
    return picture_set(scenes("held-out", SEED, ORACLE + JUDGED), ORACLE + JUDGED, CLASSIFIER_SIZE)


def main() -> None:
    """Judge the heads of these subjects."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name in sys.argv[1:]:
        found[name] = judged(name, fresh)
        print(name, {key: value.round().tolist() for key, value in found[name].items()}, flush=True)
    worlds = [one for name, one in found.items() if name != "demo"]
    made = measures([found["demo"]], "demo's biased classifier") if "demo" in found else []
    made += measures(worlds, f"{len(worlds)} worlds") if worlds else []
    publish("audit_heads", made, machine(), write=True)


if __name__ == "__main__":
    main()
