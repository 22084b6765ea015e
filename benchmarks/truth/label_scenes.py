"""The demo's scenes under other labels than the shape: texture, size, and pairs of a colour and a texture.

So some classifiers have channels that code texture and size. The encoder is the demo's, whose captions never
told a size: the gate has to find that out. Cues are planted as in the family of shortcuts.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from benchmarks.truth import shortcuts
from benchmarks.truth.family import Rule
from benchmarks.truth.family_worlds import FamilyWorld
from demo.artefacts import NO_ARTEFACT
from demo.models import CLASSIFIER_SIZE, CLIP_FOLDER
from demo.scenes import PLACE, VALUES, Rendered, Scene, render, sample_scene
from demo.words import DISTRACTORS, KINDS

RADII = {"small": (0.19, 0.215), "medium": (0.225, 0.255), "large": (0.265, 0.29)}
"""What counts as which size; between them a scene has no size at all."""

LABELS = ("texture", "size", "pair")


class LabelScenes:
    """The family; ``label`` is one of the LABELS."""

    classifier_size = CLASSIFIER_SIZE
    values: Mapping[str, tuple[str, ...]] = {
        **{name: tuple(v for v in options if v != NO_ARTEFACT) for name, options in VALUES.items()},
        "size": ("small", "large"),
    }
    kinds: Mapping[str, str] = {**KINDS, "size": "other"}
    distractors: Mapping[str, tuple[str, ...]] = DISTRACTORS
    sentences = ("{}",)
    encoder = CLIP_FOLDER
    trunk = staticmethod(shortcuts.trunk)

    def __init__(self, label: str) -> None:
        self.label = label
        self.name = f"labels of {label}"

    def draw(self, rng: Generator) -> Scene:
        """Independent attributes, and one of three sizes."""
        scene = sample_scene(rng)
        return _sized(scene, str(rng.choice([*RADII])), rng)

    def render(self, scene: Scene, size: int) -> Rendered:
        """Masks are the demo's: object, background, artefact."""
        return render(scene, size)

    def shows(self, scene: Scene) -> frozenset[str]:
        """The values of its attributes; medium has no word."""
        said = {getattr(scene, name) for name in VALUES} - {NO_ARTEFACT}
        return frozenset(said | ({_size(scene)} & set(self.values["size"])))

    def topic(self, text: str) -> str:
        """Its attribute."""
        return _attribute(text)

    def things(self, scene: Scene, text: str) -> tuple[str, ...]:
        """The mask that shows it, if it is true."""
        return (PLACE.get(_attribute(text), "object"),) if text in self.shows(scene) else ()

    def given(self, scene: Scene, text: str, rng: Generator) -> Scene:
        """With the value; of a size as far from the next as it can be drawn."""
        attribute = _attribute(text)
        if text in self.shows(scene):
            return scene
        return _sized(scene, text, rng) if attribute == "size" else _set(scene, attribute, text)

    def taken(self, scene: Scene, text: str, rng: Generator) -> Scene:
        """With another value: no artefact, any other colour, another size."""
        if text not in self.shows(scene):
            return scene
        attribute = _attribute(text)
        if attribute == "artefact":
            return _set(scene, attribute, NO_ARTEFACT)
        options = tuple(RADII) if attribute == "size" else VALUES[attribute]
        other = str(rng.choice([value for value in options if value != text]))
        return _sized(scene, other, rng) if attribute == "size" else _set(scene, attribute, other)

    def rules(self, rng: Generator) -> tuple[Rule, ...]:
        """Four textures, three sizes, or six pairs: three colours, each with two textures."""
        if self.label == "texture":
            return tuple(Rule("texture", (value,)) for value in VALUES["texture"])
        if self.label == "size":
            return (Rule("size", ("small",)), Rule("no size", ()), Rule("size", ("large",)))
        colours, textures = (rng.permutation(VALUES[name]).tolist() for name in ("colour", "texture"))
        pairs = [(colours[k // 2], textures[k % 2]) for k in range(6)]
        return tuple(Rule("pair", pair) for pair in pairs)

    def meets(self, scene: Scene, rule: Rule) -> bool:
        """All of its words are true; for "no size" neither of the two is."""
        shown = self.shows(scene)
        if rule.form == "no size":
            return not shown & set(self.values["size"])
        return set(rule.words) <= shown

    def planted(self, scene: Scene, rule: Rule, rng: Generator) -> Scene:
        """Changed so that it meets the rule."""
        if rule.form == "no size":
            return _sized(scene, "medium", rng)
        for word in rule.words:
            scene = self.given(scene, word, rng)
        return scene


def label_world(label: str, seed: int) -> FamilyWorld:
    """A classifier of a label, with a background or an artefact planted in one of its classes."""
    family = LabelScenes(label)
    rng = np.random.default_rng([47, LABELS.index(label), seed])
    rules = family.rules(rng)
    name = ("background", "artefact")[rng.integers(2)]
    cue = int(rng.integers(len(rules))), str(rng.choice(family.values[name]))
    return FamilyWorld(family, seed, rules, (cue,))


def _attribute(text: str) -> str:
    return next(name for name, options in LabelScenes.values.items() if text in options)


def _size(scene: Scene) -> str:
    return next((name for name, (low, high) in RADII.items() if low <= scene.radius <= high), "")


def _set(scene: Scene, attribute: str, value: str) -> Scene:
    return replace(scene, **{attribute: value})


def _sized(scene: Scene, size: str, rng: Generator) -> Scene:
    return replace(scene, radius=rng.uniform(*RADII[size]))
