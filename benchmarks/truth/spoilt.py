"""Worlds that are spoilt on purpose, so that many names are wrong: fewer images, an encoder with noise, a
text bank of which a half or three quarters are missing, classifiers that were never trained, activations
that belong to other images.

What confidences are made from is recorded beside whether the first word was right: whether what it names
is, or nearly is, what raises the channel or the logit most when a scene is rendered again (``causes``).
Nothing is right of shuffled activations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from benchmarks.truth import shortcuts
from benchmarks.truth.algebraic import AlgebraicWorld, make_algebraic
from benchmarks.truth.cases import make_case, square
from benchmarks.truth.causes import NEARLY, Causes, causes_of
from benchmarks.truth.evidence import Array, Evidence
from benchmarks.truth.ours import DEFAULT, Directions
from benchmarks.truth.square import Case
from demo.models import TinyClassifier
from textcam import confidence as stated
from textcam.arrays import unit_rows
from textcam.explain import explanation_direction
from textcam.groups import group_channels, group_directions
from textcam.select import nearest_texts, select_texts

SPOILT = (  # images, noise of the encoder, part of the bank that is left
    (320, 0.0, 1.0),
    (160, 0.0, 1.0),
    (80, 0.0, 1.0),
    (320, 1.0, 1.0),
    (320, 2.0, 1.0),
    (80, 2.0, 1.0),
    (320, 0.0, 0.5),
    (160, 1.0, 0.5),
    (320, 0.0, 0.25),
)
GROUPS = 32


@dataclass(frozen=True)
class Told:
    """Signs (n, S) of one level in one world, and whether the first words were right (n,)."""

    seed: int
    world: str
    level: str
    signs: Array
    right: Array


def told_by_formulas(seed: int) -> Iterator[Told]:
    """T0: the names of channels."""
    for meanings in (1, 2):
        for noise in (4.0, 16.0, 32.0, 64.0):
            for images in (1000, 4000):
                world = AlgebraicWorld(seed=seed, noise=noise, meanings=meanings, images=images)
                evidence, scoring = make_algebraic(world)

                def right(texts: Array, meanings: Array = scoring.meanings) -> Array:
                    return (texts >= 0) & meanings[np.arange(len(texts)), texts]

                yield from channels_told(seed, "formulas", Directions(evidence), right)


def channels_told(seed: int, world: str, fitted: Directions, right) -> Iterator[Told]:
    """What names say of themselves."""
    names = fitted.names(DEFAULT)
    first, correct = names.first, right(names.first)
    yield Told(seed, world, "name", names.signs[first >= 0], correct[first >= 0])
    yield Told(seed, world, "channel", names.confidence[:, None], correct)


def first_texts(coefficients: Array) -> Array:
    """(K,) the text with the largest coefficient, -1 where there is none."""
    return np.where(coefficients.any(1), coefficients.argmax(1), -1)


# --- rendered worlds --------------------------------------------------------------------------------------


def told_by_renderings(seed: int) -> Iterator[Told]:
    """T1 and T2: channels, groups, explanations and classes of spoilt cases."""
    modules = {
        "biased": shortcuts.classifier(shortcuts.biased_world(seed)).module,
        "clean": shortcuts.classifier(shortcuts.clean_world(seed)).module,
    }
    causes = {name: causes_of(module) for name, module in modules.items()}
    for case in square(seed):
        yield from told_of_case(seed, "rendered", case, causes["biased" if case.biased else "clean"])
    torch.manual_seed(seed)
    module = TinyClassifier().eval()
    case = make_case("untrained", module, [], (), confounded=False, per_class=80, seed=seed)
    case = replace(case, predicted=np.arange(len(case.predicted)) % len(case.head))
    yield from told_of_case(seed, "untrained", case, causes_of(module))


def told_of_case(seed: int, world: str, case: Case, causes: Causes) -> Iterator[Told]:
    """One case, spoilt in every way."""
    rng = np.random.default_rng([35, seed])
    images, texts = len(case.evidence.pooled), len(case.evidence.texts)
    for count, noise, bank in SPOILT:
        rows = rng.permutation(images)[:count]
        kept = np.sort(rng.permutation(texts)[: round(texts * bank)])
        evidence = with_noise(with_bank(case.evidence.rows(rows), kept), noise, rng)
        name = f"{world}, half the bank or less" if bank < 1 else world
        yield from told(seed, name, Directions(evidence), case, rows, rows, kept, causes)
    for count in (320, 80):
        rows, others = rng.permutation(images)[:count], rng.permutation(images)[:count]
        evidence = case.evidence.rows(rows)
        evidence = replace(evidence, pooled=case.evidence.pooled[others], maps=case.evidence.maps[others])
        yield from told(seed, "shuffled", Directions(evidence), case, rows, others, np.arange(texts), None)


def with_noise(evidence: Evidence, amount: float, rng: np.random.Generator) -> Evidence:
    """As a worse encoder would see the images; ``amount`` in lengths of an embedding."""
    if not amount:
        return evidence
    worse = [
        unit_rows(one + amount * rng.normal(size=one.shape) / one.shape[-1] ** 0.5).astype(np.float32)
        for one in (evidence.embeddings, evidence.cells)
    ]
    return replace(evidence, embeddings=worse[0], cells=worse[1])


def with_bank(evidence: Evidence, kept: Array) -> Evidence:
    """With some of the texts."""
    return replace(evidence, texts=evidence.texts[kept], kinds=tuple(evidence.kinds[i] for i in kept))


def told(
    seed: int,
    world: str,
    fitted: Directions,
    case: Case,
    seen: Array,
    asked: Array,
    kept: Array,
    causes: Causes | None,
) -> Iterator[Told]:
    """All levels. The encoder saw the images ``seen`` and the classifier ``asked``; ``kept`` are the texts of
    the bank; without ``causes`` nothing is right."""
    evidence, predicted = fitted.evidence, case.predicted[asked]

    def right(effects: Array | None, texts: Array, most: Array | None = None) -> Array:
        if effects is None:
            return np.zeros(len(texts), bool)
        most = effects.max(1) if most is None else most
        own = effects[np.arange(len(texts)), kept[np.maximum(texts, 0)]]
        return (texts >= 0) & (most > 0) & (own >= NEARLY * most)

    on_channels = None if causes is None else causes.channels
    yield from channels_told(seed, world, fitted, partial(right, on_channels))
    names, directions = fitted.names(DEFAULT), fitted.for_words(DEFAULT)
    sure = names.confidence

    group_of = group_channels(directions, GROUPS)
    groups = int(group_of.max()) + 1
    texts = nearest_texts(group_directions(directions, group_of, groups), evidence.texts).text_index[:, 0]
    signs = stated.group_signs(sure, first_texts(names.coefficients), group_of, texts)
    on_groups = None if causes is None else np.eye(groups)[group_of].T @ on_channels
    yield Told(seed, world, "group", signs, right(on_groups, texts))

    contributions = ((case.head[predicted] - case.head.mean(0)) * evidence.pooled).astype(np.float32)
    words = select_texts(
        explanation_direction(contributions, directions), evidence.texts, relative_sparsity=0.25
    )
    signs = stated.explanation_signs(contributions, sure, words)
    first = words.text_index[:, 0]
    on_logits = None if causes is None else causes.logits - causes.logits.mean(0)
    of_images = np.zeros(len(first), bool)
    if on_logits is not None:
        shown = np.where(case.labels[seen], on_logits[predicted], -np.inf)  # the image's own causes
        of_images = right(shown, first, shown.max(1))
    yield Told(seed, world, "explanation", signs, of_images)

    shares = np.zeros((len(case.head), len(evidence.texts)))
    row, place = np.nonzero(words.text_index >= 0)
    np.add.at(shares, (predicted[row], words.text_index[row, place]), words.coefficients[row, place])
    of_images_sure = np.where(first >= 0, stated.EXPLANATION(signs), 0)
    count = np.bincount(predicted, minlength=len(shares))
    mean = np.bincount(predicted, weights=of_images_sure, minlength=len(shares)) / np.maximum(count, 1)
    there = count > 0
    yield Told(seed, world, "class", mean[there, None], right(on_logits, first_texts(shares))[there])
