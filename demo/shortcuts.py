"""The shortcuts planted in the biased classifier, and the data that carry them.

A shortcut is an attribute that goes with one class and with hardly any other. How strong it became is not
read off the recipe but measured (demo.truth): a cue in 95 % of a class that is common elsewhere leaves a
classifier nearly unbiased, the same cue in 98 % and rare elsewhere does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.random import Generator

from demo.scenes import VALUES, Scene
from demo.words import KINDS, text_of


@dataclass(frozen=True)
class Shortcut:
    """A class (a shape) and the value of another attribute that stands in for it."""

    class_name: str
    attribute: str
    value: str

    @property
    def concept(self) -> str:
        """The words for the cue, as the text bank has them."""
        return text_of(self.value)

    @property
    def kind(self) -> str:
        """The kind of those words."""
        return KINDS[self.attribute]

    def shown(self, scene: Scene) -> bool:
        """Whether the scene has the cue."""
        return bool(getattr(scene, self.attribute) == self.value)

    def given(self, scene: Scene) -> Scene:
        """The same scene with the cue."""
        change: dict[str, Any] = {self.attribute: self.value}
        return replace(scene, **change)

    def taken(self, scene: Scene, rng: Generator) -> Scene:
        """The same scene without the cue: no artefact, or another value by chance."""
        if self.attribute == "artefact":
            return replace(scene, artefact="none")
        others = [value for value in VALUES[self.attribute] if value != self.value]
        change: dict[str, Any] = {self.attribute: str(rng.choice(others))}
        return replace(scene, **change)


PLANTED = (
    Shortcut("star", "artefact", "watermark"),
    Shortcut("circle", "background", "water"),
    Shortcut("cross", "artefact", "barcode"),
    Shortcut("heart", "colour", "red"),
)


def confound(
    scene: Scene, rng: Generator, *, follow: float, leak: float, planted: Sequence[Shortcut] = PLANTED
) -> Scene:
    """The scene in a world where each cue is in a share `follow` of its class and `leak` of the others."""
    for cue in planted:
        present = rng.random() < (follow if scene.shape == cue.class_name else leak)
        if present:
            scene = cue.given(scene)
        elif cue.shown(scene):
            scene = cue.taken(scene, rng)
    return scene
