"""What can be said of a method's words, channels, groups and maps in a world of a family."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from benchmarks.truth.class_words import Words
from benchmarks.truth.contest import GROUPS, Entrant, Samples
from benchmarks.truth.evidence import Array
from benchmarks.truth.family_cases import FamilyCase
from benchmarks.truth.measures import auprc, label_measures
from benchmarks.truth.ours import DEFAULT, Directions
from benchmarks.truth.square import judge_maps
from textcam.arrays import unit_rows
from textcam.groups import group_channels

SHOWN = 3  # words of a class whose maps a reader looks at
LEAST_MOVED, DOMINANT = 0.05, 1.6  # of a channel that has a topic: its effect, and the topic's even shares


def compete_in_family(cases: Iterable[FamilyCase], entrants: dict[str, Entrant]) -> dict[str, Samples]:
    """Samples by entrant and measure, over all cases."""
    found: dict[str, Samples] = {name: defaultdict(list) for name in entrants}
    for one in cases:
        fitted = Directions(one.case.evidence)
        if "ours" in found:
            for measure, samples in judge_confidence(one, fitted.names(DEFAULT).confidence).items():
                found["ours"][measure] += samples
        for name, entrant in entrants.items():
            for measure, samples in _judged(one, fitted, entrant).items():
                found[name][measure] += samples
    return found


def _judged(one: FamilyCase, fitted: Directions, entrant: Entrant) -> Samples:
    made: Samples = {}
    case = one.case
    words = entrant.words and entrant.words(case, fitted, case.predicted)
    if words is not None:
        made |= judge_class_words(one, words)
    if entrant.scores is not None:
        scores = entrant.scores(case, fitted)
        named = np.where(scores.max(1) > scores.min(1), scores.argmax(1), -1)
        for measure, values in label_measures(case.scoring, named).items():
            made[f"channel {measure}"] = [float(values.mean())]
        rows = entrant.directions(fitted) if entrant.directions else unit_rows(scores - scores.mean(0))
        made |= judge_groups(one, rows.astype(np.float32))
    if entrant.effects is not None:
        told = entrant.effects(case, fitted)[:, : len(one.seen)]
        made["Spearman of presence effects"] = [_agreement(one, told)]
    if entrant.directions is not None:
        directions = entrant.directions(fitted)
        made |= judge_maps(case, directions, _grouped)
        if words is not None:
            said = tuple(pair for pair in case.pairs if words.rank(pair.class_id, pair.text) <= SHOWN)
            of_said = judge_maps(replace(case, pairs=said), directions, _grouped)
            made |= {f"{measure}, said words": values for measure, values in of_said.items()}
    return made


def _grouped(rows: Array) -> Array:
    return group_channels(rows, count=GROUPS)


def judge_class_words(one: FamilyCase, words: Words) -> Samples:
    """First words and all said words against the attributes that are in the rule and flip the class."""
    made: Samples = defaultdict(list)
    texts = words.class_shares.shape[1]
    usable = np.ones(texts, bool)
    usable[: len(one.seen)] = one.seen
    for class_id in range(len(one.used)):
        right, neutral = np.zeros(texts, bool), np.zeros(texts, bool)
        right[: len(one.seen)] = one.used[class_id] & one.seen
        neutral[: len(one.seen)] = one.neutral[class_id]
        counted = usable & ~neutral
        if not right.any():
            continue
        ranks = np.array([words.rank(class_id, text) for text in range(texts)])
        order = np.argsort(ranks, kind="stable")
        said = [text for text in order if counted[text] and np.isfinite(ranks[text])]
        made["first word is in the rule"].append(float(bool(said) and right[said[0]]))
        found = right[said[: max(3, int(right.sum()))]].sum()
        made["words of the rule in the first three"].append(float(found / right.sum()))
        if said:
            made["said words that are in the rule"].append(float(right[said].mean()))
        made["rule AUPRC"].append(auprc(right[counted], words.class_leaning[class_id][counted]))
    made["Spearman with effect"] = [_agreement(one, words.class_leaning[:, : len(one.seen)])]
    return dict(made)


def _agreement(one: FamilyCase, told: Array) -> float:
    """Spearman of what is told (C, W) with the effect on logits, words that the encoder sees."""
    return float(spearmanr(told[:, one.seen].ravel(), one.change[:, one.seen].ravel()).statistic)


def channel_topics(one: FamilyCase) -> Array:
    """(K,) the topic whose words move a channel most when the scene is drawn again, by how much they move
    channels on the whole (a large part moves all of them); -1 where nothing does, or where the topic has
    less than 1.6 of its even share.
    """
    topics = one.topics.max() + 1
    common = np.maximum(one.moved.mean(0), 1e-12)
    apart = one.moved / common
    moved = np.stack([apart[:, one.topics == topic].mean(1) for topic in range(topics)], 1)
    share = moved.max(1) / np.maximum(moved.sum(1), 1e-12)
    sure = (one.moved.max(1) > LEAST_MOVED) & (share >= DOMINANT / topics)
    return np.where(sure, moved.argmax(1), -1)


def judge_confidence(one: FamilyCase, confidence: Array) -> Samples:
    """Mean ``confidence`` (K,) of the names of channels that are about what the encoder sees, and of those
    about what it does not see, whose names cannot be right.
    """
    about = channel_topics(one)
    made: Samples = {}
    for name, seen in (("seen", True), ("not seen", False)):
        topics = [topic for topic in np.unique(one.topics) if one.seen[one.topics == topic].any() == seen]
        mine = np.isin(about, topics)
        if mine.any():
            made[f"confidence of channels about what is {name}"] = [float(confidence[mine].mean())]
    return made


def judge_groups(one: FamilyCase, rows: Array) -> Samples:
    """Channels clustered by ``rows`` (K, *), as many groups as topics, against what moves them; and how pure
    the groups of a run are, above what groups of the same sizes at random are.
    """
    truth = channel_topics(one)
    sure = truth >= 0
    if sure.sum() < 8 or len(np.unique(truth[sure])) < 2 or not rows.any():
        return {}
    few = group_channels(rows, count=int(one.topics.max()) + 1)
    many = group_channels(rows, count=GROUPS)
    pure = _purity(many[sure], truth[sure])
    rng = np.random.default_rng(0)
    chance = np.mean([_purity(rng.permutation(many[sure]), truth[sure]) for _ in range(50)])
    return {
        "groups ARI": [float(adjusted_rand_score(truth[sure], few[sure]))],
        "groups purity": [pure],
        "groups purity above chance": [float((pure - chance) / max(1 - chance, 1e-12))],
    }


def _purity(groups: Array, truth: Array) -> float:
    """Share of channels whose topic is the most frequent of their group."""
    table = np.zeros((groups.max() + 1, truth.max() + 1))
    np.add.at(table, (groups, truth), 1)
    return float(table.max(1).sum() / len(truth))
