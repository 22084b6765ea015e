"""T1: {clean, biased} classifier x {unbiased, confounded} probe, on rendered scenes.

Half of a probe's images explain, the other half judges. What is true of a shortcut is its measured effect
when scenes are rendered again without the cue (benchmarks.truth.shortcuts), never the recipe.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from benchmarks.truth.class_words import Words
from benchmarks.truth.evidence import Array, Evidence, Labelled
from benchmarks.truth.measures import auprc, energy_ratio, map_iou, pointing

SHORTCUT = 0.2  # a cue whose removal flips more of the right predictions than this is a true one


@dataclass(frozen=True)
class Pair:
    """A class and a text of which the truth is known."""

    class_id: int
    text: int
    planted: bool
    flip_rate: float
    logit_change: float


@dataclass(frozen=True)
class Case:
    """One classifier on one probe. ``own`` (C,) is the text that names each class; ``masks`` (N, H, W) by
    mask name.
    """

    name: str
    biased: bool
    confounded: bool
    evidence: Evidence
    scoring: Labelled
    head: Array
    predicted: Array
    classes: Array  # (N,), what they are
    labels: Array  # (N, T): what the explained images show
    own: Array
    pairs: tuple[Pair, ...]
    masks: dict[str, Array]
    place: dict[int, str]  # text -> which mask shows it


Method = Callable[[Case, Array], Words]
"""A case and the classes (N,) its images are asked about: words of images and of those classes."""


def judge_words(case: Case, method: Method) -> dict[str, list[float]]:
    """What can be said of one method's words in one case: samples by measure, to be pooled over cases."""
    made: dict[str, list[float]] = {}
    words = method(case, case.predicted)
    planted = [pair for pair in case.pairs if pair.planted]
    true = [pair for pair in planted if pair.flip_rate > SHORTCUT]
    probe = "confounded" if case.confounded else "unbiased"
    if case.biased:
        made[f"shortcut in first three, {probe}"] = [
            float(words.rank(pair.class_id, pair.text) <= 3) for pair in true
        ]
        made[f"pairs AUPRC, {probe}"] = [_pairs_auprc(case, words)]
        made[f"Spearman with effect, {probe}"] = [effect_agreement(case, words.class_leaning)]
        if not case.confounded:
            made["image has the cue, AUPRC"] = list(_image_level(case, method, true))
    else:
        if not case.confounded:
            made["own word first"] = [float(words.rank(c, t) == 1) for c, t in enumerate(case.own)]
        innocent = [pair for pair in planted if pair.flip_rate <= SHORTCUT]
        made[f"false shortcut in first three, {probe}"] = [
            float(words.rank(pair.class_id, pair.text) <= 3) for pair in innocent
        ]
    return made


def _pairs_auprc(case: Case, words: Words) -> float:
    """Planted and true pairs among all pairs of a class and a text that names no class; pairs that are true
    but were not planted are left out.
    """
    others = np.setdiff1d(np.arange(case.labels.shape[1]), case.own)
    leaning = words.class_leaning[:, others]
    standard = (leaning - leaning.mean(1, keepdims=True)) / np.maximum(leaning.std(1, keepdims=True), 1e-12)
    truth, counted = np.zeros(leaning.shape, bool), np.ones(leaning.shape, bool)
    for pair in case.pairs:
        if pair.flip_rate > SHORTCUT:
            at = pair.class_id, np.searchsorted(others, pair.text)
            truth[at], counted[at] = pair.planted, pair.planted
    return auprc(truth[counted], standard[counted])


def effect_agreement(case: Case, told: Array) -> float:
    """Spearman of what is told (C, T) of a class and a text with what the text's attribute does to the
    logit.
    """
    said = [told[pair.class_id, pair.text] for pair in case.pairs]
    return agreement(said, [pair.logit_change for pair in case.pairs])


def agreement(said: list[float], measured: list[float]) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(said, measured).statistic)


def _image_level(case: Case, method: Method, pairs: list[Pair]) -> Iterator[float]:
    """Of a class's own images, do the words say which has the cue? AUPRC a pair with three images or more of
    each sort; on an unbiased probe chance is the cue's share, .05 to .25.
    """
    words = method(case, case.classes)
    for pair in pairs:
        mine = np.flatnonzero(case.classes == pair.class_id)
        shown = case.labels[mine, pair.text]
        if min(shown.sum(), (~shown).sum()) >= 3:
            yield auprc(shown, words.image_leaning[mine, pair.text])


def judge_maps(case: Case, directions: Array, group_of: Callable[[Array], Array]) -> dict[str, list[float]]:
    """Maps of the group whose direction is nearest to a shown text, against the mask of what it names."""
    evidence = case.evidence
    if evidence.maps is None:
        return {}
    groups = group_of(directions)
    member = np.eye(groups.max() + 1)[groups]  # (K, G)
    towards = directions @ (evidence.texts - evidence.texts.mean(0)).T  # (K, T)
    true = [pair for pair in case.pairs if pair.planted and pair.flip_rate > SHORTCUT]
    made: dict[str, list[float]] = {}
    for pair in true if case.biased and not case.confounded else []:
        rows = np.flatnonzero((case.predicted == pair.class_id) & case.labels[:, pair.text])
        if not len(rows):
            continue
        weights = case.head[pair.class_id] - case.head.mean(0)
        strength = np.maximum(weights * evidence.pooled[rows].mean(0), 0)
        best = int(np.argmax(member.T @ (strength * towards[:, pair.text])))
        maps = evidence.maps[rows].astype(np.float32)
        group = np.einsum("bkhw,k->bhw", maps, weights * member[:, best])
        whole = np.einsum("bkhw,k->bhw", maps, weights)
        masks = case.masks[case.place[pair.text]][rows]
        sort = "backgrounds" if case.place[pair.text] == "background" else "things"
        area = masks.mean((1, 2))
        ceiling = float((1 / area[area > 0]).mean())
        made.setdefault(f"mask ceiling of energy, {sort}", []).append(ceiling)
        for name, drawn in (("group", group), ("whole", whole)):
            large = _to_size(drawn, masks.shape[1:])
            for measure, values in (
                ("energy", energy_ratio(large, masks)),
                ("pointing", pointing(large, masks)),
                ("IoU", map_iou(large, masks)),
            ):
                made.setdefault(f"{name} map {measure}", []).append(float(np.nanmean(values)))
            made.setdefault(f"{name} map energy, {sort}", []).append(
                float(np.nanmean(energy_ratio(large, masks)))
            )
    return made


def _to_size(maps: Array, size: tuple[int, ...]) -> Array:
    """Maps (B, h, w) enlarged by whole numbers to a mask's size."""
    return maps.repeat(size[0] // maps.shape[1], 1).repeat(size[1] // maps.shape[2], 2)
