"""A tiny, whole and coherent store, for every test that needs one to read.

Sizes are different primes: 7 channels, 5 embedding numbers, 11 images in 2 shards, 3 classes, 13 texts, 2
groups. Numbers come from a seed, but what must agree agrees: vectors are of unit length, examples are the
real extremes of the activations, contributions are weights times activations, groups and channels name each
other, and the images are real PNG files beside the store.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from store.index import INDEXED, write_index
from store.manifest import Manifest, PartRecord
from store.reader import Snapshot
from store.schema import WHOLE_MAP, Dims, stable_id, tables
from store.storage import Storage, open_storage
from store.writer import commit, sort_rows, write_part

CLASSES = ("circle", "square", "star")
TEXTS = {
    "a circle": "object",
    "a square": "object",
    "a star": "object",
    "a point": "part",
    "an edge": "part",
    "red": "colour",
    "green": "colour",
    "blue": "colour",
    "stripes": "texture",
    "metal": "material",
    "a meadow": "scene",
    "a watermark": "artefact",
    "noise": "other",
}
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 210)}
WIDTH, HEIGHT = 24, 16
MAP_SHAPE = (3, 2)
EXAMPLES = 2


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of unit length, float32; zero rows stay zero."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)


def vectors(values: NDArray[Any], like: pa.DataType) -> pa.Array:
    """(n, d) numbers as a FixedSizeList array of the type ``like``."""
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(values, like.value_type.to_pandas_dtype()).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, like.value_type), type=like)


@dataclass
class TinyWorld:
    """The numbers of the tiny store, so that a test can compute its answers by hand."""

    channels: int = 7
    embedding: int = 5
    images: int = 11
    seed: int = 3
    uris: list[str] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        K, D, N, C = self.channels, self.embedding, self.images, len(CLASSES)
        self.dims = Dims(K, D, MAP_SHAPE[0] * MAP_SHAPE[1])
        self.labels = np.arange(N) % C
        self.uris = [f"{CLASSES[c]}/bild-ä-{i:02d}.png" for i, c in enumerate(self.labels)]
        self.contents = list(self.uris)  # what the hash of an image's content is of
        self.image_ids = np.array([stable_id(uri) for uri in self.uris])
        self.pooled = random.gamma(2.0, 1.0, (N, K)).astype(np.float16).astype(np.float32)
        self.embeddings = unit(random.normal(size=(N, D)))
        self.directions = unit(random.normal(size=(K, D)))
        self.region_directions = unit(self.directions + 0.3 * random.normal(size=(K, D)))
        self.group_of = np.arange(K) % min(2, K)
        self.groups = int(self.group_of.max()) + 1
        self.texts = list(TEXTS)
        self.text_ids = np.array([stable_id(text) for text in TEXTS])
        self.text_embeddings = unit(random.normal(size=(len(TEXTS), D)))
        self.weights = random.normal(size=(C, K)).astype(np.float32)
        self.bias = random.normal(size=C).astype(np.float32)
        self.logits = self.pooled @ self.weights.T + self.bias  # (N, C)
        self.predictions = self.logits.argmax(axis=1)
        self.contributions = self.weights[self.predictions] * self.pooled  # (N, K)

    def nearest_texts(self, direction: NDArray[Any], top: int = 3) -> tuple[list[int], list[float]]:
        """Ids and cosines of the ``top`` texts nearest to a unit direction (D,)."""
        similarity = self.text_embeddings @ direction
        order = np.argsort(-similarity, kind="stable")[:top]
        return self.text_ids[order].tolist(), similarity[order].tolist()

    def by_group(self, contributions: NDArray[Any]) -> NDArray[np.float32]:
        """(..., K) contributions added up to (..., G)."""
        one_hot = self.group_of[:, None] == np.arange(self.groups)
        return np.asarray(contributions @ one_hot, np.float32)

    def maps(self, image: int) -> NDArray[np.float32]:
        """(G + 1, cells): each group's share of a fixed ramp, the whole map last; they add up."""
        ramp = np.linspace(0.5, 1.5, self.dims.cells)
        of_groups = self.by_group(self.contributions[image])[:, None] * ramp
        return np.concatenate([of_groups, of_groups.sum(axis=0, keepdims=True)]).astype(np.float32)


def tiny_store(path: str | Path, world: TinyWorld | None = None, *, shards: int = 2) -> Manifest:
    """Write and commit the tiny store at ``path`` (a folder or an address); the images go beside a folder.

    The images lie in ``<path>-images`` and are named in ``config["images"]["uri"]``.
    """
    world = world or TinyWorld()
    storage = open_storage(path)
    images = Path(f"{path}-images") if "://" not in str(path) else None
    if images is not None:
        write_images(images, world)
    manifest = tiny_manifest(storage, world, shards, images)
    return commit(storage, manifest)


