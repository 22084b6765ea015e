"""Our methods and the paper's on arrays in memory: the same functions that a run calls, every choice a
knob.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.truth.evidence import Array, Evidence
from pipelines.regions import pool_regions, resize_maps
from textcam import naming
from textcam.accumulate import Moments, TopK
from textcam.arrays import unit_rows
from textcam.explain import word_directions
from textcam.lda import Shrinkage, fit_directions_indexed, ridge_directions
from textcam.names import SHRINKAGES, WAYS, Names, NamingSums, name_channels
from textcam.naming import foretelling_shrinkage
from textcam.presence import ConceptPresence
from textcam.select import similarity, smaller_of_both


@dataclass(frozen=True)
class Choices:
    """One way to fit directions and to read words off them. The defaults are those of a run.

    ``form``: named (texts whose presence goes with the channel, and regions; for words their coefficients),
    names (the same without regions), presence and pattern (named by one of the two questions alone),
    whole, region, both (the bisector for directions, the smaller
    standardised score for words), bisector (for both), ridge (all images), ridge-cells (all cells),
    ridge+region. ``negatives``: the lowest, or random others. ``pooling``: how a map becomes the activation
    that picks examples, mean or max.
    """

    examples: int = 100
    shrinkage: Shrinkage = 0.1
    form: str = "named"
    centre: bool = True
    centre_texts: bool = False
    negatives: str = "lowest"
    pooling: str = "mean"


DEFAULT = Choices()
NAMED = ("named", "names", *WAYS)
PAPER = Choices(form="whole", centre=False)


class Directions:
    """Directions (K, D) of the channels of some evidence, each form fitted once however often it is asked."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._kept: dict[Any, Array] = {}

    def _once(self, key: Any, make: Any) -> Array:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def sides(self, choices: Choices) -> tuple[Array, Array]:
        """Rows of positives and of negatives (K, M), -1 where there is none."""
        key = ("sides", choices.examples, choices.negatives, choices.pooling)
        return self._once(key, lambda: _sides(self.evidence, choices))

    def whole(self, choices: Choices) -> Array:
        """From whole-image embeddings: the paper's form."""

        def make() -> Array:
            sides = self.sides(choices)
            found = fit_directions_indexed(self.evidence.embeddings, *sides, shrinkage=choices.shrinkage)
            return found.direction

        return self._once(("whole", *_fit_key(choices)), make)

    def region(self, choices: Choices) -> Array:
        """From dense features where the channel fires; zeros without pictures."""
        if self.evidence.cells is None or self.evidence.maps is None:
            return np.zeros((self.evidence.pooled.shape[1], self.evidence.embeddings.shape[1]), np.float32)

        def make() -> Array:
            return _region(self.evidence, self.sides(choices), choices.shrinkage)

        return self._once(("region", *_fit_key(choices)), make)

    def ridge(self, choices: Choices, *, cells: bool = False) -> Array:
        """Ridge regression of activations on embeddings over all images, or of maps on cells over all
        cells.
        """
        shrinkage = choices.shrinkage
        if not isinstance(shrinkage, float):
            raise ValueError("ridge directions need a number as shrinkage")

        def make() -> Array:
            x, y = self.evidence.embeddings, self.evidence.pooled
            if cells:
                x, y = _cells_and_activations(self.evidence)
            moments = Moments(y.shape[1], x.shape[1])
            moments.update(y, x)
            return ridge_directions(
                moments.embedding_covariance, moments.cross_covariance, moments.variance, shrinkage=shrinkage
            ).direction

        return self._once(("ridge", cells, shrinkage), make)

    def sums(self) -> NamingSums:
        """What channels do when texts are present, and where embeddings are then."""

        def make() -> NamingSums:
            evidence = self.evidence
            present = ConceptPresence(evidence.texts, sample=evidence.embeddings)
            sizes = len(evidence.texts), evidence.pooled.shape[1], evidence.embeddings.shape[1]
            made = NamingSums(*sizes)
            ids = np.arange(len(evidence.pooled))
            made.update(ids, present.probability(evidence.embeddings), evidence.pooled, evidence.embeddings)
            return made

        made: NamingSums = self._once("sums", make)
        return made

    def effects(self, head: Array) -> Array:
        """By how many logits (C, T) a class rises with a text, for a ``head`` (C, K)."""
        amount = self._once("effects", lambda: foretelling_shrinkage(self.sums().presence, SHRINKAGES))
        return self.moments().effects(head, amount)

    def moments(self) -> naming.PresenceMoments:
        """What channels do when texts are present, over all images."""
        made: naming.PresenceMoments = self._once("presence", lambda: self.sums().all_presence())
        return made

    def names(self, choices: Choices) -> Names:
        """Texts of each channel and how sure they are."""
        ways = (choices.form,) if choices.form in WAYS else WAYS
        made: Names = self._once(
            ("names", ways), lambda: name_channels(self.sums(), self.evidence.texts, ways=ways)
        )
        return made

    def coefficients(self, choices: Choices) -> Array:
        """Of texts that name each channel (K, T)."""
        return self.names(choices).coefficients

    def for_words(self, choices: Choices) -> Array:
        """The one direction (K, D) a channel's contributions are added up along."""
        if choices.form in NAMED:
            named = naming.named_directions(self.coefficients(choices), self.evidence.texts)
            whole, region = self.whole(choices), self.region(choices)
            region = np.zeros_like(region) if choices.form == "names" else region
            return word_directions(whole, region, "named", centre=choices.centre, named=named)
        pair = self._pair(choices)
        if pair is None:
            return word_directions(
                self._single(choices), self._single(choices), "whole", centre=choices.centre
            )
        return word_directions(*pair, "both", centre=choices.centre)

    def scores(self, choices: Choices) -> Array:
        """How well each text names each channel (K, T)."""
        texts = self.evidence.texts
        if choices.form in NAMED:
            return self.coefficients(choices)
        if choices.centre_texts:
            texts = unit_rows(texts - texts.mean(0))
        pair = self._pair(choices)
        if pair is None or choices.form == "bisector" or not pair[1].any():
            return similarity(self.for_words(choices), texts)
        centred = [word_directions(one, one, "whole", centre=choices.centre) for one in pair]
        return smaller_of_both(*(similarity(one, texts) for one in centred))

    def _pair(self, choices: Choices) -> tuple[Array, Array] | None:
        if choices.form in ("both", "bisector"):
            return self.whole(choices), self.region(choices)
        if choices.form == "ridge+region":
            return self.ridge(choices), self.region(choices)
        return None

    def _single(self, choices: Choices) -> Array:
        if choices.form.startswith("ridge"):
            return self.ridge(choices, cells=choices.form == "ridge-cells")
        return self.whole(choices) if choices.form == "whole" else self.region(choices)


