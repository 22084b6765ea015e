"""What a family of worlds is: scenes that can be drawn again with one thing changed, and words for them.

A family gives everything that the rest needs to train an encoder and classifiers, to measure causal effects
and to judge words, and nothing here knows whether a scene holds objects or a creature.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from PIL import Image

from benchmarks.truth.evidence import Array
from demo.pictures import jpeg
from demo.scenes import Rendered

Scene = Any
"""Whatever the family draws: frozen and hashable, with all its nuisances."""


@dataclass(frozen=True)
class Rule:
    """A class: what its scenes have to show. ``form`` says how, ``words`` are the texts of the bank it is
    about.
    """

    form: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the class."""
        return f"{self.form}: {' + '.join(self.words)}"


class Family(Protocol):
    """Scenes and their words. ``values`` are the texts and ``kinds`` the kinds of texts, by attribute;
    ``distractors`` by kind fit no scene. Classifiers see pictures of ``classifier_size`` pixels a side.
    """

    name: str
    classifier_size: int
    values: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, str]
    distractors: Mapping[str, tuple[str, ...]]
    sentences: tuple[str, ...]

    def draw(self, rng: Generator) -> Scene:
        """A scene with independent attributes."""

    def render(self, scene: Scene, size: int) -> Rendered:
        """Its picture, and a mask for each thing on it."""

    def shows(self, scene: Scene) -> frozenset[str]:
        """The texts that are true of it."""

    def things(self, scene: Scene, text: str) -> tuple[str, ...]:
        """Which of its masks show the text."""

    def topic(self, text: str) -> str:
        """What the text is about, for groups of channels."""

    def given(self, scene: Scene, text: str, rng: Generator) -> Scene:
        """The same with one thing changed so that the text is true; as it is, where it was true before."""

    def taken(self, scene: Scene, text: str, rng: Generator) -> Scene:
        """The same where the text is not true any more, and nothing else has changed."""

    def rules(self, rng: Generator) -> tuple[Rule, ...]:
        """The classes of one world."""

    def meets(self, scene: Scene, rule: Rule) -> bool:
        """Whether it is of the class."""

    def planted(self, scene: Scene, rule: Rule, rng: Generator) -> Scene:
        """The scene changed so that it meets the rule."""


def bank(family: Family) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts (T,) and their kinds: those that can be true first, distractors last."""
    known = [(text, family.kinds[name]) for name, texts in family.values.items() for text in texts]
    known += [(text, kind) for kind, texts in family.distractors.items() for text in texts]
    texts, kinds = zip(*known, strict=True)
    return texts, kinds


def words_of(family: Family) -> tuple[str, ...]:
    """The texts (W,) that can be true, in the order of the bank."""
    return tuple(text for texts in family.values.values() for text in texts)


def attribute_of(family: Family) -> dict[str, str]:
    """Which attribute each text is a value of."""
    return {text: name for name, texts in family.values.items() for text in texts}


def labels_of(family: Family, scenes: Sequence[Scene]) -> Array:
    """(N, T) bool: which texts of the bank are true."""
    texts, _ = bank(family)
    column = {text: place for place, text in enumerate(texts)}
    made = np.zeros((len(scenes), len(texts)), bool)
    for row, scene in enumerate(scenes):
        made[row, [column[text] for text in family.shows(scene)]] = True
    return made


def drawn_of(family: Family, rules: tuple[Rule, ...], class_id: int, rng: Generator) -> Scene:
    """A scene of one class and of no other."""
    for _ in range(1000):
        scene = family.planted(family.draw(rng), rules[class_id], rng)
        if [family.meets(scene, rule) for rule in rules] == [k == class_id for k in range(len(rules))]:
            return scene
    raise ValueError(f"no scene of {rules[class_id].name} was found that meets no other rule")


def pixels(family: Family, scenes: Sequence[Scene], size: int) -> Array:
    """(N, size, size, 3) uint8: rendered, compressed and decoded again, as files are."""
    made = np.empty((len(scenes), size, size, 3), np.uint8)
    for row, scene in enumerate(scenes):
        made[row] = decoded(family.render(scene, size).image)
    return made


def decoded(image: Array) -> Array:
    """The picture after a JPEG file."""
    return np.asarray(Image.open(io.BytesIO(jpeg(image))).convert("RGB"))
