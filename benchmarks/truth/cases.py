"""The square of one seed: its biased and its clean classifier, each on an unbiased and on a confounded
probe.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from benchmarks.truth import shortcuts
from benchmarks.truth.evidence import Array, Evidence, Labelled
from benchmarks.truth.square import Case, Pair
from demo.artefacts import NO_ARTEFACT
from demo.measure import BATCH, TrainedClip
from demo.models import TinyClassifier
from demo.pictures import photograph
from demo.scenes import PLACE, VALUES, Scene, render
from demo.shortcuts import Shortcut
from demo.words import bank, text_of

PER_CLASS = 80
TEXTS, KINDS = zip(*bank(), strict=True)
OWN = np.array([TEXTS.index(text_of(value)) for value in VALUES["shape"]])
MASK_SIZE = 64


def square(seed: int, *, per_class: int = PER_CLASS) -> Iterator[Case]:
    """Four cases. The clean classifier is asked about the biased one's cues."""
    pairs = shortcuts.drawn_shortcuts(seed)
    for confounded in (False, True):
        for world in (shortcuts.biased_world(seed), shortcuts.clean_world(seed)):
            classifier = shortcuts.classifier(world).module
            effects = shortcuts.truth(world, pairs=pairs)
            name = f"{seed}: {'biased' if world.planted else 'clean'}"
            yield make_case(
                name, classifier, effects, pairs, confounded=confounded, per_class=per_class, seed=seed
            )


def make_case(
    name: str,
    classifier: TinyClassifier,
    effects: list[shortcuts.Effect],
    pairs: tuple[Shortcut, ...],
    *,
    confounded: bool,
    per_class: int,
    seed: int,
) -> Case:
    """One classifier on one probe: the images in even places explain, those in odd places judge."""
    seen = as_seen(pairs if confounded else (), confounded, per_class, seed)
    maps, logits = classify(classifier, seen.pixels)
    pooled = maps.mean((2, 3))
    fit = np.arange(len(pooled)) % 2 == 0
    shapes = np.array([VALUES["shape"].index(scene.shape) for scene in seen.scenes])
    return Case(
        name=name,
        biased=any(one.planted and one.flip_rate > 0.2 for one in effects),
        confounded=confounded,
        evidence=Evidence(
            pooled[fit], seen.embeddings[fit], text_embeddings(), KINDS, maps[fit], seen.cells[fit]
        ),
        scoring=Labelled(pooled[~fit], seen.labels[~fit]),
        head=classifier.head.weight.detach().numpy(),
        predicted=logits[fit].argmax(1),
        classes=shapes[fit],
        labels=seen.labels[fit],
        own=OWN,
        pairs=tuple(
            Pair(
                VALUES["shape"].index(one.class_name),
                TEXTS.index(one.concept),
                one.planted,
                one.flip_rate,
                one.logit_change,
            )
            for one in effects
        ),
        masks={place: seen.masks[place][fit] for place in seen.masks},
        place={TEXTS.index(text_of(v)): PLACE[a] for a in VALUES for v in VALUES[a] if v != NO_ARTEFACT},
    )


class Seen:
    """A probe as the encoder sees it, and what its pictures show."""

    def __init__(self, scenes: tuple[Scene, ...]) -> None:
        clip = encoder()
        self.scenes = scenes
        pictures = [photograph(scene) for scene in scenes]
        batches = [clip.pixels(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
        with torch.no_grad():
            self.embeddings = np.concatenate([clip.embed_pictures(one).numpy() for one in batches])
            cells = np.concatenate([clip.embed_cells(one).numpy() for one in batches])
        side = round(cells.shape[1] ** 0.5)
        self.cells = cells.reshape(len(cells), side, side, -1)
        self.pixels = pictures
        self.labels = np.zeros((len(scenes), len(TEXTS)), bool)
        for row, scene in enumerate(scenes):
            for attribute in VALUES:
                value = getattr(scene, attribute)
                if value != NO_ARTEFACT:
                    self.labels[row, TEXTS.index(text_of(value))] = True
        drawn = [render(scene, MASK_SIZE).masks for scene in scenes]
        self.masks = {place: np.stack([one[place] for one in drawn]) for place in drawn[0]}


@lru_cache(maxsize=2)
def as_seen(pairs: tuple[Shortcut, ...], confounded: bool, per_class: int, seed: int) -> Seen:
    """Both classifiers of a square look at the same pictures."""
    return Seen(shortcuts.probe_scenes(pairs, confounded=confounded, per_class=per_class, seed=seed))


@torch.no_grad()
def classify(classifier: TinyClassifier, pictures: list) -> tuple[Array, Array]:
    """Maps (N, K, h, w) and logits (N, C)."""
    prepare = shortcuts.preprocessing()
    maps, logits = [], []
    for i in range(0, len(pictures), BATCH):
        found = classifier.features(torch.stack([prepare(one) for one in pictures[i : i + BATCH]]))
        maps.append(found.numpy())
        logits.append(classifier.head(found.mean((2, 3))).numpy())
    return np.concatenate(maps), np.concatenate(logits)


@lru_cache(maxsize=1)
def encoder() -> TrainedClip:
    """The demo's tiny CLIP."""
    return TrainedClip()


@lru_cache(maxsize=1)
def text_embeddings() -> Array:
    """Of the demo's text bank (T, D)."""
    return encoder().embed_texts(list(TEXTS)).numpy()
