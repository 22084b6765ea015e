"""Stores for questions: one whose answers can be worked out by hand, and one whose tables are changed by
hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from store.manifest import Manifest
from store.reader import Snapshot
from store.schema import tables
from store.storage import open_storage
from store.writer import commit, sort_rows, write_part
from tests.store.worlds import TinyWorld, configuration, tiny_manifest, write_images

WORDS = {"form": "whole", "contrast": False, "sparsity": 0.1, "decorrelation": 0.0}


def hand_world() -> TinyWorld:
    """7 channels, 17 embedding numbers, 13 texts, 3 classes, 2 groups (even and odd channels)."""
    world = TinyWorld(embedding=17)
    axes = np.eye(17, dtype=np.float32)
    world.text_embeddings, world.directions = axes[:13], axes[:7]
    world.region_directions = axes[[1, 2, 3, 4, 5, 6, 7]]
    world.pooled = (np.add.outer(np.arange(11) * 3, np.arange(7) * 5) % 4).astype(np.float32)
    world.pooled[0] = [3, 1, 0, 1, 0, 2, 0]
    world.weights = np.array(
        [[2, 0, 0, 1, 0, 0, 0], [0, 2, 1, 0, 0, 0, -1], [0, 0, 0, 1, 2, -1, 1]], np.float32
    )
    world.bias = np.array([0.5, -0.5, 0.25], np.float32)
    world.logits = world.pooled @ world.weights.T + world.bias
    world.predictions = world.logits.argmax(axis=1)
    world.contributions = world.weights[world.predictions] * world.pooled
    return world


def hand_store(folder: Path, words: dict[str, Any] | None = None) -> Path:
    """The world as a store; ``words`` changes the settings of word selection."""
    world, storage = hand_world(), open_storage(folder)
    images = Path(f"{folder}-images")
    write_images(images, world)
    config = {**configuration(images), "words": {**WORDS, **(words or {})}}
    commit(storage, replace(tiny_manifest(storage, world, 2, images), config=config))
    return folder


Rows = list[dict[str, Any]]
Edit = Callable[[Rows], Rows]


def edited(uri: Path, edits: dict[str, Edit], **manifest: Any) -> Snapshot:
    """The tiny store with some tables rewritten: ``edits`` gets and gives plain rows."""
    storage = open_storage(uri)
    before = tiny_manifest(storage, TinyWorld(), 2, None)
    snapshot, known = Snapshot(storage, before), tables(before.dims)
    parts = [part for part in before.parts if part.table not in edits]
    for name, edit in edits.items():
        rows = pa.Table.from_pylist(edit(snapshot.table(name).to_pylist()), schema=known[name].schema)
        parts.append(write_part(storage, known[name], sort_rows(known[name], rows), "edited"))
    indexes = tuple(one for one in before.indexes if one.table not in edits)
    made: Manifest = replace(before, parts=tuple(parts), indexes=indexes, **manifest)
    commit(storage, made)
    return Snapshot.open(uri)
