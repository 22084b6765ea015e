"""From channels to the words of images and classes, for every method by the same road.

A method that has directions is read as a run reads its own: contributions times directions, minus the
average class, few and different words. A method that has only scores gives each channel its one best text,
and a text's share is the sum of the contributions of its channels. And the trivial method has no channels
at all: the images' own embeddings, minus the mean image.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.truth.evidence import Array, Evidence
from textcam.explain import explanation_direction
from textcam.select import select_texts, similarity


@dataclass(frozen=True)
class Words:
    """What a method says: of images (N, T), of classes (C, T); larger is more. ``shares`` are what the
    first words are ranked by, ``leaning`` is signed and orders all texts.
    """

    image_shares: Array
    class_shares: Array
    image_leaning: Array
    class_leaning: Array

    def rank(self, class_id: int, text: int, *, least: float = 0.25) -> float:
        """The place of the text among the words of the class, first is 1; infinite where it is not said.

        A class says the words that have at least ``least`` of the first word's share.
        """
        shares = self.class_shares[class_id]
        if shares[text] <= 0 or shares[text] < least * shares.max():
            return float("inf")
        return 1.0 + float((shares > shares[text]).sum())


@dataclass(frozen=True)
class Reading:
    """How a run reads words off a direction; the defaults are a run's."""

    contributions: str = (
        "contribution"  # or "weight": the channel's weight alone, or "positive": not negative
    )
    contrast: bool = True
    relative_sparsity: float = 0.25
    decorrelation: float = 0.1
    select: str = "lasso"  # or "nearest": each text alone, by cosine; or "pursuit": greedy, at most five
    centre: bool = True  # texts without the mean text, in the solve


def words_of_directions(
    evidence: Evidence, directions: Array, head: Array, predicted: Array, reading: Reading
) -> Words:
    """Words from channel directions (K, D) and a linear head (C, K), for the ``predicted`` classes (N,)."""
    weights = head[predicted]
    base = np.ones_like(evidence.pooled) if reading.contributions == "weight" else evidence.pooled
    contributions = weights * base
    if reading.contrast:
        contributions = contributions - head.mean(0) * base
    if reading.contributions == "positive":
        contributions = np.maximum(contributions, 0)
    return words_of_targets(
        explanation_direction(contributions.astype(np.float32), directions),
        evidence,
        predicted,
        len(head),
        reading,
    )


def words_of_targets(
    targets: Array, evidence: Evidence, predicted: Array, classes: int, reading: Reading
) -> Words:
    """Words of the directions (N, D) of images, and of their classes by adding them up."""
    if reading.select == "nearest":
        near = similarity(targets, evidence.texts)
        shares = np.where(near == near.max(1, keepdims=True), np.maximum(near, 0), 0)
    elif reading.select == "pursuit":
        shares = _pursuit(targets, evidence.texts)
    else:
        found = select_texts(
            targets,
            evidence.texts,
            relative_sparsity=reading.relative_sparsity,
            decorrelation=reading.decorrelation,
            centre=reading.centre,
        )
        shares = _dense(found.text_index, found.coefficients, len(evidence.texts))
    leaning = targets @ (evidence.texts - evidence.texts.mean(0)).T
    return _by_class(shares, leaning, predicted, classes)


def _pursuit(targets: Array, texts: Array, words: int = 5) -> Array:
    """Orthogonal matching pursuit: the text nearest to what is left, one after the other, and least squares
    of all that were taken; those of negative amount say nothing."""
    centred = texts - texts.mean(0)
    made = np.zeros((len(targets), len(texts)))
    for row, target in enumerate(targets.astype(np.float64)):
        taken: list[int] = []
        rest = target
        for _ in range(words):
            best = int(np.argmax(centred @ rest))
            if best in taken or centred[best] @ rest <= 1e-9:
                break
            taken.append(best)
            amounts = np.linalg.lstsq(centred[taken].T, target, rcond=None)[0]
            rest = target - amounts @ centred[taken]
        if taken:
            made[row, taken] = np.maximum(amounts, 0)
    return made


def words_of_scores(evidence: Evidence, scores: Array, head: Array, predicted: Array) -> Words:
    """Words of a method that has nothing but scores (K, T): each channel is its best text."""
    contributions = (head[predicted] - head.mean(0)) * evidence.pooled
    named = np.zeros_like(scores)
    named[np.arange(len(scores)), scores.argmax(1)] = 1
    leaning = contributions @ named
    return _by_class(np.maximum(leaning, 0), leaning, predicted, len(head))


def words_without_channels(evidence: Evidence, predicted: Array, classes: int, reading: Reading) -> Words:
    """The trivial method: what the encoder itself sees in the images that are predicted as the class."""
    targets = evidence.embeddings - evidence.embeddings.mean(0)
    return words_of_targets(targets.astype(np.float32), evidence, predicted, classes, reading)


def _dense(index: Array, coefficients: Array, texts: int) -> Array:
    made = np.zeros((len(index), texts))
    row, place = np.nonzero(index >= 0)
    made[row, index[row, place]] = coefficients[row, place]
    return made


def _by_class(shares: Array, leaning: Array, predicted: Array, classes: int) -> Words:
    member = np.zeros((classes, len(predicted)))
    member[predicted, np.arange(len(predicted))] = 1
    totals = member @ shares
    size = np.maximum(member.sum(1, keepdims=True), 1)
    return Words(
        shares,
        totals / np.maximum(totals.sum(1, keepdims=True), 1e-12),
        leaning,
        (member @ leaning) / size,
    )