def _fit_key(choices: Choices) -> tuple[Any, ...]:
    return choices.examples, choices.shrinkage, choices.negatives, choices.pooling


def _sides(evidence: Evidence, choices: Choices) -> tuple[Array, Array]:
    pooled = evidence.pooled
    if choices.pooling == "max":
        if evidence.maps is None:
            raise ValueError("there are no maps to take the maximum of")
        pooled = evidence.maps.max((2, 3)).astype(np.float32)
    examples = TopK(pooled.shape[1], choices.examples)
    examples.update(np.arange(len(pooled)), pooled)
    positives, negatives = examples.sides()
    if choices.negatives == "lowest":
        return positives.image_ids, negatives.image_ids
    rng = np.random.default_rng(0)
    others = np.full_like(positives.image_ids, -1)
    for channel, taken in enumerate(positives.image_ids):
        free = np.setdiff1d(np.arange(len(pooled)), taken)
        chosen = rng.permutation(free)[: choices.examples]
        others[channel, : len(chosen)] = chosen
    return positives.image_ids, others


def _region(evidence: Evidence, sides: tuple[Array, Array], shrinkage: Shrinkage) -> Array:
    """As ``pipelines.regions`` does it, on arrays in memory."""
    channel, rank = zip(*(np.nonzero(side >= 0) for side in sides), strict=True)
    image = [side[side >= 0] for side in sides]
    images, channels = np.concatenate(image), np.concatenate(channel)
    side_of = np.repeat([0, 1], [len(one) for one in image])
    ranks = np.concatenate(rank)
    size = (len(images), evidence.embeddings.shape[1])
    inside, outside = np.zeros(size, np.float32), np.zeros(size, np.float32)
    order = np.argsort(images, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(images[order])) + 1):
        row = int(images[mine[0]])
        dense = np.moveaxis(evidence.cells[row], -1, 0).astype(np.float32)
        maps = evidence.maps[row].astype(np.float32)
        inside[mine], outside[mine] = pool_regions(maps, dense, channels[mine], side_of[mine], row)
    places = np.full((3, *sides[0].shape), -1)  # regions of positives, of negatives, and rests of positives
    positive = side_of == 0
    usable, rest = inside.any(1), positive & outside.any(1)
    places[side_of[usable], channels[usable], ranks[usable]] = np.flatnonzero(usable)
    places[2, channels[rest], ranks[rest]] = len(inside) + np.flatnonzero(rest)
    return fit_directions_indexed(
        np.concatenate([inside, outside]),
        places[0],
        np.concatenate([places[2], places[1]], axis=1),
        shrinkage=shrinkage,
    ).direction


def _cells_and_activations(evidence: Evidence) -> tuple[Array, Array]:
    """All cells of all images (N h w, D), and what each channel's map is there (N h w, K)."""
    cells = evidence.cells
    maps = np.stack([resize_maps(one.astype(np.float32), cells.shape[1:3]) for one in evidence.maps])
    return cells.reshape(-1, cells.shape[-1]), np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])