def tiny_manifest(storage: Storage, world: TinyWorld, shards: int, images: Path | None) -> Manifest:
    """All parts and indexes of the tiny store, written but not committed."""
    known = tables(world.dims)
    of_shard = np.array_split(np.arange(world.images), shards)
    parts: list[PartRecord] = []
    for number, rows in enumerate(of_shard):
        for name, columns in _shard_tables(world, number, rows).items():
            parts.append(_written(storage, known[name], columns, f"shard-{number:05d}"))
    for name, columns in _whole_tables(world).items():
        parts.append(_written(storage, known[name], columns, "all"))
    bare = Manifest(snapshot=1, dims=world.dims, fingerprints=fingerprints(), parts=tuple(parts))
    snapshot = Snapshot(storage, bare)
    indexes = [
        write_index(storage, table, snapshot.parts(table), *snapshot.matrix(table, column))
        for table, column in INDEXED.items()
    ]
    return Manifest(
        snapshot=1,
        dims=world.dims,
        fingerprints=fingerprints(),
        parts=tuple(parts),
        indexes=tuple(indexes),
        config=configuration(images),
    )


def fingerprints() -> dict[str, str]:
    """One for each thing that a store remembers."""
    names = ("classifier", "encoder", "texts", "plan", "configuration")
    return {name: hashlib.sha256(f"tiny {name}".encode()).hexdigest() for name in names}


def configuration(images: Path | None) -> dict[str, Any]:
    """A resolved configuration with every section."""
    return {
        "images": {"uri": str(images or "memory://tiny-images"), "format": "folder", "limit": None},
        "classifier": {"model": "timm:resnet18", "layer": "auto", "weights": "random"},
        "encoder": {"model": "ViT-B-32", "weights": "none"},
        "texts": {"bank": "builtin"},
        "cam": {"method": "gradcam"},
        "directions": {"examples": EXAMPLES, "shrinkage": 0.5},
        "groups": {"count": 2},
        "run": {"executor": "inline", "shard_size": 6, "batch_size": 4},
    }


def write_images(folder: Path, world: TinyWorld) -> None:
    """A coloured bar on grey for each image: not art, but a real file that decodes."""
    for i, uri in enumerate(world.uris):
        picture = Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128))
        picture.paste(list(COLOURS.values())[i % 3], (2, 2, 4 + i, HEIGHT - 2))
        target = folder / uri
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)


def _written(storage: Storage, table: Any, columns: dict[str, Any], name: str) -> PartRecord:
    arrays = [
        vectors(columns[one.name], one.type)
        if pa.types.is_fixed_size_list(one.type)
        else pa.array(_plain(columns[one.name]), one.type)
        for one in table.schema
    ]
    return write_part(
        storage, table, sort_rows(table, pa.Table.from_arrays(arrays, schema=table.schema)), name
    )


def _plain(values: Iterable[Any]) -> list[Any]:
    return [one.item() if isinstance(one, np.generic) else one for one in values]


def _shard_tables(world: TinyWorld, shard: int, rows: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
    ids, logits = world.image_ids[rows], world.logits[rows]
    broken = [f"star/broken-{shard}.png"] if shard == 0 else []  # the other shards' part is empty
    return {
        "images": {
            "image_id": ids,
            "uri": [world.uris[i] for i in rows],
            "content_hash": [hashlib.sha256(world.contents[i].encode()).hexdigest() for i in rows],
            "width": [WIDTH] * len(rows),
            "height": [HEIGHT] * len(rows),
            "label": [None if one < 0 else one for one in world.labels[rows].tolist()],
            "prediction": world.predictions[rows],
            "confidence": 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1),
            "shard": [shard] * len(rows),
        },
        "errors": {"uri": broken, "stage": ["decode"] * len(broken), "reason": ["cut short"] * len(broken)},
        "embeddings": {"image_id": ids, "embedding": world.embeddings[rows]},
        "activations": {"image_id": ids, "pooled": world.pooled[rows]},
        "explanations": _explanations(world, rows),
    }


def _explanations(world: TinyWorld, rows: NDArray[np.int64]) -> dict[str, Any]:
    words = [world.nearest_texts(unit(world.contributions[i] @ world.directions)) for i in rows]
    return {
        "image_id": world.image_ids[rows],
        "class_id": world.predictions[rows],
        "text_ids": [ids for ids, _ in words],
        "coefficients": [[max(0.0, value) for value in values] for _, values in words],
        "group_ids": [list(range(world.groups))] * len(rows),
        "group_contributions": world.by_group(world.contributions[rows]).tolist(),
    }


def _whole_tables(world: TinyWorld) -> dict[str, dict[str, Any]]:
    return {
        "examples": _examples(world),
        "channels": _channels(world),
        "groups": _groups(world),
        "texts": {
            "text_id": world.text_ids,
            "text": world.texts,
            "kind": list(TEXTS.values()),
            "embedding": world.text_embeddings,
        },
        "classes": _classes(world),
        "channel_texts": _channel_texts(world),
        "class_effects": {
            "class_id": [0, 0, 1],
            "text_id": [*sorted(world.text_ids[:2]), world.text_ids[0]],
            "effect": [1.5, -0.5, 2.0],
        },
        "class_texts": _class_texts(world),
        "confidences": _confidences(world),
        "findings": _findings(world),
        "maps": _maps(world),
    }


