"""The causal truth about the planted shortcuts.

The same scene is rendered with and without the cue, and the classifier is asked about both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from demo.measure import TrainedClassifier
from demo.models import WEIGHTS
from demo.scenes import VALUES, Scene, generator, scenes
from demo.shortcuts import PLANTED, Shortcut


@dataclass(frozen=True)
class FlipRate:
    """Of `n` pictures predicted right with the cue, the share whose prediction changes without it."""

    shortcut: Shortcut
    rate: float
    n: int


class Predictor(Protocol):
    """What is asked: the classes (N,) of N scenes."""

    def predict(self, scenes: Sequence[Scene]) -> NDArray[np.int64]:
        """Positions of the predicted classes among the shapes."""


def measure_flip_rate(classifier: Predictor, cue: Shortcut, *, count: int = 200, seed: int = 0) -> FlipRate:
    """The flip rate of one shortcut on `count` fresh scenes of its class; 0 if none is predicted right."""
    shape = VALUES["shape"].index(cue.class_name)
    rng = generator("cues", seed, 3, shape)
    with_cue = [cue.given(scene) for scene in scenes("flips", seed, count, shape=cue.class_name)]
    without = [cue.taken(scene, rng) for scene in with_cue]
    right = classifier.predict(with_cue) == shape
    changed = classifier.predict(without) != shape
    n = int(right.sum())
    return FlipRate(cue, float(changed[right].mean()) if n else 0.0, n)


def measure_flip_rates(
    classifier: Predictor, shortcuts: Sequence[Shortcut] = PLANTED, *, count: int = 200, seed: int = 0
) -> list[FlipRate]:
    """The flip rate of each shortcut."""
    return [measure_flip_rate(classifier, cue, count=count, seed=seed) for cue in shortcuts]


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
    classifiers = TrainedClassifier(biased), TrainedClassifier(clean)
    planted = []
    for cue in PLANTED:  # both classifiers see the same pictures, which are rendered once
        found, control = (measure_flip_rate(one, cue, count=count, seed=seed) for one in classifiers)
        planted.append(
            {
                "class": cue.class_name,
                "concept": cue.concept,
                "kind": cue.kind,
                "flip_rate": round(found.rate, 4),
                "flip_rate_clean": round(control.rate, 4),
                "n": found.n,
            }
        )
    path.write_text(json.dumps({"planted": planted, "classes": list(VALUES["shape"])}, indent=2) + "\n")
