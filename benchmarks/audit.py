"""The audit against known truth: what a classifier goes by, and which verdicts hold.

    .venv/bin/python -m benchmarks.audit run 0 1 2      # whole runs on these worlds, kept in their cache
    .venv/bin/python -m benchmarks.audit score 0 1 2    # the figures, over what is there

A world is a classifier of rendered scenes with three to five planted cues, or with none; the truth is
measured by rendering the same scenes again with one attribute changed. Each classifier is audited by whole
runs on images without a bias and on images that carry the cues of the world (the clean classifiers too).
Scored on seeds that no threshold was chosen on. What corrected heads gain: ``benchmarks.audit_heads``.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import average_precision_score

from benchmarks.audit_cases import Case, cases, effects, run
from benchmarks.measure import Measure, interval, machine, publish
from benchmarks.truth.effects import CueEffect
from benchmarks.truth.shortcuts import Effect, drawn_shortcuts, truth

LEAST = 24  # scenes behind a sure flip rate
TRUE = 0.2  # a pair is used if taking the attribute away flips more than this
DRAWS = 500
AGREE = "rank agreement of effect and"


def strength(finding: dict[str, Any]) -> float:
    """What findings of several worlds are put in one order by: their place in their own audit's list."""
    return 1.0 / finding["rank"]


def scored_pairs(case: Case, scores: dict[tuple[str, str], float]) -> list[tuple[float, bool, bool]]:
    """Every pair whose truth is known, as (score, used in truth, planted); pairs not named score -1."""
    effects = _truths(case).values()
    return [
        (scores.get((one.class_name, one.concept), -1.0), one.flip_rate > TRUE, one.planted)
        for one in effects
    ]


def ranking_measures(name: str, pairs: Sequence[Sequence[tuple[float, bool, bool]]]) -> list[Measure]:
    """Of the planted pairs that the truth says are used, against all that it says are not; other pairs that
    are used count for nothing. ``pairs`` by world."""
    counted = [[one for one in world if one[2] or not one[1]] for world in pairs]
    flat = [one for world in counted for one in world]
    score = np.array([one[0] for one in flat])
    is_used = np.array([one[1] and one[2] for one in flat])
    each = [
        average_precision_score([one[1] and one[2] for one in world], [one[0] for one in world])
        for world in counted
        if any(one[1] and one[2] for one in world)
    ]
    first = np.argsort(-score, kind="stable")[:10]
    named = score[first] >= 0
    at_ten = float((is_used[first] & named).sum() / 10)
    measures = [Measure(f"{name}, precision at 10", at_ten, goal=0.95, better="higher")]
    if each:
        first = [precision_of_first(world) for world in counted if any(one[1] and one[2] for one in world)]
        called = f"{name}, precision at as many as a world has"
        measures.append(Measure(called, *interval(first, np.mean), better="higher"))
        middle, low, high = interval(each, np.mean)
        measures.append(Measure(f"{name}, AUPRC by world", middle, low, high, goal=0.9, better="higher"))
        pooled = float(average_precision_score(is_used, score))
        measures.append(Measure(f"{name}, AUPRC over all worlds", pooled, goal=0.9, better="higher"))
    return measures


def precision_of_first(pairs: Sequence[tuple[float, bool, bool]]) -> float:
    """Of the first n pairs of a world, the share that is planted and used, n being how many pairs are."""
    wanted = [one[1] and one[2] for one in pairs]
    first = sorted(range(len(pairs)), key=lambda at: -pairs[at][0])[: sum(wanted)]
    return sum(wanted[at] and pairs[at][0] >= 0 for at in first) / max(1, sum(wanted))