def _examples(world: TinyWorld) -> dict[str, Any]:
    rows = []
    for channel in range(world.channels):
        order = np.argsort(-world.pooled[:, channel], kind="stable")
        for side, chosen in (("positive", order[:EXAMPLES]), ("negative", order[::-1][:EXAMPLES])):
            for rank, i in enumerate(chosen):
                rows.append((channel, side, rank, world.image_ids[i], world.pooled[i, channel]))
    return dict(
        zip(("channel", "side", "rank", "image_id", "activation"), zip(*rows, strict=True), strict=True)
    )


def _channels(world: TinyWorld) -> dict[str, Any]:
    words = [world.nearest_texts(direction) for direction in world.directions]
    return {
        "channel": range(world.channels),
        "direction": world.directions,
        "region_direction": world.region_directions,
        "separation": np.linspace(0.5, 0.9, world.channels),
        "active_fraction": (world.pooled > 1).mean(axis=0),
        "group_id": world.group_of,
        "text_ids": [ids for ids, _ in words],
        "similarities": [values for _, values in words],
    }


def _channel_texts(world: TinyWorld) -> dict[str, Any]:
    nearest = [world.nearest_texts(direction)[0][0] for direction in world.directions]
    return {
        "channel": range(world.channels),
        "text_id": nearest,
        "coefficient": np.linspace(0.2, 0.8, world.channels),
    }


def _groups(world: TinyWorld) -> dict[str, Any]:
    members = [np.flatnonzero(world.group_of == group) for group in range(world.groups)]
    directions = unit(np.stack([world.directions[one].sum(axis=0) for one in members]))
    words = [world.nearest_texts(direction) for direction in directions]
    return {
        "group_id": range(world.groups),
        "direction": directions,
        "channels": [one.tolist() for one in members],
        "text_ids": [ids for ids, _ in words],
        "similarities": [values for _, values in words],
    }


def _classes(world: TinyWorld) -> dict[str, Any]:
    right = world.labels == world.predictions
    members = [world.labels == c for c in range(len(CLASSES))]
    return {
        "class_id": range(len(CLASSES)),
        "name": CLASSES,
        "weights": world.weights,
        "bias": world.bias,
        "n_images": [int(of.sum()) for of in members],
        "accuracy": [float(right[of].mean()) if of.any() else None for of in members],
    }


def _confidences(world: TinyWorld) -> dict[str, Any]:
    ids = {
        "channel": range(world.channels),
        "class": range(len(CLASSES)),
        "group": range(world.groups),
        "image": sorted(world.image_ids),
    }
    pairs = [(subject, int(one)) for subject, of_it in ids.items() for one in of_it]
    return {
        "subject": [subject for subject, _ in pairs],
        "id": [one for _, one in pairs],
        "confidence": np.linspace(0, 1, len(pairs)),
    }


def _class_texts(world: TinyWorld) -> dict[str, Any]:
    rows = []
    for c in range(len(CLASSES)):
        mean = (world.weights[c] * world.pooled.mean(axis=0)) @ world.directions
        ids, values = world.nearest_texts(unit(mean), top=4)
        positive = np.maximum(values, 0.01)
        for text_id, value in zip(ids, positive, strict=True):
            share = float(value / positive.sum())
            rows.append((c, text_id, share, share * 2.0, int((world.predictions == c).sum())))
    return dict(
        zip(("class_id", "text_id", "share", "contribution", "n"), zip(*rows, strict=True), strict=True)
    )


def _findings(world: TinyWorld) -> dict[str, Any]:
    return {
        "finding_id": [0, 1],
        "class_id": [2, 0],
        "text_id": world.text_ids[[11, 10]],  # a watermark, a meadow
        "group_id": [world.groups - 1, -1],
        "kind": ["shortcut", "association"],
        "share": [0.4, 0.2],
        "accuracy_with": [0.9, 0.8],
        "accuracy_without": [0.3, None],
        "n_with": [5, 7],
        "n_without": [6, 0],
        "effect": [0.6, None],
        "effect_low": [0.2, None],
        "effect_high": [0.8, None],
        "q_value": [0.01, None],
        "flip_rate": [0.5, None],
        "proof_drop": [1.5, None],
        "proof_control": [0.1, None],
        "proof_n": [5, 0],
        "verdict": ["used", "unproven"],
        "rank": [0, 1],
    }


def _maps(world: TinyWorld) -> dict[str, Any]:
    rows = []
    for image in range(min(3, world.images)):
        maps = world.maps(image)
        for group, one in zip([*range(world.groups), WHOLE_MAP], maps, strict=True):
            scale = float(np.abs(one).max()) or 1.0
            levels = np.round(np.maximum(one, 0) / scale * 255)
            rows.append((world.image_ids[image], world.predictions[image], group, levels, scale))
    names = ("image_id", "class_id", "group_id", "map", "scale")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return {**columns, "map": np.stack(columns["map"])}
