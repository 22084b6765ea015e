"""What is measured on genuine vectors: names, presence, confidences, effects, and the words of classes.

Each function gives samples: of a measure, the values of its units (channels, attributes, classes), so that
intervals can be drawn over units and seeds.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from benchmarks.truth.class_words import Reading, words_of_directions, words_of_scores
from benchmarks.truth.evidence import Array
from benchmarks.truth.genuine import Case, World, pairs
from benchmarks.truth.genuine_entrants import Told

SURE = 0.9
CLASSES, WEIGHED = 20, 8  # of a random head: its classes, and the channels that each of them has a weight for
PLANTED = 0.8  # the weight of the channel that a class depends on beside its own
LOOKED = 24  # images of a class that its words are read from
LEAST = 0.25  # of the first word's share: words below it are not said
Units = dict[str, list[tuple[str, tuple[float, ...]]]]
"""Of each measure: unit and value, or the values that the measure is computed from over all units."""


def judge_names(case: Case, told: Told) -> Units:
    """First texts of channels against what they mean."""
    made: Units = defaultdict(list)
    order = np.argsort(-told.scores, axis=1, kind="stable")[:, :5]
    said = np.take_along_axis(told.scores, order, axis=1) > -np.inf
    for channel in case.judged:
        unit, texts = case.unit(channel), order[channel][said[channel]]
        by_meaning = case.accepted[channel][:, texts]  # (M, up to 5)
        right = by_meaning.any(0)
        first = bool(right[:1].any())
        sure = None if told.confidence is None else float(told.confidence[channel])
        if case.variant == "where it is not":
            _add(made, unit, "false: what is absent first", first)
            _add(made, unit, "false: what is absent in first three", right[:3].any())
            if sure is not None:
                _add(made, unit, "false: sure of a word", sure >= SURE)
            continue
        _add(made, unit, "first text", first)
        _add(made, unit, "in first three", right[:3].any())
        if case.meanings.shape[1] > 1:
            _add(made, unit, "both in first five", by_meaning.any(1).all())
        if case.partner is not None:
            _judge_partner(made, unit, case, told.scores[channel], texts)
        if sure is not None:
            _add(made, unit, "sure", sure >= SURE)
            _add(made, unit, "calibration error", sure, first)
            if sure >= SURE:
                _add(made, unit, "right where sure", first)
    return made


def _judge_partner(made: Units, unit: str, case: Case, scores: Array, texts: Array) -> None:
    """Is the attribute said that only comes with the channel's own?"""
    partner = case.world.accepted[case.partner]
    _add(made, unit, "false: partner first", partner[texts[:1]].any())
    _add(made, unit, "false: partner in first three", partner[texts[:3]].any())
    own = case.world.accepted[case.meanings[case.judged[0], 0]]
    _add(made, unit, "own before partner", scores[own].max() > scores[partner].max())


def judge_presence(world: World, decided: Array, similarity: Array) -> Units:
    """Of each attribute the best of its own texts: F1 of what is ``decided`` (N, T), also as a share of what
    the best threshold of raw cosines would give; and the AUC of ``similarity`` (N, T)."""
    made: Units = defaultdict(list)
    cosines = world.embeddings @ world.bank.texts.T
    for attribute, truth, own in _by_attribute(world):
        f1 = max(f1_of(decided[:, text], truth) for text in own)
        _add(made, attribute, "presence F1", f1)
        best = max(best_f1(cosines[:, text], truth) for text in own)
        _add(made, attribute, "presence F1, of the best threshold's", f1 / best)
        auc = max(roc_auc_score(truth, similarity[:, text]) for text in own)
        _add(made, attribute, "presence AUC", auc)
    return made


def judge_threshold(world: World) -> Units:
    """The best threshold of raw cosines, known the truth."""
    cosines = world.embeddings @ world.bank.texts.T
    made: Units = defaultdict(list)
    for attribute, truth, own in _by_attribute(world):
        _add(made, attribute, "presence F1", max(best_f1(cosines[:, text], truth) for text in own))
    return made


def _by_attribute(world: World) -> Iterator[tuple[str, Array, Array]]:
    for attribute, truth, accepted in zip(world.attributes, world.truth.T, world.accepted, strict=True):
        if truth.any() and not truth.all():
            yield attribute, truth, np.flatnonzero(accepted)


def f1_of(decided: Array, truth: Array) -> float:
    """Harmonic mean of precision and recall; 0 where nothing was found."""
    return float(2 * (decided & truth).sum() / max(decided.sum() + truth.sum(), 1))


