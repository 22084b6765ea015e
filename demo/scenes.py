"""Small pictures whose every attribute, and its place, is known.

A `Scene` holds all that decides a picture, the nuisances too, so `dataclasses.replace(scene,
artefact="none")` is the same picture with one thing changed: what the change does to a classifier is then
its causal effect.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from demo.artefacts import ARTEFACTS, NO_ARTEFACT
from demo.backgrounds import BACKGROUNDS
from demo.draw import COLOURS, SHAPES, TEXTURES, paint_object

SIZE = 128  # the side of a picture in pixels, unless told otherwise

VALUES: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(COLOURS),
    "texture": tuple(TEXTURES),
    "background": tuple(BACKGROUNDS),
    "artefact": (*ARTEFACTS, NO_ARTEFACT),
}
"""The attributes of a scene and their values."""

PLACE = {
    "shape": "object",
    "colour": "object",
    "texture": "object",
    "background": "background",
    "artefact": "artefact",
}
"""Which of a picture's masks shows each attribute."""

USES = ("training", "held-out", "probe", "flips", "cues")
"""What scenes are drawn for: what a model was trained on is never what it is measured or explained by."""

_NO_ARTEFACT_SHARE = 0.4


@dataclass(frozen=True)
class Scene:
    """Five attributes in words, and the nuisances (lengths in fractions of the side, angles in radians)."""

    shape: str
    colour: str
    texture: str
    background: str
    artefact: str
    x: float
    y: float
    radius: float
    angle: float
    shade: float
    period: float
    texture_angle: float
    phase: tuple[float, float]
    background_seed: int
    artefact_seed: int


@dataclass(frozen=True)
class Rendered:
    """A picture (S, S, 3) uint8 and its masks (S, S): where object, background, artefact have weight.

    Masks of neighbours overlap where an edge or a see-through watermark mixes them.
    """

    image: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]


def sample_scene(rng: Generator, **fixed: str) -> Scene:
    """A scene with independent, uniform attributes (no artefact in 40 %), some of which may be given.

    The number of draws does not depend on what is given, so the same generator gives the same nuisances.
    Raises ValueError for an attribute or a value that there is not.
    """
    for name, value in fixed.items():
        if value not in VALUES.get(name, ()):
            raise ValueError(f"no {name} {value!r}: {name} is one of {VALUES.get(name, tuple(VALUES))}")
    drawn = {name: str(rng.choice(values)) for name, values in VALUES.items() if name != "artefact"}
    share = (1 - _NO_ARTEFACT_SHARE) / len(ARTEFACTS)
    drawn["artefact"] = str(rng.choice(VALUES["artefact"], p=[share] * len(ARTEFACTS) + [_NO_ARTEFACT_SHARE]))
    radius = rng.uniform(0.19, 0.29)
    return Scene(
        **{**drawn, **fixed},
        x=rng.uniform(radius + 0.08, 0.92 - radius),
        y=rng.uniform(radius + 0.08, 0.92 - radius),
        radius=radius,
        angle=rng.uniform(-0.3, 0.3),
        shade=rng.uniform(0.88, 1.06),
        period=rng.uniform(0.068, 0.092),
        texture_angle=rng.uniform(-0.5, 0.5),
        phase=(rng.random(), rng.random()),
        background_seed=int(rng.integers(2**31)),
        artefact_seed=int(rng.integers(2**31)),
    )


def scenes(use: str, seed: int, count: int, **fixed: str) -> Iterator[Scene]:
    """`count` scenes for one of the USES; the i-th depends on the use, the seed and i alone."""
    for i in range(count):
        yield sample_scene(generator(use, seed, i), **fixed)


def generator(use: str, *key: int) -> Generator:
    """The random numbers of one of the USES under a key: no two uses share them, whatever their seeds."""
    return np.random.default_rng([USES.index(use), *key])


def render(scene: Scene, size: int = SIZE) -> Rendered:
    """The picture of a scene, and where its parts are."""
    canvas = BACKGROUNDS[scene.background](np.random.default_rng(scene.background_seed), size)
    item = paint_object(
        canvas,
        SHAPES[scene.shape],
        scene.colour,
        scene.texture,
        centre=(scene.x, scene.y),
        radius=scene.radius,
        angle=scene.angle,
        shade=scene.shade,
        period=scene.period,
        texture_angle=scene.texture_angle,
        phase=scene.phase,
    )
    overlay = np.zeros((size, size), dtype=np.float32)
    if scene.artefact != NO_ARTEFACT:
        colour, overlay = ARTEFACTS[scene.artefact](np.random.default_rng(scene.artefact_seed), size)
        canvas = canvas * (1 - overlay) + colour * overlay
    image = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0).copy()
    seen = overlay < 1
    return Rendered(
        image, {"object": (item > 0) & seen, "background": (item < 1) & seen, "artefact": overlay > 0}
    )
