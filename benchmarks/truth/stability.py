"""Do the same things get the same first words: from other images, in other shards, with other numbers of
examples?"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from benchmarks.truth.class_words import Reading, Words, words_of_directions
from benchmarks.truth.evidence import Array
from benchmarks.truth.ours import DEFAULT, Choices, Directions
from benchmarks.truth.square import Case
from textcam.names import NamingSums, name_channels
from textcam.presence import ConceptPresence

COUNTS = (25, 50, 200)
SHARDS = 7


def judge_stability(cases: Iterable[Case]) -> dict[str, dict[str, list[float]]]:
    """Share of channels, images and classes with the same first word; by what was changed, a case each."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        fitted = Directions(case.evidence)
        words = _words(case, fitted, DEFAULT)
        for count in COUNTS:
            other = _words(case, fitted, replace(DEFAULT, examples=count))
            found[f"M {count} against {DEFAULT.examples}"]["images"].append(
                _same(words.image_shares, other.image_shares)
            )
            found[f"M {count} against {DEFAULT.examples}"]["classes"].append(
                _same(words.class_shares, other.class_shares)
            )
        halves = [Directions(case.evidence.rows(np.arange(start, len(case.classes), 2))) for start in (0, 1)]
        names = [half.coefficients(DEFAULT) for half in halves]
        sure = np.minimum(*(half.names(DEFAULT).confidence for half in halves))
        same = names[0].argmax(1) == names[1].argmax(1)
        found["other images"]["channels"].append(float(same.mean()))
        if (sure >= 0.9).any():
            found["other images"]["channels of confidence .9"].append(float(same[sure >= 0.9].mean()))
        split = [
            _words(replace(case, predicted=case.predicted[start::2]), half, DEFAULT)
            for start, half in enumerate(halves)
        ]
        found["other images"]["classes"].append(_same(split[0].class_shares, split[1].class_shares))
        found["in shards"]["channels, to the bit"].append(float(_sharded(fitted)))
    return found


def _words(case: Case, fitted: Directions, choices: Choices) -> Words:
    directions = fitted.for_words(choices)
    return words_of_directions(fitted.evidence, directions, case.head, case.predicted, Reading())


def _same(one: Array, other: Array) -> float:
    """Share of rows that have the same first text, of those that have any."""
    any_word = one.any(1) | other.any(1)
    return float((one.argmax(1) == other.argmax(1))[any_word].mean())


def _sharded(fitted: Directions) -> bool:
    """Whether shards, taken in and merged in any order, give the very same numbers."""
    evidence = fitted.evidence
    present = ConceptPresence(evidence.texts, sample=evidence.embeddings)
    sizes = len(evidence.texts), evidence.pooled.shape[1], evidence.embeddings.shape[1]
    whole = NamingSums(*sizes)
    for rows in np.array_split(np.random.default_rng(0).permutation(len(evidence.pooled)), SHARDS):
        part, seen = NamingSums(*sizes), evidence.rows(rows)
        part.update(rows, present.probability(seen.embeddings), seen.pooled, seen.embeddings)
        whole.merge(part)
    one, other = name_channels(whole, evidence.texts), fitted.names(DEFAULT)
    return bool((one.coefficients == other.coefficients).all() and (one.confidence == other.confidence).all())