def score(seeds: Sequence[int]) -> list[Measure]:
    """All figures over the cases whose answers are in the cache."""
    done = [(case, run(case)) for case in cases(seeds) if case.answers.exists()]
    measures = [
        Measure(
            "planted pairs used by their classifier (of biased worlds scored)", _planted(done, used=True)
        ),
        Measure(
            "planted pairs (of biased worlds scored)", _planted(done, used=False), goal=60, better="higher"
        ),
        Measure(
            "clean classifiers scored",
            len({c.world.key for c, _ in done if not c.world.planted}),
            goal=20,
            better="higher",
        ),
    ]
    for confounded in (False, True):
        where = "images with the bias" if confounded else "images without a bias"
        clean = [one for case, one in done if not case.world.planted and case.confounded == confounded]
        for rival in ("domino", "keywords"):
            named = sum(len(one["rivals"][rival]) for one in clean)
            measures.append(
                Measure(f"{rival}, {where}: pairs named for {len(clean)} clean classifiers", named)
            )
        biased = [(case, one) for case, one in done if case.world.planted and case.confounded == confounded]
        if not biased:
            continue
        ours = [
            scored_pairs(case, {(f["class_name"], f["text"]): strength(f) for f in one["findings"]})
            for case, one in biased
        ]
        measures += ranking_measures(f"audit, {where}", ours)
        for rival in ("domino", "keywords"):
            theirs = [
                scored_pairs(case, {(c, t): value for c, t, value in one["rivals"][rival]})
                for case, one in biased
            ]
            measures += ranking_measures(f"{rival}, {where}", theirs)
        measures += effect_measures(where, biased)
    return measures + verdict_measures(done)


def _planted(done: Sequence[tuple[Case, Any]], *, used: bool) -> float:
    worlds = {case.world.key: case.world for case, _ in done if case.world.planted}
    effects = [one for world in worlds.values() for one in truth(world) if one.planted]
    return float(sum(one.flip_rate > TRUE for one in effects) if used else len(effects))


def _truths(case: Case) -> dict[tuple[str, str], Effect]:
    return {
        (one.class_name, one.concept): one
        for one in truth(case.world, pairs=drawn_shortcuts(case.world.seed))
    }


def effect_measures(where: str, done: Sequence[tuple[Case, dict[str, Any]]]) -> list[Measure]:
    """Does a larger effect of a finding go with a larger true one? Both in points of accuracy, and against
    the flip rate of the scenes that are right with the cue."""
    seen = []
    for case, one in done:
        known = effects(case, one["findings"])
        for found in one["findings"]:
            true = known.get((found["class_name"], found["text"]))
            if true is not None and found["effect"] is not None:
                counts = (found["n_with"], found["n_without"], true.n, true.n_right)
                seen.append((found["effect"], true.effect, true.flip_rate, *counts))
    table = np.array(seen).reshape(-1, 7)
    sure = table[table[:, 6] >= LEAST]
    if len(table) < 3:
        return []
    measures = [
        Measure(
            f"{where}: {AGREE} {name} (n={len(rows)})",
            *agreement(rows[:, (0, column)]),
            goal=0.8,
            better="higher",
        )
        for name, rows, column in (
            ("true effect", table, 1),
            ("true flip rate", table, 2),
            (f"true flip rate of {LEAST} scenes or more", sure, 2),
        )
        if len(rows) > 2
    ]
    allowed = f"{where}: rank agreement with the true effect that as many images allow"
    two_truths = f"{where}: rank agreement of true effect and true flip rate"
    return [
        *measures,
        Measure(allowed, *allowed_agreement(table), better="higher"),
        Measure(two_truths, *agreement(table[:, (1, 2)]), better="higher"),
    ]


