"""The causal truth about the planted shortcuts.

The same scene is rendered with and without the cue, and the classifier is asked about both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.measure import TrainedClassifier, label_rows
from demo.models import WEIGHTS
from demo.scenes import VALUES, generator, scenes
from demo.shortcuts import PLANTED, Shortcut


@dataclass(frozen=True)
class FlipRate:
    """Of `n` pictures predicted right with the cue, the share whose prediction changes without it."""

    shortcut: Shortcut
    rate: float
    n: int


def measure_flip_rates(
    classifier: TrainedClassifier,
    shortcuts: Sequence[Shortcut] = PLANTED,
    *,
    count: int = 200,
    seed: int = 0,
) -> list[FlipRate]:
    """The flip rate of each shortcut on `count` fresh scenes of its class; 0 if none is predicted right."""
    rates = []
    for k, cue in enumerate(shortcuts):
        rng = generator("cues", seed, 3, k)
        with_cue = [cue.given(scene) for scene in scenes("flips", seed, count, shape=cue.class_name)]
        without = [cue.taken(scene, rng) for scene in with_cue]
        right = classifier.predict(with_cue) == label_rows(with_cue)["shape"]
        changed = classifier.predict(without) != label_rows(without)["shape"]
        n = int(right.sum())
        rates.append(FlipRate(cue, float(changed[right].mean()) if n else 0.0, n))
    return rates


def write_truth(
    path: Path,
    *,
    biased: Path = WEIGHTS / "biased.safetensors",
    clean: Path = WEIGHTS / "clean.safetensors",
    count: int = 200,
    seed: int = 0,
) -> None:
    """Write what was planted and how strong it became, beside the clean classifier's rate on the same scenes.

    {"planted": [{"class", "concept", "kind", "flip_rate", "flip_rate_clean", "n"}], "classes": [...]}; a
    concept is written as the demo's text bank has it.
    """
    measured = [
        measure_flip_rates(TrainedClassifier(file), count=count, seed=seed) for file in (biased, clean)
    ]
    planted = [
        {
            "class": found.shortcut.class_name,
            "concept": found.shortcut.concept,
            "kind": found.shortcut.kind,
            "flip_rate": round(found.rate, 4),
            "flip_rate_clean": round(control.rate, 4),
            "n": found.n,
        }
        for found, control in zip(*measured, strict=True)
    ]
    path.write_text(json.dumps({"planted": planted, "classes": list(VALUES["shape"])}, indent=2) + "\n")
