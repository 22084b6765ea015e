"""The audit against known truth: what a classifier goes by, and which verdicts hold.

    .venv/bin/python -m benchmarks.audit run 0 1 2      # whole runs on these worlds, kept in their cache
    .venv/bin/python -m benchmarks.audit score 0 1 2    # the figures, over what is there

A world is a classifier of rendered scenes with three to five planted cues, or with none; the truth is
measured by rendering the same scenes again with one attribute changed. Each classifier is audited by whole
runs on images without a bias and on images that carry the cues of the world (the clean classifiers too).
Scored on seeds that no threshold was chosen on. What corrected heads gain: ``benchmarks.audit_heads``.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from benchmarks.measure import Measure, interval, machine, publish
from benchmarks.truth.effects import CueEffect, cue_effects
from benchmarks.truth.shortcuts import (
    Effect,
    World,
    biased_world,
    cache,
    clean_world,
    drawn_shortcuts,
    probe,
    truth,
    weights,
)
from benchmarks.truth.slice_rivals import Images, domino, keywords
from demo.models import CLIP_FOLDER
from pipelines.config_file import make_config
from pipelines.run import precompute
from textcam.audit import core_texts, foreign_kinds
from textcam.image_rows import image_rows
from textcam.query import Query

RECIPE = 2  # part of the answers' names: raise it when the method changes
STORES = 1  # part of the stores' names: a run redoes in them what has changed
PER_CLASS = 100
LEAST = 24  # scenes behind a sure flip rate
TRUE = 0.2  # a pair is used if taking the attribute away flips more than this
TEXTS = Path(__file__).parents[1] / "demo" / "texts.csv"


@dataclass(frozen=True)
class Case:
    """One audit: a world's classifier on images with or without the world's bias."""

    world: World
    confounded: bool

    @property
    def name(self) -> str:
        """A name for caches."""
        kind = "confounded" if self.confounded else "unbiased"
        return f"{self.world.key}-{kind}-{PER_CLASS}"

    @property
    def answers(self) -> Path:
        """The file of its answers."""
        return cache() / f"audit{RECIPE}-{self.name}.json"


def cases(seeds: Sequence[int]) -> Iterator[Case]:
    """Four cases a seed."""
    for seed in seeds:
        for world in (biased_world(seed), clean_world(seed)):
            yield from (Case(world, False), Case(world, True))


# --- runs -------------------------------------------------------------------------------------------------


def run(case: Case) -> dict[str, Any]:
    """The case's answers, from the cache or by a whole run."""
    path = case.answers
    if not path.exists():
        made = answers(case, store_of(case))
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(made, default=float))
        unfinished.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def store_of(case: Case) -> Path:
    """The store of a whole run."""
    folder = probe(
        drawn_shortcuts(case.world.seed),
        confounded=case.confounded,
        per_class=PER_CLASS,
        seed=case.world.seed,
    )
    store = cache() / f"audit{STORES}-{case.name}-store"
    precompute(make_config(configuration(folder, weights(case.world), store)), lambda progress: None)
    return store


def configuration(images: Path, classifier: Path, store: Path) -> dict[str, Any]:
    """A whole run with the demo's encoder and texts."""
    return {
        "images": {"uri": str(images)},
        "classifier": {"model": "python:demo.models:tiny_classifier", "weights": str(classifier)},
        "encoder": {"model": f"local-dir:{CLIP_FOLDER}"},
        "texts": {"bank": str(TEXTS)},
        "directions": {"examples": 50},
        "groups": {"count": 12},
        "run": {"executor": "inline", "shard_size": 400, "batch_size": 100},
        "store": str(store),
    }


def answers(case: Case, store: Path) -> dict[str, Any]:
    """Findings and the rivals' pairs, as plain values."""
    query = Query.open(store)
    found = query.findings()
    records = [
        {**asdict(one), "class_name": pair[0], "text": pair[1]}
        for one, pair in ((one, query.audit.pair(one)) for one in found)
    ]
    return {"findings": records, "rivals": rivals(query)}