def best_f1(scores: Array, truth: Array) -> float:
    """The F1 of the best threshold on ``scores`` (N,)."""
    found = np.cumsum(truth[np.argsort(-scores, kind="stable")])
    taken = np.arange(1, len(truth) + 1)
    return float((2 * found / (taken + truth.sum())).max())


def true_effects(case: Case, head: Array) -> Array:
    """(C, A): by how much a logit rises with the attribute, all others held: no channel hangs on two."""
    pooled, truth = case.evidence.pooled.astype(np.float64), case.world.truth
    rise = [pooled[t, k].mean() - pooled[~t, k].mean() for k, t in enumerate(truth.T)]
    made: Array = head * np.array(rise)
    return made


def random_head(channels: int, seed: int) -> Array:
    """(CLASSES, K) of both signs, most of it 0."""
    rng = np.random.default_rng([5, seed])
    head = np.zeros((CLASSES, channels))
    for row in head:
        mine = rng.choice(channels, min(WEIGHED, channels), replace=False)
        row[mine] = rng.uniform(0.5, 1.5, len(mine)) * rng.choice([-1, 1], len(mine))
    return head


def judge_effects(case: Case, told: Told) -> Units:
    """Told effects of texts on the logits of a random head against true ones: rank correlation, over the
    channels that a class weighs and over all of them. Of the texts of an attribute the one is asked that raw
    cosines tell best, whatever the method."""
    made: Units = defaultdict(list)
    world, cosines = case.world, case.world.embeddings @ case.world.bank.texts.T
    asked = [
        own[np.argmax([best_f1(cosines[:, t], truth) for t in own])] for _, truth, own in _by_attribute(world)
    ]
    head = random_head(len(asked), case.seed)
    said, true = told.effects(head)[:, asked], true_effects(case, head)
    for row, weights in enumerate(head):
        _add(
            made,
            f"class {row}",
            "effects, weighed channels",
            _ranks(said[row, weights != 0], true[row, weights != 0]),
        )
        _add(made, f"class {row}", "effects, all channels", _ranks(said[row], true[row]))
    return made


def _ranks(a: Array, b: Array) -> float:
    """Spearman; 0 where one is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def judge_findings(case: Case, told: Told) -> Units:
    """Words of classes. Of every attribute there is a class that goes by its channel alone, and one that
    another attribute's channel raises as well: is that said, and only where it is so?"""
    made: Units = defaultdict(list)
    accepted, planted_in = case.world.accepted, pairs(case.world, case.seed)
    shares = shares_of_classes(case, told, planted_in)
    for (a, b), plain, planted in zip(planted_in, *np.split(shares, 2), strict=True):
        unit, others = case.world.attributes[a], ~accepted[a]
        _add(made, unit, "class: own word first", accepted[a][plain.argmax()])
        beside = _said(plain) & others
        _add(made, unit, "class: false other attribute", (beside & accepted.any(0)).any())
        _add(made, unit, "class: false words beside its own", beside.sum())
        beside = np.where(_said(planted) & others, planted, 0)
        _add(made, unit, "class: planted said", (beside[accepted[b]] > 0).any())
        _add(made, unit, "class: planted first beside its own", beside.any() and accepted[b][beside.argmax()])
    return made


def _said(shares: Array) -> Array:
    made: Array = (shares > 0) & (shares >= LEAST * shares.max())
    return made


def shares_of_classes(case: Case, told: Told, planted: Array) -> Array:
    """Shares of texts (2 P, T) of the classes that go by channel a alone, then of those that go by b as well.

    The images of a class are those of its highest logits, as many as show what it goes by, LOOKED at most."""
    pooled, truth, (own, other) = case.evidence.pooled, case.world.truth, planted.T
    alone = np.eye(len(told.scores))[own]
    head = np.concatenate([alone, alone + PLANTED * np.eye(len(told.scores))[other]])
    shown = np.concatenate([truth[:, own], truth[:, own] | truth[:, other]], axis=1).sum(0)
    images, classes = [], []
    for row, (weights, count) in enumerate(zip(head, shown, strict=True)):
        called = np.argsort(-(pooled @ weights), kind="stable")[:count]
        images.append(called[np.unique(np.linspace(0, count - 1, min(LOOKED, count)).astype(int))])
        classes += [row] * len(images[-1])
    evidence, predicted = case.evidence.rows(np.concatenate(images)), np.array(classes)
    if told.directions is None:
        return words_of_scores(evidence, told.scores, head, predicted).class_shares
    return words_of_directions(evidence, told.directions, head, predicted, Reading()).class_shares


def _add(made: Units, unit: str, measure: str, *values: float) -> None:
    made[measure].append((unit, tuple(float(one) for one in values)))
