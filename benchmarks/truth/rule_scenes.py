"""Scenes of three to six objects, each with a shape, colour, texture and size; a class is a rule on them.

In the manner of CLEVR, drawn by the demo's own code. Objects stand in the cells of a 3 x 3 grid and never
touch, so the mask of each is exact and one can be changed without another. A word is true of a scene if it
is true of some object; a plain texture and a medium size have no word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from benchmarks.truth.family import Rule
from demo.backgrounds import smooth_noise
from demo.draw import COLOURS, SHAPES, paint_object
from demo.scenes import Rendered
from demo.words import DISTRACTORS

PLAIN, MEDIUM = "plain", "medium"
TEXTURES = ("striped", "dotted", "checkered")
SIZES = {"large": 0.16, MEDIUM: 0.125, "small": 0.085}  # radii, in fractions of the side
SHARES = {"texture": (0.55, 0.15, 0.15, 0.15), "size": (0.13, 0.74, 0.13)}
OPTIONS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(COLOURS),
    "texture": (PLAIN, *TEXTURES),
    "size": tuple(SIZES),
}
FORMS = ("one object", "one object", "two objects", "two objects", "twice", "twice")


@dataclass(frozen=True)
class Item:
    """One object; lengths in fractions of the side, angles in radians."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    angle: float
    shade: float
    period: float
    texture_angle: float
    phase: tuple[float, float]

    @property
    def said(self) -> tuple[str, ...]:
        """Its attributes that have a word."""
        values = (self.shape, self.colour, self.texture, self.size)
        return tuple(value for value in values if value not in (PLAIN, MEDIUM))


@dataclass(frozen=True)
class RuleScene:
    """Objects on a grey ground."""

    items: tuple[Item, ...]
    ground: float
    ground_seed: int


class RuleScenes:
    """The family."""

    name = "rules"
    classifier_size = 96
    values: Mapping[str, tuple[str, ...]] = {
        "shape": OPTIONS["shape"],
        "colour": OPTIONS["colour"],
        "texture": TEXTURES,
        "size": ("large", "small"),
    }
    kinds: Mapping[str, str] = {"shape": "object", "colour": "colour", "texture": "texture", "size": "other"}
    distractors: Mapping[str, tuple[str, ...]] = DISTRACTORS
    sentences = (
        "{}",
        "a {}",
        "a {} thing",
        "a {} object",
        "something {}",
        "a photo of a {}.",
        "a picture with a {}",
        "an image with a {}",
    )

    def draw(self, rng: Generator) -> RuleScene:
        """Attributes are independent; most objects are plain and of medium size."""
        cells = rng.permutation(9)[: rng.integers(3, 7)]
        items = tuple(_item(int(cell), rng) for cell in cells)
        return RuleScene(items, rng.uniform(0.55, 0.8), int(rng.integers(2**31)))

    def render(self, scene: RuleScene, size: int) -> Rendered:
        """Masks are named "0", "1", ... by object."""
        noise = smooth_noise(np.random.default_rng(scene.ground_seed), 6, 6, size)
        canvas = np.repeat((scene.ground + 0.12 * (noise - 0.5))[None], 3, axis=0).astype(np.float32)
        masks = {}
        for number, item in enumerate(scene.items):
            share = paint_object(
                canvas,
                SHAPES[item.shape],
                item.colour,
                item.texture,
                centre=(item.x, item.y),
                radius=SIZES[item.size],
                angle=item.angle,
                shade=item.shade,
                period=item.period,
                texture_angle=item.texture_angle,
                phase=item.phase,
            )
            masks[str(number)] = share > 0
        image = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0).copy()
        return Rendered(image, masks)

    def shows(self, scene: RuleScene) -> frozenset[str]:
        """What is true of some object."""
        return frozenset(word for item in scene.items for word in item.said)

    def things(self, scene: RuleScene, text: str) -> tuple[str, ...]:
        """The objects that it is true of."""
        return tuple(str(place) for place, item in enumerate(scene.items) if text in item.said)

    def topic(self, text: str) -> str:
        """Its attribute."""
        return _attribute(text)

    def given(self, scene: RuleScene, text: str, rng: Generator) -> RuleScene:
        """One object, any, gets the value."""
        if text in self.shows(scene):
            return scene
        return _changed(scene, int(rng.integers(len(scene.items))), _attribute(text), text)

    def taken(self, scene: RuleScene, text: str, rng: Generator) -> RuleScene:
        """Each object that has the value gets another."""
        attribute = _attribute(text)
        others = [value for value in OPTIONS[attribute] if value != text]
        for place, item in enumerate(scene.items):
            if text in item.said:
                scene = _changed(scene, place, attribute, str(rng.choice(others)))
        return scene

    def rules(self, rng: Generator) -> tuple[Rule, ...]:
        """Six: "one object" has both values, "two objects" have one each, "twice" is one value on two.

        No value is in two rules. Of the ten values two are sizes and at least two are textures.
        """
        textures, sizes = rng.permutation(TEXTURES).tolist(), rng.permutation(["large", "small"]).tolist()
        shapes, colours = (rng.permutation(OPTIONS[name]).tolist() for name in ("shape", "colour"))
        words = [
            (colours[0], shapes[0]),
            (sizes[0], shapes[1]),
            (colours[1], shapes[2]),
            (textures[0], colours[2]),
            (textures[1],),
            ((sizes[1], colours[3], shapes[3])[rng.integers(3)],),
        ]
        return tuple(Rule(form, tuple(one)) for form, one in zip(FORMS, words, strict=True))

    def meets(self, scene: RuleScene, rule: Rule) -> bool:
        """For "two objects" the two may not be one."""
        has = [[word in item.said for item in scene.items] for word in rule.words]
        if rule.form == "one object":
            return any(all(of_item) for of_item in zip(*has, strict=True))
        if rule.form == "twice":
            return sum(has[0]) >= 2
        return any(a and b for i, a in enumerate(has[0]) for j, b in enumerate(has[1]) if i != j)

    def planted(self, scene: RuleScene, rule: Rule, rng: Generator) -> RuleScene:
        """Objects are changed until the rule is met."""
        first, second = (int(place) for place in rng.permutation(len(scene.items))[:2])
        places = {"one object": (first, first), "two objects": (first, second)}.get(
            rule.form, (first, second)
        )
        words = rule.words * 2 if rule.form == "twice" else rule.words
        for place, word in zip(places, words, strict=True):
            scene = _changed(scene, place, _attribute(word), word)
        return scene


def _attribute(text: str) -> str:
    return next(name for name, options in OPTIONS.items() if text in options)


def _changed(scene: RuleScene, place: int, attribute: str, value: str) -> RuleScene:
    items = list(scene.items)
    items[place] = replace(items[place], **{attribute: value})
    return replace(scene, items=tuple(items))


def _item(cell: int, rng: Generator) -> Item:
    drawn = {name: str(rng.choice(options, p=SHARES.get(name))) for name, options in OPTIONS.items()}
    return Item(
        **drawn,
        x=(cell % 3 + 0.5) / 3 + rng.uniform(-0.008, 0.008),
        y=(cell // 3 + 0.5) / 3 + rng.uniform(-0.008, 0.008),
        angle=rng.uniform(-0.3, 0.3),
        shade=rng.uniform(0.88, 1.06),
        period=rng.uniform(0.05, 0.065),
        texture_angle=rng.uniform(-0.5, 0.5),
        phase=(float(rng.random()), float(rng.random())),
    )