def rivals(query: Query) -> dict[str, list[Any]]:
    """Pairs (class, text, score) of the other methods."""
    catalogue = query.audit.catalogue
    texts, names = catalogue.texts, catalogue.classes.names
    core = core_texts(names, texts.texts)
    foreign = ~core & foreign_kinds(core, texts.kinds)
    rows = list(image_rows(query.snapshot, embeddings=True))
    images = Images(
        np.concatenate([one.embeddings for one in rows]),
        np.concatenate([one.labels for one in rows]),
        np.concatenate([one.predictions for one in rows]),
    )
    made = {
        "domino": domino(images, texts.embeddings, foreign),
        "keywords": keywords(images, texts.embeddings, foreign),
    }
    return {
        name: [[names[class_id], texts.texts[text], score] for (class_id, text), score in pairs.items()]
        for name, pairs in made.items()
    }


# --- scores -----------------------------------------------------------------------------------------------


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
        middle, low, high = interval(each, np.mean)
        measures.append(Measure(f"{name}, AUPRC by world", middle, low, high, goal=0.9, better="higher"))
        pooled = float(average_precision_score(is_used, score))
        measures.append(Measure(f"{name}, AUPRC over all worlds", pooled, goal=0.9, better="higher"))
    return measures


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
                seen.append((found["effect"], true.effect, true.flip_rate, true.n_right))
    table = np.array(seen).reshape(-1, 4)
    sure = table[table[:, 3] >= LEAST]
    return [
        Measure(
            f"{where}: rank agreement of effect and {name} (n={len(rows)})",
            float(spearmanr(rows[:, 0], rows[:, column]).statistic),
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


def effects(case: Case, findings: Sequence[dict[str, Any]]) -> dict[tuple[str, str], CueEffect]:
    """The true effects of what was found, and of what was planted."""
    said = [(one["class_name"], one["text"]) for one in findings]
    return cue_effects(case.world, said + [(one.class_name, one.concept) for one in case.world.planted])


def verdict_measures(done: Sequence[tuple[Case, dict[str, Any]]]) -> list[Measure]:
    """How many verdicts of use are false, and how many used pairs got theirs."""
    measures = []
    for biased in (True, False):
        for confounded in (False, True):
            chosen = [
                (c, one) for c, one in done if bool(c.world.planted) == biased and c.confounded == confounded
            ]
            if not chosen:
                continue
            verdicts, missed = [], []
            for case, one in chosen:
                known = effects(case, one["findings"])
                said = {(f["class_name"], f["text"]) for f in one["findings"] if f["verdict"] == "used"}
                verdicts += [pair in known and known[pair].flip_rate > TRUE for pair in said]
                planted = [(pair.class_name, pair.concept) for pair in case.world.planted]
                missed += [pair not in said for pair in planted if known[pair].flip_rate > TRUE]
            who = f"{'biased' if biased else 'clean'} models, {'biased' if confounded else 'unbiased'} images"
            shown = sum(len(one["findings"]) for _, one in chosen)
            measures.append(Measure(f"{who}: findings", shown))
            measures.append(Measure(f"{who}: verdicts of use", len(verdicts)))
            measures.append(Measure(f"{who}: false verdicts of use", verdicts.count(False)))
            if missed:
                measures.append(
                    Measure(
                        f"{who}: share of used planted pairs called used",
                        1 - float(np.mean(missed)),
                        better="higher",
                    )
                )
    every = [m for m in measures if m.name.endswith("false verdicts of use")]
    total = [m for m in measures if m.name.endswith(": verdicts of use")]
    rate = sum(m.value for m in every) / max(1.0, sum(m.value for m in total))
    return [*measures, Measure("false among all verdicts of use", rate, goal=0.05)]


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
