"""The audits that ``benchmarks.audit`` scores: whole runs on worlds whose shortcuts are known, and cached."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.truth.effects import CueEffect, cue_effects
from benchmarks.truth.shortcuts import (
    World,
    biased_world,
    cache,
    clean_world,
    drawn_shortcuts,
    probe,
    weights,
)
from benchmarks.truth.slice_rivals import Images, domino, keywords
from demo.models import CLIP_FOLDER
from pipelines.config_file import make_config
from pipelines.run import precompute
from textcam.audit import core_texts, foreign_kinds
from textcam.image_rows import image_rows
from textcam.query import Query

RECIPE = 3  # part of the answers' names: raise it when the method changes
STORES = 1  # part of the stores' names: a run redoes in them what has changed
PER_CLASS = 100
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


def effects(case: Case, findings: Sequence[dict[str, Any]]) -> dict[tuple[str, str], CueEffect]:
    """The true effects of what was found, and of what was planted."""
    said = [(one["class_name"], one["text"]) for one in findings]
    return cue_effects(case.world, said + [(one.class_name, one.concept) for one in case.world.planted])
