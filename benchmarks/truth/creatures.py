"""A creature of parts: beak, wing, crown and tail, each with a form, a colour and a pattern of its own.

In the manner of CUB. A word names a part and one of its attributes ("striped wing"); a class is a combination
of three, of three different parts. Parts do not touch each other, so the mask of each is exact and one can be
changed without another. A plain pattern has no word.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from benchmarks.truth.family import Rule
from demo.backgrounds import BACKGROUNDS
from demo.draw import Array, Distance, paint_object
from demo.scenes import Rendered

CLASSES = 8
PLAIN = "plain"
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
PATTERNS = ("striped", "dotted")
GROUNDS = ("sky", "grass", "sand", "snow")


def _ellipse(wide: float, high: float) -> Distance:
    return lambda x, y: (np.hypot(x / wide, y / high) - 1) * min(wide, high)


def _wedge(x: Array, y: Array) -> Array:
    """A triangle whose tip points to the right."""
    return np.maximum((np.abs(y) - 0.85 * (0.95 - x) / 1.75) * 0.9, -0.8 - x)


def _hook(x: Array, y: Array) -> Array:
    """Three quarters of a ring, bent down at the right."""
    return np.maximum(np.abs(np.hypot(x + 0.15, y - 0.3) - 0.74) - 0.34, np.minimum(-x - 0.25, y - 0.6))


def _leaf(x: Array, y: Array) -> Array:
    """Two arcs that meet in points at the left and the right."""
    return np.hypot(x, np.abs(y) + 0.65) - 1.15


def _spikes(x: Array, y: Array) -> Array:
    """Two teeth that stand side by side."""
    tooth = np.abs(np.mod(x + 0.9, 0.9) - 0.45)
    return np.maximum.reduce(
        np.broadcast_arrays((tooth - 0.28 * (y + 0.95)) * 0.95, y - 0.75, np.abs(x) - 0.9)
    )


def _fork(x: Array, y: Array) -> Array:
    """Two prongs that open to the left."""
    prong = np.abs(np.abs(y) - 0.5 * (0.8 - x) / 1.0 * 0.75) - 0.28
    return np.maximum(prong, np.abs(x) - 0.85)


def _fan(x: Array, y: Array) -> Array:
    """A sector of a disc that opens to the left."""
    return np.maximum(np.hypot(x - 0.8, y) - 1.65, np.abs(y) * 0.8 + (x - 0.8) * 0.6)


FORMS: dict[str, dict[str, Distance]] = {
    "beak": {"pointed": _wedge, "hooked": _hook},
    "wing": {"round": _ellipse(0.85, 0.85), "narrow": _leaf},
    "crown": {"spiky": _spikes, "flat": _ellipse(0.95, 0.55)},
    "tail": {"forked": _fork, "fanned": _fan},
}
PARTS = tuple(FORMS)
PLACES: dict[str, tuple[float, float, float]] = {  # x and y from the middle, radius; before the scale
    "beak": (0.36, -0.17, 0.095),
    "wing": (-0.02, 0.10, 0.14),
    "crown": (0.175, -0.345, 0.1),
    "tail": (-0.36, 0.06, 0.12),
}
BODY = (("body", (-0.01, 0.10, 0.255)), ("head", (0.185, -0.17, 0.105)))
BODY_FORMS = {"body": _ellipse(0.92, 0.68), "head": _ellipse(1.0, 1.0)}
FIELDS = ("form", "colour", "pattern")


@dataclass(frozen=True)
class Part:
    """What one part looks like."""

    form: str
    colour: str
    pattern: str


@dataclass(frozen=True)
class Creature:
    """Its parts in the order of PARTS, and the nuisances (lengths in fractions of the side, angles in
    radians).
    """

    parts: tuple[Part, ...]
    ground: str
    ground_seed: int
    x: float
    y: float
    scale: float
    turn: float
    flipped: bool
    shade: float
    phase: tuple[float, float]

    def part(self, name: str) -> Part:
        """By its name."""
        return self.parts[PARTS.index(name)]


def _texts() -> dict[str, tuple[str, ...]]:
    made = {}
    for part, forms in FORMS.items():
        for name, values in (("form", tuple(forms)), ("colour", COLOURS), ("pattern", PATTERNS)):
            made[f"{part} {name}"] = tuple(f"{value} {part}" for value in values)
    return made


class Creatures:
    """The family."""

    name = "parts"
    classifier_size = 96
    values: Mapping[str, tuple[str, ...]] = _texts()
    kinds: Mapping[str, str] = dict.fromkeys(values, "other")
    distractors: Mapping[str, tuple[str, ...]] = {
        "other": tuple(f"{value} {part}" for part in ("leg", "horn") for value in (*COLOURS[:3], *PATTERNS))
    }
    sentences = (
        "{}",
        "a {}",
        "a photo of a {}.",
        "a picture of a {}",
        "an image with a {}",
        "something with a {}",
    )

    def draw(self, rng: Generator) -> Creature:
        """Attributes are independent and uniform, but half of the parts are plain."""
        parts = tuple(
            Part(
                str(rng.choice([*FORMS[name]])),
                str(rng.choice(COLOURS)),
                str(rng.choice([PLAIN, *PATTERNS], p=[0.5, 0.25, 0.25])),
            )
            for name in PARTS
        )
        return Creature(
            parts,
            str(rng.choice(GROUNDS)),
            int(rng.integers(2**31)),
            x=rng.uniform(0.47, 0.53),
            y=rng.uniform(0.49, 0.55),
            scale=rng.uniform(0.92, 1.04),
            turn=rng.uniform(-0.12, 0.12),
            flipped=bool(rng.random() < 0.5),
            shade=rng.uniform(0.9, 1.05),
            phase=(float(rng.random()), float(rng.random())),
        )

    def render(self, scene: Creature, size: int) -> Rendered:
        """Masks are named by part."""
        canvas = BACKGROUNDS[scene.ground](np.random.default_rng(scene.ground_seed), size)
        if scene.flipped:
            canvas = canvas[:, :, ::-1].copy()
        for name, place in BODY:
            _paint(canvas, scene, BODY_FORMS[name], Part(name, "black", PLAIN), place)
        masks = {
            name: _paint(canvas, scene, FORMS[name][part.form], part, PLACES[name]) > 0
            for name, part in zip(PARTS, scene.parts, strict=True)
        }
        image = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        step = -1 if scene.flipped else 1
        return Rendered(
            image[:, ::step].copy(), {name: mask[:, ::step].copy() for name, mask in masks.items()}
        )

    def shows(self, scene: Creature) -> frozenset[str]:
        """Form, colour and pattern of each part."""
        return frozenset(
            f"{value} {name}"
            for name, part in zip(PARTS, scene.parts, strict=True)
            for value in (part.form, part.colour, part.pattern)
            if value != PLAIN
        )

    def things(self, scene: Creature, text: str) -> tuple[str, ...]:
        """The part that it is about, if it is true."""
        return (text.split()[1],) if text in self.shows(scene) else ()

    def topic(self, text: str) -> str:
        """Its part."""
        return text.split()[1]

    def given(self, scene: Creature, text: str, rng: Generator) -> Creature:
        """The part gets the value."""
        part, field, value = _slot(text)
        return changed(scene, part, field, value)

    def taken(self, scene: Creature, text: str, rng: Generator) -> Creature:
        """The part gets another value of the same attribute, where it has this one."""
        if text not in self.shows(scene):
            return scene
        part, field, value = _slot(text)
        return changed(scene, part, field, str(rng.choice([v for v in _options(part, field) if v != value])))

    def rules(self, rng: Generator) -> tuple[Rule, ...]:
        """Each class has the colour of one part, the pattern of another, the form of a third. Classes come in
        twos that differ in the form alone, so neither form nor colour is enough.
        """
        made: dict[str, list[Rule]] = {}
        while len(made) < CLASSES // 2:
            first, second, third = rng.permutation(PARTS)[:3].tolist()
            colour, pattern = f"{rng.choice(COLOURS)} {first}", f"{rng.choice(PATTERNS)} {second}"
            made[colour] = [Rule("all of", (colour, pattern, f"{form} {third}")) for form in FORMS[third]]
        return tuple(rule for two in made.values() for rule in two)

    def meets(self, scene: Creature, rule: Rule) -> bool:
        """All of its words are true."""
        return set(rule.words) <= self.shows(scene)

    def planted(self, scene: Creature, rule: Rule, rng: Generator) -> Creature:
        """All of its words become true."""
        for word in rule.words:
            scene = self.given(scene, word, rng)
        return scene


def changed(scene: Creature, part: str, field: str, value: str) -> Creature:
    """The same creature with one attribute of one part set to a value."""
    parts = list(scene.parts)
    parts[PARTS.index(part)] = replace(scene.part(part), **{field: value})
    return replace(scene, parts=tuple(parts))


def _slot(text: str) -> tuple[str, str, str]:
    value, part = text.split()
    return part, next(field for field in FIELDS if value in _options(part, field)), value


def _options(part: str, field: str) -> tuple[str, ...]:
    return {"form": tuple(FORMS[part]), "colour": COLOURS, "pattern": (PLAIN, *PATTERNS)}[field]


def _paint(
    canvas: Array, scene: Creature, form: Distance, part: Part, place: tuple[float, float, float]
) -> Array:
    x, y, radius = (scene.scale * value for value in place)
    c, s = math.cos(scene.turn), math.sin(scene.turn)
    return paint_object(
        canvas,
        form,
        part.colour,
        part.pattern,
        centre=(scene.x + x * c - y * s, scene.y + x * s + y * c),
        radius=radius,
        angle=scene.turn,
        shade=scene.shade,
        period=0.05,
        texture_angle=0.7,
        phase=scene.phase,
    )