def agreement(pairs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Spearman's rank correlation of the columns (n, 2), and the bounds of 95 in 100 bootstrap resamples."""
    rng = np.random.default_rng(0)
    drawn = [spearmanr(*pairs[rng.integers(0, len(pairs), len(pairs))].T).statistic for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(spearmanr(*pairs.T).statistic), float(low), float(high)


def allowed_agreement(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """The agreement of who sees without error which images show the cue, and has as many images and scenes:
    effect and truth drawn anew from binomials with the measured rates. Mean, and the bounds of 95 in 100
    draws."""
    _, effect, _, n_with, n_without, n, n_right = table.T
    rng, with_ = np.random.default_rng(0), n_right / n
    without = np.clip(with_ - effect, 0, 1)

    def drawn(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        found = rng.binomial(first.astype(int), with_) / first
        return found - rng.binomial(second.astype(int), without) / second

    reached = [spearmanr(drawn(n_with, n_without), drawn(n, n)).statistic for _ in range(DRAWS)]
    low, high = np.quantile(reached, (0.025, 0.975))
    return float(np.mean(reached)), float(low), float(high)


def verdict_measures(done: Sequence[tuple[Case, dict[str, Any]]]) -> list[Measure]:
    """How many verdicts of use are false, and how many used pairs got theirs."""
    measures, right = [], 0
    total = 0
    for biased in (True, False):
        for confounded in (False, True):
            chosen = [
                (c, one) for c, one in done if bool(c.world.planted) == biased and c.confounded == confounded
            ]
            if not chosen:
                continue
            who = f"{'biased' if biased else 'clean'} models, {'biased' if confounded else 'unbiased'} images"
            true, missed = [], []
            for case, one in chosen:
                known = effects(case, one["findings"])
                said = {(f["class_name"], f["text"]): f["verdict"] for f in one["findings"]}
                used = [pair for pair, verdict in said.items() if verdict == "used"]
                true += [pair in known and known[pair].flip_rate > TRUE for pair in used]
                missed += _said_of_planted(case, known, said)
            measures += [
                Measure(f"{who}: classifiers", len(chosen)),
                Measure(f"{who}: findings", sum(len(one["findings"]) for _, one in chosen)),
                Measure(f"{who}: verdicts of use", len(true)),
                Measure(f"{who}: false verdicts of use", true.count(False)),
                *_verdicts_of_planted(who, missed),
            ]
            right, total = right + sum(true), total + len(true)
    rate = binomtest(total - right, total).proportion_ci() if total else None
    low, high = (None, None) if rate is None else (rate.low, rate.high)
    false = (total - right) / max(1, total)
    return [*measures, Measure("false among all verdicts of use", false, low, high, goal=0.05)]


def _said_of_planted(
    case: Case, known: dict[tuple[str, str], CueEffect], said: dict[tuple[str, str], str]
) -> list[tuple[str, str]]:
    """Of each planted pair that is used: the attribute, and its verdict or "not found"."""
    pairs = [(cue.attribute, (cue.class_name, cue.concept)) for cue in case.world.planted]
    return [(name, said.get(pair, "not found")) for name, pair in pairs if known[pair].flip_rate > TRUE]


def _verdicts_of_planted(who: str, said: Sequence[tuple[str, str]]) -> list[Measure]:
    made = []
    if said:
        used = [verdict == "used" for _, verdict in said]
        name = f"{who}: share of used planted pairs called used (n={len(said)})"
        made.append(Measure(name, float(np.mean(used)), better="higher"))
        for verdict in ("unproven", "association", "not found"):
            share = float(np.mean([one == verdict for _, one in said]))
            made.append(Measure(f"{who}:   {verdict}", share))
        for attribute in sorted({name for name, _ in said}):
            mine = [verdict == "used" for name, verdict in said if name == attribute]
            name = f"{who}:   called used, {attribute} (n={len(mine)})"
            made.append(Measure(name, float(np.mean(mine)), better="higher"))
    return made


def main() -> None:
    """Run or score."""
    act, *names = sys.argv[1:]
    seeds = [int(one) for one in names]
    if act == "run":
        for case in cases(seeds):
            found = run(case)
            effects(case, found["findings"])
            said = [(f["class_name"], f["text"], f["verdict"]) for f in found["findings"][:6]]
            print(
                case.world.seed,
                bool(case.world.planted),
                case.confounded,
                said,
                flush=True,
            )
        return
    publish("audit", score(seeds), machine(), write=True)


if __name__ == "__main__":
    main()
