"""Classifiers of a family's classes, and what each word's attribute really does to them.

What is true of a class is not its rule but the measured effect: scenes are rendered again with one attribute
changed, and the classifier is asked about both. Weights and effects are kept in the cache of the worlds.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.truth import shortcuts
from benchmarks.truth.evidence import Array
from benchmarks.truth.family import Family, Rule, Scene, drawn_of, labels_of, pixels, words_of
from demo.models import TinyClassifier
from demo.train_clip import batches, half, normalised, progress

RECIPE = 3  # part of every cache key: raise it when what is made changes
TRUNK_SCENES, TRUNK_STEPS = 6_000, 160
SCENES, STEPS = 4_000, 130
EFFECT_SCENES, MOST_SCENES = 24, 144  # of each class, and of all together
RATE, BATCH = 2e-3, 128
FOLLOW, LEAK = 0.9, 0.02  # how often a cue is in its class, and in the others


@dataclass(frozen=True)
class FamilyWorld:
    """The classes of one classifier; ``cues`` are pairs of a class and a word that stands in for it."""

    family: Family
    seed: int
    rules: tuple[Rule, ...]
    cues: tuple[tuple[int, str], ...] = ()

    @property
    def key(self) -> str:
        """A name for caches."""
        parts = [RECIPE, TRUNK_SCENES, TRUNK_STEPS, SCENES, STEPS, self.family.name, self.seed, self.cues]
        parts += [EFFECT_SCENES, [(rule.form, rule.words) for rule in self.rules]]
        return sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Effects:
    """Of C classes and W words, by rendering again: of the class's scenes with the word's attribute that are
    predicted right, ``asked`` (C, W), the share ``flips`` (C, W) that are not without it; ``change`` (C, W)
    by how much the attribute raises the class's logit above the mean logit, over scenes of all classes;
    ``moved`` (K, W) the mean absolute change of each channel, in its standard deviations; ``accuracy`` of
    the classifier on these scenes.
    """

    flips: Array
    asked: Array
    change: Array
    moved: Array
    accuracy: Array


def world_of(family: Family, seed: int) -> FamilyWorld:
    """The world of a seed."""
    return FamilyWorld(family, seed, family.rules(np.random.default_rng([43, seed])))


def scenes_of(world: FamilyWorld, use: int, per_class: int, *, biased: bool = False) -> list[Scene]:
    """Scenes of all classes in turn; no two uses share any. Each class's own come in the same order whatever
    the number. ``biased`` ones carry the cues.
    """
    made = []
    for number in range(per_class):
        for class_id in range(len(world.rules)):
            rng = np.random.default_rng([44, use, world.seed, class_id, number])
            scene = drawn_of(world.family, world.rules, class_id, rng)
            made.append(_with_cues(world, scene, class_id, rng) if biased else scene)
    return made


def _with_cues(world: FamilyWorld, scene: Scene, class_id: int, rng: Generator) -> Scene:
    for own, word in world.cues:
        present = rng.random() < (FOLLOW if own == class_id else LEAK)
        change = world.family.given if present else world.family.taken
        scene = change(scene, word, rng)
    return scene


def classes_of(world: FamilyWorld, count: int) -> Array:
    """(count,) the classes of ``scenes_of``."""
    return np.arange(count) % len(world.rules)


def trunk(family: Family) -> Path:
    """What classifiers of the family start from: a network that knows something of every word. It starts
    itself from the trunk of the shortcuts, which knows single objects.
    """
    ready: Callable[[], Path] | None = getattr(family, "trunk", None)
    if ready is not None:
        return ready()
    parts = [RECIPE, TRUNK_SCENES, TRUNK_STEPS, family.name, family.classifier_size, [*family.values.items()]]
    path = shortcuts.cache() / f"trunk-{sha256(json.dumps(parts).encode()).hexdigest()[:16]}.safetensors"
    if not path.exists():
        rng = np.random.default_rng([45, 0])
        scenes = [family.draw(rng) for _ in range(TRUNK_SCENES)]
        words = words_of(family)
        truth = torch.from_numpy(labels_of(family, scenes)[:, : len(words)]).float()
        pictures = pixels(family, scenes, family.classifier_size)
        loss = functional.binary_cross_entropy_with_logits
        _train(
            _started(words, shortcuts.trunk()),
            path,
            pictures,
            truth,
            TRUNK_STEPS,
            lambda a, b: 10 * loss(a, b),
            0,
        )
    return path


def classifier(world: FamilyWorld) -> TinyClassifier:
    """The world's, trained once."""
    path = shortcuts.cache() / f"family-{world.key}.safetensors"
    names = tuple(rule.name for rule in world.rules)
    if not path.exists():
        scenes = scenes_of(world, 0, SCENES // len(names), biased=bool(world.cues))
        classes = torch.from_numpy(classes_of(world, len(scenes)))
        model = _started(names, trunk(world.family))
        pictures = pixels(world.family, scenes, world.family.classifier_size)
        _train(model, path, pictures, classes, STEPS, functional.cross_entropy, world.seed)
    module = TinyClassifier(names)
    module.load_state_dict(load_file(path))
    return module.eval().to(memory_format=torch.channels_last)


def _started(names: tuple[str, ...], start: Path) -> TinyClassifier:
    """A new classifier of these classes with the features of ``start``."""
    model = TinyClassifier(names)
    features = {name: value for name, value in load_file(start).items() if not name.startswith("head.")}
    model.load_state_dict({**model.state_dict(), **features})
    return model


def _train(
    model: TinyClassifier,
    path: Path,
    pictures: Array,
    truth: Tensor,
    steps: int,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    model = model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    begin, recent = time.process_time(), []
    for _, rows in zip(range(steps), batches(len(pictures), BATCH, seed), strict=False):
        batch = normalised(pictures[rows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch)
        loss = loss_of(logits.float(), truth[rows])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
    print(progress(path.stem, steps - 1, steps, recent[-20:], begin), flush=True)
    unfinished = path.with_suffix(f".{os.getpid()}.safetensors")
    save_file(half(model), unfinished)
    unfinished.replace(path)


@torch.no_grad()
def asked(module: TinyClassifier, pictures: Array) -> tuple[Array, Array]:
    """Maps (N, K, h, w) and logits (N, C) of pictures (N, S, S, 3)."""
    maps, logits = [], []
    for first in range(0, len(pictures), BATCH):
        batch = normalised(pictures[first : first + BATCH]).contiguous(memory_format=torch.channels_last)
        found = module.features(batch)
        maps.append(found.numpy())
        logits.append(module.head(found.mean((2, 3))).numpy())
    return np.concatenate(maps), np.concatenate(logits)


def effects(world: FamilyWorld) -> Effects:
    """Of the world's classifier, measured once."""
    path = shortcuts.cache() / f"effects-{world.key}.npz"
    if not path.exists():
        module = classifier(world)

        def ask(scenes: Sequence[Scene]) -> tuple[Array, Array]:
            maps, logits = asked(module, pixels(world.family, scenes, world.family.classifier_size))
            return maps.mean((2, 3)), logits

        found = measure_effects(world, ask)
        unfinished = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(unfinished, **vars(found))
        unfinished.replace(path)
    with np.load(path) as kept:
        return Effects(**kept)


def measure_effects(
    world: FamilyWorld,
    ask: Callable[[Sequence[Scene]], tuple[Array, Array]],
    count: int | None = None,
) -> Effects:
    """Ask (scenes -> pooled (N, K) and logits (N, C)) about scenes as they are, and with each word's
    attribute taken where it is shown and given where it is not.
    """
    count = count or min(EFFECT_SCENES, MOST_SCENES // len(world.rules))
    scenes = scenes_of(world, 1, count)
    classes = classes_of(world, len(scenes))
    pooled, logits = ask(scenes)
    size = np.maximum(pooled.std(0), 1e-6)
    words, sorts = words_of(world.family), len(world.rules)
    flips, number, change = (np.zeros((sorts, len(words))) for _ in range(3))
    moved = np.zeros((pooled.shape[1], len(words)))
    for column, word in enumerate(words):
        shown = np.array([word in world.family.shows(scene) for scene in scenes])
        rngs = [np.random.default_rng([46, world.seed, column, row]) for row in range(len(scenes))]
        turn = (world.family.given, world.family.taken)
        other = [turn[int(s)](scene, word, rng) for s, scene, rng in zip(shown, scenes, rngs, strict=True)]
        pooled_other, logits_other = ask(other)
        moved[:, column] = (np.abs(pooled - pooled_other) / size).mean(0)
        has, lacks = np.where(shown[:, None], [logits, logits_other], [logits_other, logits])
        change[:, column] = (_contrasted(has) - _contrasted(lacks)).mean(0)
        right, lost = has.argmax(1) == classes, lacks.argmax(1) != classes
        for class_id in range(sorts):
            mine = right & (classes == class_id)
            number[class_id, column] = mine.sum()
            flips[class_id, column] = lost[mine].mean() if mine.any() else 0.0
    accuracy = np.array((logits.argmax(1) == classes).mean())
    return Effects(flips, number, change, moved, accuracy)


def _contrasted(logits: Array) -> Array:
    """Above the mean over classes, as words are read."""
    return logits - logits.mean(1, keepdims=True)
