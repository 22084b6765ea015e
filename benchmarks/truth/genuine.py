"""Worlds of genuine vectors: of annotated pictures by a published CLIP, and channels made of the annotations.

Geometry that nobody here drew: a bank of some thousand texts, whose neighbours are synonyms, kinds of it and
parts of it, and images in which things come together as they do. The folder is given by ``TEXTCAM_GENUINE``;
nothing of it is part of the project.

    texts.npz    text (T, D), names (T,)
    <world>.npz  image (N, D), truth (N, A) of bool, attributes (A,), accept (A,): words that count as right,
                 with | between

A channel is the truth of an attribute, plus normal noise, cut at 0. What is varied is the noise, how many
attributes a channel has, whether it fires where the attribute is or where it is not, how many images there
are, and what comes with what in them. The worlds of one half choose, those of the other half report.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks.truth.evidence import Array, Evidence
from textcam.arrays import unit_rows

FOLDER = "TEXTCAM_GENUINE"
HALVES = {"choosing": ("flickr", "fashion"), "report": ("things", "cifar")}
COLOURS = frozenset(
    ("red", "black", "white", "blue", "green", "pink", "yellow", "brown", "purple", "grey", "gray", "orange")
)

NOISE, LOUD = 0.35, 0.7
IMAGES = (150, 300)
FEWEST = 5  # images of a smaller draw that show an attribute, or it has no channel
RARE = (
    0.25  # of the images show it, at most, where a channel fires without it: else what is absent has a name
)
PAIRS, TOGETHER, USUALLY = (
    8,
    12,
    0.7,
)  # pairs of attributes; images with both; share of the one with the other
FOLLOW, LEAK = 0.9, 0.05  # of a biased draw: the share with B of images with A, and of those without


@dataclass(frozen=True)
class Bank:
    """T texts: ``names`` as they stand, ``words`` without underscores, brackets and capitals, and ``texts``
    (T, D) of unit length."""

    names: tuple[str, ...]
    words: tuple[str, ...]
    texts: Array

    @property
    def kinds(self) -> tuple[str, ...]:
        """colour or object."""
        return tuple("colour" if word in COLOURS else "object" for word in self.words)


@dataclass(frozen=True)
class World:
    """N images: unit ``embeddings`` (N, D), ``truth`` (N, A) of bool; and the texts that may be said of each
    of the A attributes, ``accepted`` (A, T)."""

    name: str
    bank: Bank
    embeddings: Array
    truth: Array
    attributes: tuple[str, ...]
    accepted: Array

    def rows(self, chosen: Array, fewest: int = 0) -> Self:
        """The same of some images, without the attributes that fewer than ``fewest`` of them show."""
        truth = self.truth[chosen]
        kept = np.flatnonzero(truth.sum(0) >= fewest)
        return replace(
            self,
            embeddings=self.embeddings[chosen],
            truth=truth[:, kept],
            attributes=tuple(self.attributes[k] for k in kept),
            accepted=self.accepted[kept],
        )


@dataclass(frozen=True)
class Case:
    """One draw of a world: K channels that mean the attributes ``meanings`` (K, M); those ``judged`` are
    asked about. Of a biased draw, ``partner`` is the attribute that comes with the judged one."""

    variant: str
    seed: int
    world: World
    evidence: Evidence
    meanings: Array
    judged: Array
    partner: int | None = None

    @property
    def accepted(self) -> Array:
        """(K, M, T): the texts that are right for each meaning."""
        return self.world.accepted[self.meanings]

    def unit(self, channel: int) -> str:
        """What a channel is called, the same for all seeds."""
        name = self.world.attributes[self.meanings[channel, 0]]
        return name if self.partner is None else f"{name} with {self.world.attributes[self.partner]}"


def folder() -> Path | None:
    """Where the vectors are; none where the environment does not say. Raises FileNotFoundError where it says
    a folder that has no texts."""
    given = os.environ.get(FOLDER)
    if not given:
        return None
    path = Path(given)
    if not (path / "texts.npz").exists():
        raise FileNotFoundError(f"{FOLDER} is {path}, and there is no texts.npz in it")
    return path


def open_bank(path: Path) -> Bank:
    """The texts of a folder."""
    with np.load(path / "texts.npz") as read:
        names = tuple(str(one) for one in read["names"])
        texts = unit_rows(read["text"].astype(np.float32))
    words = tuple(re.sub(r"\s*\(.*", "", one.replace("_", " ")).strip().lower() for one in names)
    return Bank(names, words, texts)


def open_world(path: Path, name: str, bank: Bank) -> World:
    """A world of a folder, with the attributes that the bank has a plain word for."""
    with np.load(path / f"{name}.npz") as read:
        embeddings, truth = unit_rows(read["image"].astype(np.float32)), read["truth"].astype(bool)
        attributes = tuple(str(one) for one in read["attributes"])
        accept = [set(str(one).lower().split("|")) for one in read["accept"]]
    plain = np.array([[word in right for word in bank.words] for right in accept])
    whole = np.array([[one.lower() in right for one in bank.names] for right in accept])
    kept = np.flatnonzero(plain.any(1))
    return World(
        name, bank, embeddings, truth[:, kept], tuple(attributes[k] for k in kept), (plain | whole)[kept]
    )


def variants(world: World, seed: int) -> Iterator[Case]:
    """All draws of a world by one seed; ``base`` is the first."""
    yield _case(world, "base", seed)
    yield _case(world, "noise .7", seed, noise=LOUD)
    yield _case(world, "two meanings", seed, meanings=pairs(world, seed))
    yield _case(world, "where it is not", seed, absent=True)
    for count in IMAGES:
        if count < len(world.embeddings):
            chosen = np.sort(np.random.default_rng([count, seed]).permutation(len(world.embeddings))[:count])
            yield _case(world.rows(chosen, FEWEST), f"{count} images", seed)
    for a, b in companions(world):
        drawn = world.rows(biased_rows(world.truth[:, a], world.truth[:, b], seed))
        yield replace(_case(drawn, "biased", seed), judged=np.array([a]), partner=b)


def _case(
    world: World,
    variant: str,
    seed: int,
    *,
    noise: float = NOISE,
    meanings: Array | None = None,
    absent: bool = False,
) -> Case:
    of_each = np.arange(len(world.attributes))[:, None] if meanings is None else meanings
    shown = world.truth[:, of_each].sum(2) if not absent else ~world.truth[:, of_each[:, 0]]
    added = np.random.default_rng(seed).normal(0, noise, shown.shape)
    pooled = np.maximum(shown + added, 0).astype(np.float32)
    evidence = Evidence(pooled, world.embeddings, world.bank.texts, world.bank.kinds)
    judged = np.arange(len(of_each))
    if absent:
        judged = np.flatnonzero(world.truth.mean(0) <= RARE)
    return Case(variant, seed, world, evidence, of_each, judged)


def apart(world: World) -> Array:
    """(A, A): no text may be said of both attributes."""
    both = world.accepted.astype(int) @ world.accepted.T.astype(int)
    made: Array = both == 0
    return made


def pairs(world: World, seed: int) -> Array:
    """Each attribute that can, and another one that shares no word with it (P, 2)."""
    rng, free = np.random.default_rng([2, seed]), apart(world)
    return np.array([(a, rng.choice(np.flatnonzero(free[a]))) for a in np.flatnonzero(free.any(1))])


def companions(world: World) -> list[tuple[int, int]]:
    """Pairs of attributes A and B that some images show together, so that a biased draw can be made of them,
    though most images with A have no B; the same for all seeds."""
    together = world.truth.T.astype(int) @ world.truth
    share = together / np.maximum(world.truth.sum(0), 1)[:, None]
    usable = np.argwhere((together >= TOGETHER) & (share < USUALLY) & apart(world))
    chosen = np.random.default_rng(3).permutation(len(usable))[:PAIRS]
    return [(int(a), int(b)) for a, b in usable[np.sort(chosen)]]


def biased_rows(a: Array, b: Array, seed: int) -> Array:
    """Rows of the images (N,) that are kept so that B mostly comes with A: all with both, all with neither,
    and of the others as many as FOLLOW and LEAK leave."""
    rng = np.random.default_rng([4, seed])
    a_alone = int(np.round((a & b).sum() * (1 - FOLLOW) / FOLLOW))
    b_alone = int(np.round((~a & ~b).sum() * LEAK / (1 - LEAK)))
    some = [
        rng.permutation(np.flatnonzero(mine))[:count]
        for mine, count in ((a & ~b, a_alone), (~a & b, b_alone))
    ]
    return np.sort(np.concatenate([np.flatnonzero(a == b), *some]))
