"""Insertion and deletion by concept: the scene is rendered again without the words of its explanation, one
after the other, and again with them, and the logit of the class is asked each time.

Every subset of a scene's attributes is rendered once, so that any order of words is a walk over known
logits. Words that the scene does not show are passed over: they cannot be taken out.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from benchmarks.truth import shortcuts
from benchmarks.truth.cases import PER_CLASS, TEXTS, classify
from benchmarks.truth.evidence import Array
from benchmarks.truth.square import Case
from demo.artefacts import NO_ARTEFACT
from demo.models import TinyClassifier
from demo.pictures import photograph
from demo.scenes import VALUES, Scene, generator
from demo.shortcuts import Shortcut
from demo.words import text_of

SCENES = 5  # of each class


@dataclass(frozen=True)
class Lattice:
    """One explained image: its row, what it shows (texts, one an attribute), and the logit of its predicted
    class with each subset of that, by a tuple of booleans."""

    row: int
    texts: tuple[int, ...]
    logits: dict[tuple[bool, ...], float]


def lattices(case: Case, module: TinyClassifier, seed: int) -> list[Lattice]:
    """Of the first ``SCENES`` explained images of each class, for the class that they are predicted as."""
    pairs = shortcuts.drawn_shortcuts(seed) if case.confounded else ()
    scenes = shortcuts.probe_scenes(pairs, confounded=case.confounded, per_class=PER_CLASS, seed=seed)[::2]
    made = []
    for class_id in range(len(case.head)):
        for row in np.flatnonzero(case.classes == class_id)[:SCENES]:
            made.append(_lattice(scenes[row], int(row), int(case.predicted[row]), module))
    return made


def _lattice(scene: Scene, row: int, class_id: int, module: TinyClassifier) -> Lattice:
    shown = [name for name in VALUES if getattr(scene, name) != NO_ARTEFACT]
    rng = generator("cues", shortcuts.SCENES_SEED, 8, row)
    cues = [Shortcut(scene.shape, name, getattr(scene, name)) for name in shown]
    without = {name: getattr(cue.taken(scene, rng), name) for name, cue in zip(shown, cues, strict=True)}
    subsets = list(product((False, True), repeat=len(shown)))
    pictures = []
    for subset in subsets:
        gone = {name: without[name] for name, there in zip(shown, subset, strict=True) if not there}
        pictures.append(photograph(Scene(**{**scene.__dict__, **gone})))
    with torch.no_grad():
        logits = classify(module, pictures)[1][:, class_id]
    texts = tuple(TEXTS.index(text_of(getattr(scene, name))) for name in shown)
    return Lattice(row, texts, {s: float(one) for s, one in zip(subsets, logits, strict=True)})


def areas(lattice: Lattice, order: Array) -> tuple[float, float, float, float]:
    """Of an ``order`` of places in ``texts``: the mean logit on the way from all to none (deletion) and from
    none to all (insertion), by trapezoids; and the logits with all and with none."""
    count = len(lattice.texts)
    walks = []
    for there in (True, False):
        now = [there] * count
        seen = [lattice.logits[tuple(now)]]
        for place in order:
            now[place] = not there
            seen.append(lattice.logits[tuple(now)])
        walks.append(float(np.trapezoid(seen)) / count)
    return walks[0], walks[1], lattice.logits[(True,) * count], lattice.logits[(False,) * count]


def judge_orders(found: list[Lattice], leanings: dict[str, Array]) -> dict[str, dict[str, float]]:
    """Areas by method, as parts of the way from the logit with nothing (0) to that with all (1), over all
    images together. ``leanings`` (N, T) order the texts of each image; random orders and the best order that
    single removals give come beside them."""
    rng = np.random.default_rng(36)
    ways: dict[str, Callable[[Lattice], list[Array]]] = {
        name: lambda one, told=told: [np.argsort(-told[one.row, list(one.texts)], kind="stable")]
        for name, told in leanings.items()
    }
    ways["random order"] = lambda one: [rng.permutation(len(one.texts)) for _ in range(20)]
    ways["by measured effect"] = lambda one: [np.argsort(-_effects(one), kind="stable")]
    made: dict[str, dict[str, float]] = defaultdict(dict)
    for name, way in ways.items():
        walked = np.array([np.mean([areas(one, order) for order in way(one)], axis=0) for one in found])
        deletion, insertion, whole, none = walked.sum(0)
        made[name]["deletion"] = (deletion - none) / (whole - none)
        made[name]["insertion"] = (insertion - none) / (whole - none)
    return made


def _effects(lattice: Lattice) -> Array:
    """By how much the logit falls when each attribute alone is taken out."""
    count = len(lattice.texts)
    alone = [tuple(place != gone for place in range(count)) for gone in range(count)]
    return np.array([lattice.logits[(True,) * count] - lattice.logits[one] for one in alone])
