"""A whole and coherent store of any number of synthetic images, made one shard at a time from a seed.

Activations are what is left of a mix of 32 causes above zero; embeddings are the same causes seen through
another mix, with noise. So parts compress and rank about as real ones do, and what must agree agrees.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.manifest import FINGERPRINTS, Manifest, PartRecord
from store.schema import SIDES, Dims, Table, stable_id, tables
from store.storage import Storage
from store.writer import sort_rows, write_part
from textcam.accumulate import TopK

CHANNELS, EMBEDDING, CLASSES, GROUPS, TEXTS, CAUSES, WORDS = 2048, 512, 100, 32, 2000, 32, 5
EXAMPLES, SHARD_ROWS = 100, 4096
DIMS = Dims(CHANNELS, EMBEDDING, 1)
TABLES = tables(DIMS)
TEXT_IDS = np.array([stable_id(f"text {number}") for number in range(TEXTS)])


def write_shard(storage: Storage, number: int, images: int) -> list[PartRecord]:
    """The parts of one shard of ``images``."""
    rows = np.arange(number * SHARD_ROWS, min(images, (number + 1) * SHARD_ROWS))
    uris = np.array([f"images/{row:08d}.jpg" for row in rows])
    ids = np.array([stable_id(uri) for uri in uris])
    order = np.argsort(ids)
    columns = _shard_columns(number, ids[order], uris[order])
    return [write(storage, name, given, f"shard-{number:05d}") for name, given in columns.items()]


def _shard_columns(number: int, ids: NDArray[np.int64], uris: NDArray[Any]) -> dict[str, dict[str, Any]]:
    fixed, random, n = np.random.default_rng(0), np.random.default_rng((1, number)), len(ids)
    seen = fixed.standard_normal((CAUSES, CHANNELS), np.float32)
    meant = fixed.standard_normal((CAUSES, EMBEDDING), np.float32)
    causes = random.standard_normal((n, CAUSES), np.float32)
    noise = random.standard_normal((n, EMBEDDING), np.float32)
    classes = causes.argmax(axis=1) % CLASSES
    return {
        "images": {
            "image_id": ids,
            "uri": uris,
            "content_hash": [hashlib.sha256(uri.encode()).hexdigest() for uri in uris],
            "width": np.full(n, 500),
            "height": np.full(n, 375),
            "label": classes,
            "prediction": classes,
            "confidence": random.random(n),
            "shard": np.full(n, number),
        },
        "embeddings": {"image_id": ids, "embedding": unit(causes @ meant + 2 * noise)},
        "activations": {"image_id": ids, "pooled": np.maximum(causes @ seen * np.float32(0.1), 0)},
        "explanations": {
            "image_id": ids,
            "class_id": classes,
            "text_ids": TEXT_IDS[random.integers(0, TEXTS, (n, WORDS))],
            "coefficients": random.random((n, WORDS)),
            "group_ids": np.tile(np.arange(GROUPS), (n, 1)),
            "group_contributions": random.standard_normal((n, GROUPS)),
        },
    }


def write_whole(storage: Storage, examples: TopK, images: int) -> list[PartRecord]:
    """The parts of the tables that a run writes once, with the examples it merged."""
    random = np.random.default_rng(2)
    directions = unit(random.standard_normal((CHANNELS, EMBEDDING), np.float32))
    texts = unit(random.standard_normal((TEXTS, EMBEDDING), np.float32))
    group_of = np.arange(CHANNELS) % GROUPS
    of_groups = unit(np.stack([directions[group_of == group].sum(axis=0) for group in range(GROUPS)]))
    whole = {
        "examples": _examples(examples),
        "channels": {
            "channel": np.arange(CHANNELS),
            "direction": directions,
            "region_direction": directions,
            "separation": random.random(CHANNELS),
            "active_fraction": random.random(CHANNELS),
            "group_id": group_of,
            **_words(directions, texts),
        },
        "groups": {
            "group_id": np.arange(GROUPS),
            "direction": of_groups,
            "channels": np.arange(CHANNELS).reshape(-1, GROUPS).T,
            **_words(of_groups, texts),
        },
        "texts": {
            "text_id": TEXT_IDS,
            "text": [f"text {number}" for number in range(TEXTS)],
            "kind": ["object"] * TEXTS,
            "embedding": texts,
        },
        "classes": {
            "class_id": np.arange(CLASSES),
            "name": [f"class {number}" for number in range(CLASSES)],
            "weights": random.standard_normal((CLASSES, CHANNELS)),
            "bias": np.zeros(CLASSES),
            "n_images": np.full(CLASSES, images // CLASSES),
            "accuracy": np.ones(CLASSES),
        },
        "class_texts": {
            "class_id": np.repeat(np.arange(CLASSES), WORDS),
            "text_id": np.tile(TEXT_IDS[:WORDS], CLASSES),
            "share": np.full(CLASSES * WORDS, 1 / WORDS),
            "contribution": np.ones(CLASSES * WORDS),
            "n": np.ones(CLASSES * WORDS),
        },
    }
    return [write(storage, name, columns, "all") for name, columns in whole.items()]


def _words(directions: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, Any]:
    similarity = directions @ texts.T
    nearest = np.argsort(-similarity, axis=1)[:, :WORDS]
    return {"text_ids": TEXT_IDS[nearest], "similarities": np.take_along_axis(similarity, nearest, axis=1)}


def _examples(examples: TopK) -> dict[str, Any]:
    pieces = []
    for side, kept in zip(SIDES, examples.sides(), strict=True):
        channel, rank = np.nonzero(kept.image_ids >= 0)
        ids, activations = kept.image_ids[channel, rank], kept.activations[channel, rank]
        pieces.append((channel, np.full(len(channel), side), rank, ids, activations))
    names = ("channel", "side", "rank", "image_id", "activation")
    return {
        name: np.concatenate(columns) for name, columns in zip(names, zip(*pieces, strict=True), strict=True)
    }


def manifest(parts: list[PartRecord], **more: Any) -> Manifest:
    """Snapshot 1 of these parts."""
    fingerprints = {name: hashlib.sha256(name.encode()).hexdigest() for name in FINGERPRINTS}
    return Manifest(snapshot=1, dims=DIMS, fingerprints=fingerprints, parts=tuple(parts), **more)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def write(storage: Storage, name: str, columns: dict[str, Any], part: str) -> PartRecord:
    """One part, from NumPy arrays or lists by column; two-dimensional ones where the table has lists."""
    table: Table = TABLES[name]
    arrays = [_array(columns[one.name], one.type) for one in table.schema]
    return write_part(storage, table, _by_key(table, pa.Table.from_arrays(arrays, schema=table.schema)), part)


def _by_key(table: Table, rows: pa.Table) -> pa.Table:
    """Sorted by key; a bulk table comes sorted and is not copied."""
    return rows if table.key == ("image_id",) else sort_rows(table, rows)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_nested(kind):
        return pa.array(values).cast(kind)
    rows = np.asarray(values)
    flat = pa.array(rows.astype(kind.value_type.to_pandas_dtype()).ravel(), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    offsets = pa.array(np.arange(0, rows.size + 1, rows.shape[1]), pa.int32())
    return pa.ListArray.from_arrays(offsets, flat, type=kind)
