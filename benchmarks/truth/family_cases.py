"""A family's classifier on fresh pictures, with the truth: what methods see, and what they are judged by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth.evidence import Array, Evidence, Labelled
from benchmarks.truth.family import Family, attribute_of, bank, labels_of, pixels, words_of
from benchmarks.truth.family_encoder import (
    BLIND_STEPS,
    STEPS,
    as_embeddings,
    encoder_folder,
    gate,
    load_encoder,
    zero_shot,
)
from benchmarks.truth.family_worlds import FamilyWorld, asked, classes_of, classifier, effects, scenes_of
from benchmarks.truth.square import SHORTCUT, Case, Pair
from demo.scenes import SIZE

IMAGES = 640  # of all classes together, as in the family of shortcuts
NEUTRAL = 0.5  # flip rate of a word in no rule from which on it counts neither way
FEWEST = 8  # right predictions that a flip rate is measured on
MASK_SIZE = {96: 48, 64: 64}  # by the classifier's: a whole multiple of its map


@dataclass(frozen=True)
class FamilyCase:
    """``case`` for the methods. ``ruled`` (C, W): the class's rule names the word; ``used``: and its
    attribute flips the class, by measure; ``neutral``: it flips much and no rule says so, which is judged
    neither way.
    ``change`` (C, W) are the effects on logits. ``seen`` (W,): the encoder can see it, the others are not
    judged. ``topics`` (W,) number what each word is about; ``moved`` (K, W) is the effect on channels.
    """

    case: Case
    ruled: Array
    used: Array
    neutral: Array
    change: Array
    seen: Array
    topics: Array
    moved: Array
    accuracy: float
    gate: Mapping[str, tuple[float, bool]]


def family_case(world: FamilyWorld, *, blind: tuple[str, ...] = (), images: int = IMAGES) -> FamilyCase:
    """The pictures in even places of each class explain, those in odd places judge."""
    family = world.family
    scenes = scenes_of(world, 2, 2 * (images // (2 * len(world.rules))))
    classes = classes_of(world, len(scenes))
    fit = (np.arange(len(scenes)) // len(world.rules)) % 2 == 0
    texts, kinds = bank(family)
    labels = labels_of(family, scenes)
    clip = load_encoder(_encoder(family, blind))
    embeddings, cells = as_embeddings(clip, pixels(family, scenes, SIZE))
    embedded = clip.embed_texts(list(texts)).numpy()
    module = classifier(world)
    maps, logits = asked(module, pixels(family, scenes, family.classifier_size))
    pooled = maps.mean((2, 3))
    found, words = effects(world), words_of(family)
    flips = (found.flips > SHORTCUT) & (found.asked >= FEWEST)
    ruled = _ruled(world)
    used = ruled & flips
    attribute = attribute_of(family)
    gates = gate(family, zero_shot(embeddings, embedded, labels))
    seen = np.array([gates[attribute[word]][1] for word in words])
    pairs = tuple(
        Pair(c, w, bool(used[c, w] and seen[w]), float(found.flips[c, w]), float(found.change[c, w]))
        for c in range(len(world.rules))
        for w in range(len(words))
    )
    judged = [words[w] for w in np.flatnonzero(used.any(0) & seen)]
    subjects = [family.topic(word) for word in words]
    case = Case(
        name=f"{family.name} {world.seed}",
        biased=True,
        confounded=False,
        evidence=Evidence(pooled[fit], embeddings[fit], embedded, kinds, maps[fit], cells[fit]),
        scoring=Labelled(pooled[~fit], labels[~fit]),
        head=module.head.weight.detach().numpy(),
        predicted=logits[fit].argmax(1),
        classes=classes[fit],
        labels=labels[fit],
        own=np.full(len(world.rules), -1),
        pairs=pairs,
        masks=_masks(family, [s for s, chosen in zip(scenes, fit, strict=True) if chosen], judged),
        place={texts.index(word): word for word in judged},
    )
    return FamilyCase(
        case,
        ruled,
        used=used,
        neutral=~ruled & (found.flips > NEUTRAL),
        change=found.change,
        seen=seen,
        topics=np.unique(subjects, return_inverse=True)[1],
        moved=found.moved,
        accuracy=float(found.accuracy),
        gate=gates,
    )


def _encoder(family: Family, blind: tuple[str, ...]) -> Path:
    ready: Path | None = getattr(family, "encoder", None)
    if ready is not None:
        return ready
    return encoder_folder(family, blind, steps=BLIND_STEPS if blind else STEPS)


def _ruled(world: FamilyWorld) -> Array:
    """(C, W): the class's rule names the word, or it is a cue of the class."""
    words = words_of(world.family)
    made = np.zeros((len(world.rules), len(words)), bool)
    for class_id, rule in enumerate(world.rules):
        made[class_id, [words.index(word) for word in rule.words]] = True
    for class_id, word in world.cues:
        made[class_id, words.index(word)] = True
    return made


def _masks(family: Family, scenes: list[object], judged: list[str]) -> dict[str, Array]:
    """By word (N, S, S): the things that show it; empty where it is not shown."""
    size = MASK_SIZE[family.classifier_size]
    made = {word: np.zeros((len(scenes), size, size), bool) for word in judged}
    for row, scene in enumerate(scenes):
        drawn = family.render(scene, size).masks
        for word in judged:
            for thing in family.things(scene, word):
                made[word][row] |= drawn[thing]
    return made
