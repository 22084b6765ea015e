"""The true effect of a cue in points of accuracy, like the one that a finding gives, and a surer flip rate.

``shortcuts.truth`` covers all pairs of a class and a value by 24 scenes each, and a flip rate is of those
alone that the classifier gets right with the cue: of some pairs three. Here the pairs that are asked for are
rendered with and without the cue until SURE scenes were right with it, or MOST were drawn.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.truth.shortcuts import SCENES_SEED, World, cache, classifier
from demo.artefacts import NO_ARTEFACT
from demo.measure import TrainedClassifier
from demo.pictures import photograph
from demo.scenes import VALUES, generator, scenes
from demo.shortcuts import Shortcut

SURE, LEAST, MOST, AT_ONCE = 24, 96, 144, 48
CUES = {
    cue.concept: (name, value)
    for name in ("background", "artefact", "colour", "texture")
    for value in VALUES[name]
    if value != NO_ARTEFACT
    for cue in [Shortcut("", name, value)]
}


@dataclass(frozen=True)
class CueEffect:
    """Of ``n`` scenes of the class, accuracy with the cue minus without; of the ``n_right`` that are right
    with it, the share that is not any more without it."""

    class_name: str
    concept: str
    effect: float
    n: int
    flip_rate: float
    n_right: int


def cue_effects(world: World, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], CueEffect]:
    """The effects of pairs (class, concept); pairs that are no attribute of a scene are left out. Each is
    measured once and kept."""
    wanted = [(name, concept) for name, concept in pairs if concept in CUES]
    path = _kept(world)
    known = [CueEffect(**one) for one in json.loads(path.read_text())] if path.exists() else []
    found = {(one.class_name, one.concept): one for one in known}
    missing = [pair for pair in dict.fromkeys(wanted) if pair not in found]
    if missing:
        asked = classifier(world)
        found |= {(name, concept): measure(asked, world.seed, name, concept) for name, concept in missing}
        photograph.cache_clear()
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps([asdict(one) for one in found.values()]))
        unfinished.replace(path)
    return {pair: found[pair] for pair in wanted}


def _kept(world: World) -> Path:
    shaped = sha256(json.dumps([world.key, SURE, LEAST, MOST, AT_ONCE]).encode()).hexdigest()[:16]
    return cache() / f"effects-{shaped}.json"


def measure(asked: TrainedClassifier, seed: int, class_name: str, concept: str) -> CueEffect:
    """By rendering the same scenes with and without the cue, until enough are right with it."""
    attribute, value = CUES[concept]
    cue, class_id = Shortcut(class_name, attribute, value), VALUES["shape"].index(class_name)
    rng = generator("cues", SCENES_SEED + seed, 8, class_id, list(CUES).index(concept))
    with_, without = [np.zeros(0, np.bool_)], [np.zeros(0, np.bool_)]
    drawn = scenes("flips", SCENES_SEED + seed, MOST, shape=class_name)
    while several := list(islice(drawn, AT_ONCE)):
        taken = [cue.taken(one, rng) if cue.shown(one) else one for one in several]
        with_.append(asked.predict([cue.given(one) for one in several]) == class_id)
        without.append(asked.predict(taken) == class_id)
        right = np.concatenate(with_)
        if len(right) >= LEAST and right.sum() >= SURE:
            break
    right, still = np.concatenate(with_), np.concatenate(without)
    lost = right & ~still
    return CueEffect(
        class_name,
        concept,
        float(right.mean() - still.mean()),
        len(right),
        float(lost.sum() / max(1, right.sum())),
        int(right.sum()),
    )
