"""All methods in one harness: what each says of channels, images and classes, on the same cases."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from benchmarks.truth import rivals
from benchmarks.truth.cases import TEXTS, encoder
from benchmarks.truth.class_words import (
    Reading,
    Words,
    words_of_directions,
    words_of_scores,
    words_without_channels,
)
from benchmarks.truth.evidence import Array, Evidence
from benchmarks.truth.measures import label_measures
from benchmarks.truth.ours import DEFAULT, PAPER, Choices, Directions
from benchmarks.truth.square import Case, effect_agreement, judge_maps, judge_words
from textcam.arrays import unit_rows
from textcam.groups import group_channels
from textcam.naming import FEWEST
from textcam.presence import ConceptPresence

GROUPS = 32
Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Entrant:
    """A method: words of a case for the classes it is asked about, and scores (K, T) that name channels."""

    words: Callable[[Case, Directions, Array], Words] | None = None
    scores: Callable[[Case, Directions], Array] | None = None
    directions: Callable[[Directions], Array] | None = None
    effects: Callable[[Case, Directions], Array] | None = None


def by_directions(choices: Choices, reading: Reading | None = None) -> Entrant:
    """A method of ours, or the paper's."""
    read = reading or Reading()

    def words(case: Case, fitted: Directions, asked: Array) -> Words:
        return words_of_directions(case.evidence, fitted.for_words(choices), case.head, asked, read)

    return Entrant(
        words, lambda case, fitted: fitted.scores(choices), lambda fitted: fitted.for_words(choices)
    )


def by_scores(name: Callable[..., Array]) -> Entrant:
    """A method that names channels and has no directions."""

    def words(case: Case, fitted: Directions, asked: Array) -> Words:
        return words_of_scores(case.evidence, name(case.evidence), case.head, asked)

    return Entrant(words, lambda case, fitted: name(case.evidence))


def with_texts(make: Callable[[Evidence], Array]) -> Entrant:
    """Ours, with other embeddings (T, D) of the texts."""

    @lru_cache(maxsize=1)
    def anew(fitted: Directions) -> Directions:
        return Directions(replace(fitted.evidence, texts=make(fitted.evidence)))

    def words(case: Case, fitted: Directions, asked: Array) -> Words:
        other = anew(fitted)
        return words_of_directions(other.evidence, other.for_words(DEFAULT), case.head, asked, Reading())

    return Entrant(words, lambda case, fitted: anew(fitted).scores(DEFAULT))


def one_template(evidence: Evidence) -> Array:
    """The texts as they are, in no sentence."""
    return encoder().embed_texts(list(TEXTS), prompts=("{}",)).numpy()


def calibrated(evidence: Evidence) -> Array:
    """What the images that show a text have and the others have not; a text that hardly any image shows
    keeps its own direction."""
    present = ConceptPresence(evidence.texts, sample=evidence.embeddings)(evidence.embeddings)
    made = evidence.texts - evidence.texts.mean(0)
    for text in np.flatnonzero(np.minimum(present.sum(0), (~present).sum(0)) >= FEWEST):
        shown = present[:, text]
        made[text] = evidence.embeddings[shown].mean(0) - evidence.embeddings[~shown].mean(0)
    return unit_rows(made)


def _trivial(case: Case, fitted: Directions, asked: Array) -> Words:
    return words_without_channels(case.evidence, asked, len(case.head), Reading())


PAPER_READING = Reading(contrast=False, relative_sparsity=0.0)

CONTEST: dict[str, Entrant] = {
    "ours": replace(by_directions(DEFAULT), effects=lambda case, fitted: fitted.effects(case.head)),
    "TextCAM, the paper's form": by_directions(PAPER, PAPER_READING),
    "mean difference": by_directions(Choices(form="whole", shrinkage=1.0, centre=False), PAPER_READING),
    **{name: by_scores(one) for name, one in rivals.RIVALS.items()},
    "no channels": Entrant(_trivial),
    "INVERT (given labels)": Entrant(None, lambda case, fitted: rivals.invert(case.evidence, case.labels)),
}

ABLATION: dict[str, Entrant] = {
    "default": by_directions(DEFAULT),
    **{
        f"form {form}": by_directions(Choices(form=form))
        for form in (
            "presence",
            "pattern",
            "names",
            "both",
            "bisector",
            "region",
            "whole",
            "ridge",
            "ridge-cells",
            "ridge+region",
        )
    },
    **{
        f"shrinkage {amount}": by_directions(Choices(shrinkage=amount))
        for amount in (0.02, 0.5, 1.0, "ledoit-wolf")
    },
    **{
        f"both, shrinkage {amount}": by_directions(Choices(form="both", shrinkage=amount))
        for amount in (0.02, 0.5)
    },
    **{f"M {count}": by_directions(Choices(examples=count)) for count in (25, 50, 200)},
    "negatives at random": by_directions(Choices(negatives="random")),
    "activation: maximum": by_directions(Choices(pooling="max")),
    "not centred": by_directions(Choices(centre=False)),
    "weight only": by_directions(DEFAULT, Reading(contributions="weight")),
    "positive contributions": by_directions(DEFAULT, Reading(contributions="positive")),
    "no contrast": by_directions(DEFAULT, Reading(contrast=False)),
    "no relative sparsity": by_directions(DEFAULT, Reading(relative_sparsity=0.0)),
    "no decorrelation": by_directions(DEFAULT, Reading(decorrelation=0.0)),
    "nearest text": by_directions(DEFAULT, Reading(select="nearest")),
    "matching pursuit": by_directions(DEFAULT, Reading(select="pursuit")),
    "texts not centred": by_directions(DEFAULT, Reading(centre=False)),
    "one template": with_texts(one_template),
    "calibrated texts": with_texts(calibrated),
}


def compete(
    cases: Iterable[Case], entrants: Mapping[str, Entrant], *, maps: bool = True
) -> dict[str, Samples]:
    """Samples by entrant and measure, over all cases."""
    found: dict[str, Samples] = {name: defaultdict(list) for name in entrants}
    group = partial(group_channels, count=GROUPS)
    for case in cases:
        fitted = Directions(case.evidence)
        for name, entrant in entrants.items():
            for measure, samples in _judged(case, fitted, entrant, group, maps).items():
                found[name][measure] += samples
    return found


def _judged(
    case: Case, fitted: Directions, entrant: Entrant, group: Callable[[Array], Array], maps: bool
) -> Samples:
    made: Samples = {}
    if entrant.words is not None:
        words = entrant.words
        made |= judge_words(case, lambda case, asked: words(case, fitted, asked))
    if entrant.scores is not None:
        scores = entrant.scores(case, fitted)
        named = np.where(scores.max(1) > scores.min(1), scores.argmax(1), -1)
        for measure, values in label_measures(case.scoring, named).items():
            made[f"channel {measure}"] = [float(values.mean())]
    if entrant.effects is not None and case.biased:
        probe = "confounded" if case.confounded else "unbiased"
        agreement = effect_agreement(case, entrant.effects(case, fitted))
        made[f"Spearman of presence effects, {probe}"] = [agreement]
    if maps and entrant.directions is not None:
        made |= judge_maps(case, entrant.directions(fitted), group)
    return made
