"""T2: a score must fall where there is nothing to find, or where labels are wrong.

The measures are put to the tests of NeuronEval (ICML 2025) with labels missing and with labels too many;
the methods to shuffled examples, a constant label, shuffled labels, and a classifier that was never
trained.
"""

from dataclasses import replace

import numpy as np
import torch

from benchmarks.truth import shortcuts
from benchmarks.truth.algebraic import AlgebraicWorld, make_algebraic
from benchmarks.truth.cases import make_case
from benchmarks.truth.class_words import Reading, words_of_directions
from benchmarks.truth.evidence import Array, Labelled
from benchmarks.truth.measures import label_measures, named_right
from benchmarks.truth.ours import DEFAULT, Directions
from demo.models import TinyClassifier
from demo.scenes import VALUES
from textcam.confidence import UNSURE


def label_sanity(seed: int) -> dict[str, float]:
    """Of the algebraic world: the measures of right labels, and what is left of them when labels go wrong."""
    world = AlgebraicWorld(seed=seed, noise=16.0)
    evidence, scoring = make_algebraic(world)
    right = scoring.meanings.argmax(1)
    rng = np.random.default_rng([33, seed])
    keep = rng.random(scoring.labels.shape) < 0.5
    extra = rng.random(scoring.labels.shape) < scoring.labels.mean(0)
    variants = {
        "right labels": scoring.labels,
        "half of the labels missing": scoring.labels & keep,
        "as many labels too many": scoring.labels | extra,
        "labels shuffled": scoring.labels[rng.permutation(len(scoring.labels))],
        "constant label": np.ones_like(scoring.labels),
    }
    made = {}
    for name, labels in variants.items():
        found = label_measures(Labelled(scoring.pooled, labels), right)
        for measure in ("pearson", "cosine", "auprc", "f1", "iou"):
            made[f"{name}: {measure}"] = float(found[measure].mean())
    shuffled = replace(evidence, pooled=evidence.pooled[rng.permutation(len(evidence.pooled))])
    for name, given in (("examples in order", evidence), ("examples shuffled", shuffled)):
        names = Directions(given).names(DEFAULT)
        right = named_right(names.coefficients, scoring.meanings, 1)
        made[f"{name}: top-1 naming"] = float(right.mean())
        made[f"{name}: mean confidence"] = float(names.confidence.mean())
        made[f"{name}: no words fit"] = float((names.confidence < UNSURE).mean())
    return made


def untrained(seed: int) -> list[float]:
    """Is the class's own word its first? For a classifier that was never trained; chance is an eighth at
    most.
    """
    torch.manual_seed(seed)
    module = TinyClassifier().eval()
    case = make_case("untrained", module, [], (), confounded=False, per_class=40, seed=seed)
    fitted = Directions(case.evidence)
    words = words_of_directions(
        case.evidence, fitted.for_words(DEFAULT), case.head, _spread(case.predicted), Reading()
    )
    return [float(words.rank(c, t) == 1) for c, t in enumerate(case.own)]


def shuffled_classes(seed: int) -> list[float]:
    """The same of a clean, trained classifier whose classes are taken for other classes."""
    world = shortcuts.clean_world(seed)
    module = shortcuts.classifier(world).module
    case = make_case("shuffled", module, [], (), confounded=False, per_class=40, seed=seed)
    fitted = Directions(case.evidence)
    words = words_of_directions(
        case.evidence, fitted.for_words(DEFAULT), case.head, case.predicted, Reading()
    )
    own = np.random.default_rng([34, seed]).permutation(case.own)
    return [float(words.rank(c, t) == 1) for c, t in enumerate(own)]


def _spread(predicted: Array) -> Array:
    """An untrained classifier predicts one class for all: every class is asked about, of every eighth
    image.
    """
    return np.arange(len(predicted)) % len(VALUES["shape"])
