"""T1, the family of shortcuts: classifiers of the demo's scenes, each with its own planted cues or with none.

What is planted is drawn by a seed; what became of it is measured: the same scene is rendered with and
without the cue, and the classifier is asked about both. Trained weights and measured truths are kept in a
cache outside of the repository, under a key made of everything that shaped them.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision import transforms

from demo.artefacts import NO_ARTEFACT
from demo.measure import TrainedClassifier
from demo.models import CLASSIFIER_SIZE, WEIGHTS, tiny_classifier
from demo.pictures import photograph, picture_set
from demo.probe import write_pictures
from demo.scenes import VALUES, Scene, generator, scenes
from demo.shortcuts import Shortcut, confound
from demo.train_classifier import train_classifier

TRUNK_SCENES, TRUNK_EPOCHS = 20_000, 3
SCENES, EPOCHS, RATE = 8_000, 3, 1e-3
RECIPE = 3  # part of every cache key: raise it when what is made changes
LEAK = 0.01
PROBE_FOLLOW, PROBE_LEAK = 0.95, 0.02
SCENES_SEED = 7000  # away from what the demo's models were trained on


@dataclass(frozen=True)
class World:
    """What one classifier was trained on: cues, each in a share ``follow`` of its class; without cues it is
    clean.
    """

    seed: int
    planted: tuple[Shortcut, ...]
    follow: float = 1.0

    @property
    def key(self) -> str:
        """A name for caches."""
        parts = [RECIPE, SCENES, EPOCHS, LEAK, self.seed, self.follow, [asdict(one) for one in self.planted]]
        return sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Effect:
    """What an attribute does to the logit of a class, of scenes rendered with and without it.

    ``flip_rate``: of ``n`` scenes predicted as the class with it, the share that is not any more without it.
    ``logit_change``: by how much it raises the class's logit, on the mean over scenes.
    """

    class_name: str
    concept: str
    kind: str
    planted: bool
    flip_rate: float
    logit_change: float
    n: int


def drawn_shortcuts(seed: int) -> tuple[Shortcut, ...]:
    """Three to five cues of different classes, no value twice."""
    rng = np.random.default_rng([31, seed])
    classes = rng.permutation(VALUES["shape"])[: rng.integers(3, 6)]
    values = [
        (name, value)
        for name in ("background", "artefact", "colour", "texture")
        for value in VALUES[name]
        if value != NO_ARTEFACT
    ]
    chosen = rng.permutation(len(values))
    return tuple(Shortcut(str(one), *values[at]) for one, at in zip(classes, chosen, strict=False))


def biased_world(seed: int) -> World:
    """Every fourth world's cues follow their classes in 60 to 95 %, the others' in 95 to 100 %."""
    rng = np.random.default_rng([32, seed])
    follow = rng.uniform(0.6, 0.95) if seed % 4 == 3 else rng.uniform(0.95, 1.0)
    return World(seed, drawn_shortcuts(seed), round(float(follow), 3))


def clean_world(seed: int) -> World:
    """Without cues."""
    return World(seed, ())


def trunk() -> Path:
    """The network that biased classifiers start from: it knows something of every attribute of a scene,
    none of them together with another, and not much of shapes. (Who knows shapes well learns no shortcut
    from pictures on which shapes are enough: started from the demo's clean classifier, cues flipped a
    quarter.)
    """
    path = cache() / f"trunk-{RECIPE}.safetensors"
    if not path.exists():
        drawn = scenes("training", SCENES_SEED - 1, TRUNK_SCENES)
        pictures = picture_set(drawn, TRUNK_SCENES, CLASSIFIER_SIZE)
        unfinished = path.with_suffix(f".{os.getpid()}.safetensors")
        train_classifier(pictures, unfinished, epochs=TRUNK_EPOCHS, seed=0, attributes=tuple(VALUES))
        unfinished.replace(path)
    return path


def weights(world: World) -> Path:
    """The classifier of a world, trained once."""
    path = cache() / f"classifier-{world.key}.safetensors"
    if not path.exists():
        drawn = scenes("training", SCENES_SEED + world.seed, SCENES)
        if world.planted:
            rng = generator("cues", SCENES_SEED + world.seed, 5)
            plant = partial(confound, rng=rng, follow=world.follow, leak=LEAK, planted=world.planted)
            drawn = map(plant, drawn)
        pictures = picture_set(drawn, SCENES, CLASSIFIER_SIZE)
        unfinished = path.with_suffix(f".{os.getpid()}.safetensors")
        start = trunk() if world.planted else WEIGHTS / "clean.safetensors"
        train_classifier(pictures, unfinished, epochs=EPOCHS, seed=world.seed, rate=RATE, start=start)
        unfinished.replace(path)
    return path


def truth(world: World, *, pairs: tuple[Shortcut, ...] | None = None) -> list[Effect]:
    """The effects of every value of every other attribute on every class; those of ``pairs`` count as planted
    (by default the world's own).
    """
    pairs = world.planted if pairs is None else pairs
    path = cache() / f"truth-{world.key}.json"
    if not path.exists():
        measured = [asdict(one) for one in _effects(classifier(world), world.seed)]
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(measured))
        unfinished.replace(path)
    named = {(pair.class_name, pair.concept) for pair in pairs}
    effects = (Effect(**one) for one in json.loads(path.read_text()))
    return [Effect(**{**asdict(one), "planted": (one.class_name, one.concept) in named}) for one in effects]


def _effects(asked: TrainedClassifier, seed: int, count: int = 24) -> Iterator[Effect]:
    for class_id, shape in enumerate(VALUES["shape"]):
        plain = list(scenes("flips", SCENES_SEED + seed, count, shape=shape))
        for attribute in ("background", "artefact", "colour", "texture"):
            for value in VALUES[attribute]:
                if value == NO_ARTEFACT:
                    continue
                cue = Shortcut(shape, attribute, value)
                rng = generator("cues", SCENES_SEED + seed, 6, class_id)
                without = [cue.taken(one, rng) if cue.shown(one) else one for one in plain]
                before = asked.logits([cue.given(one) for one in plain])
                after = asked.logits(without)
                right = before.argmax(1) == class_id
                lost = after.argmax(1)[right] != class_id
                yield Effect(
                    shape,
                    cue.concept,
                    cue.kind,
                    False,
                    float(lost.mean()) if right.any() else 0.0,
                    float((before - after)[:, class_id].mean()),
                    int(right.sum()),
                )


@lru_cache(maxsize=8)
def probe_scenes(
    pairs: tuple[Shortcut, ...], *, confounded: bool, per_class: int, seed: int
) -> tuple[Scene, ...]:
    """Scenes of all classes, with independent attributes or with the cues of ``pairs``."""
    made: list[Scene] = []
    for position, shape in enumerate(VALUES["shape"]):
        rng = generator("cues", SCENES_SEED + seed, 7, position)
        drawn = scenes(
            "probe", (SCENES_SEED + seed) * len(VALUES["shape"]) + position, per_class, shape=shape
        )
        if confounded:
            drawn = (confound(one, rng, follow=PROBE_FOLLOW, leak=PROBE_LEAK, planted=pairs) for one in drawn)
        made += drawn
    return tuple(made)


def probe(pairs: tuple[Shortcut, ...], *, confounded: bool, per_class: int, seed: int) -> Path:
    """The same scenes as a folder of pictures by class, beside it ``<name>_attributes.csv``; written once."""
    shaped = [
        RECIPE,
        PROBE_FOLLOW,
        PROBE_LEAK,
        confounded,
        per_class,
        seed,
        confounded and [asdict(p) for p in pairs],
    ]
    folder = cache() / f"probe-{sha256(json.dumps(shaped).encode()).hexdigest()[:16]}"
    if not (folder.parent / f"{folder.name}_attributes.csv").exists():
        chosen = probe_scenes(pairs, confounded=confounded, per_class=per_class, seed=seed)
        write_pictures(folder, {shape: [s for s in chosen if s.shape == shape] for shape in VALUES["shape"]})
    return folder


def cache() -> Path:
    """Where trained weights, truths and probes are kept."""
    folder = Path(os.environ.get("TEXTCAM_WORLDS", Path(tempfile.gettempdir()) / "textcam-worlds"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def classifier(world: World) -> TrainedClassifier:
    """The world's classifier, ready to be asked."""
    return TrainedClassifier(weights(world))


def accuracy(world: World, count: int = 400) -> float:
    """Share of fresh, unbiased scenes that the world's classifier gets right."""
    held_out = list(scenes("held-out", SCENES_SEED + world.seed, count))
    predicted: NDArray[np.int64] = classifier(world).predict(held_out)
    photograph.cache_clear()
    return float(np.mean([VALUES["shape"][p] == s.shape for p, s in zip(predicted, held_out, strict=True)]))


def preprocessing() -> transforms.Compose:
    """Of every classifier here: a picture in, (3, 64, 64) out."""
    return tiny_classifier()[1]
