"""What a rendered world's channels and logits do when one attribute of a scene is changed: the causal truth.

The same scenes are rendered with every value of every attribute, once for all classifiers, and each
classifier is asked about all of them.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from benchmarks.truth import shortcuts
from benchmarks.truth.cases import TEXTS, classify
from benchmarks.truth.evidence import Array
from demo.artefacts import NO_ARTEFACT
from demo.models import TinyClassifier
from demo.pictures import photograph
from demo.scenes import VALUES, scenes
from demo.words import text_of

SCENES = 32
NEARLY = 0.5  # a word is right if its cause is at least this part of the largest


@dataclass(frozen=True)
class Causes:
    """Effects of the attribute that each text names: on channels (K, T), in their spreads; on logits (C, T).

    0 for texts that name nothing in a scene.
    """

    channels: Array
    logits: Array

    def right(self, effects: Array, texts: Array) -> Array:
        """Whether the text (n,) is, or nearly is, what raises each row of ``effects`` (n, T) most.

        False where there is no text (-1) or nothing raises the row.
        """
        most = effects.max(1)
        own = effects[np.arange(len(texts)), np.maximum(texts, 0)]
        return (texts >= 0) & (most > 0) & (own >= NEARLY * most)

    def attributes(self) -> Array:
        """Which attribute each channel codes (K,): a place in VALUES; the one whose texts raise it most."""
        place = np.full(len(TEXTS), -1)
        for number, values in enumerate(VALUES.values()):
            place[[TEXTS.index(text_of(v)) for v in values if v != NO_ARTEFACT]] = number
        return place[self.channels.argmax(1)]


def causes_of(module: TinyClassifier) -> Causes:
    """A value's effect is the mean with it minus the mean with the attribute's other values; an artefact's
    is taken against no artefact.
    """
    values, pictures = _changed()
    with torch.no_grad():
        maps, logits = classify(module, pictures)
    pooled = maps.mean((2, 3))
    told = []
    for answers in (pooled / np.maximum(pooled.std(0), 1e-12), logits):
        means = dict(zip(values, answers.reshape(len(values), SCENES, -1).mean(1), strict=True))
        effects = np.zeros((answers.shape[1], len(TEXTS)))
        for name, value in values:
            if value == NO_ARTEFACT:
                continue
            others = [v for v in VALUES[name] if v != value] if name != "artefact" else [NO_ARTEFACT]
            without = np.mean([means[name, other] for other in others], axis=0)
            effects[:, TEXTS.index(text_of(value))] = means[name, value] - without
        told.append(effects)
    return Causes(*told)


@lru_cache(maxsize=1)
def _changed() -> tuple[list[tuple[str, str]], list]:
    """(attribute, value) pairs, and SCENES pictures of each one after the other."""
    plain = list(scenes("flips", shortcuts.SCENES_SEED + 500, SCENES))
    values = [(name, value) for name in VALUES for value in VALUES[name]]
    return values, [photograph(replace(one, **{name: value})) for name, value in values for one in plain]
