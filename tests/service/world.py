"""A small finished store, written by hand, for the pages: four classes with awkward names, and their images.

It has no embeddings and no activations: pages must not need them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from store.manifest import Manifest, PartRecord
from store.schema import Dims, stable_id, tables
from store.storage import open_storage
from store.writer import commit, sort_rows, write_part

DIMS = Dims(channels=7, embedding=5, cells=3 * 5)
MAP_SIZE = (3, 5)
CLASSES = ("star", "<script>alert(1)</script>", "Schneepflug & Söhne", "ring")
WORDS = (
    ("star", "object"),
    ("snow", "scene"),
    ("watermark", "artefact"),
    ("red", "colour"),
    ("<b>striped</b>", "texture"),
    ("ring", "object"),
)
TEXT_IDS = [stable_id(word) for word, _ in WORDS]
IMAGES_A_CLASS = 6
FOLDERS = ("star", "script", "Schnee pflug #1 100% ß", "ring")

Painter = Callable[[int, int], Image.Image]


def uri_of(class_id: int, at: int) -> str:
    return f"{FOLDERS[class_id]}/bild {at} ü.png"


def paint(class_id: int, at: int) -> Image.Image:
    """A bright disc on a flat ground, told apart by colour and place."""
    y, x = np.mgrid[:24, :40]
    pixels = np.full((24, 40, 3), (30 + 40 * class_id, 60, 90), np.uint8)
    pixels[(y - 12) ** 2 + (x - 6 - 5 * at) ** 2 < 30] = (240, 200, 40 * class_id)
    return Image.fromarray(pixels)


def unit(rows: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, DIMS.embedding))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def image_rows() -> list[dict[str, Any]]:
    """Six images a class; the last of each is predicted as the next class."""
    return [
        {
            "image_id": stable_id(uri_of(class_id, at)),
            "uri": uri_of(class_id, at),
            "content_hash": f"{class_id}{at}" * 16,
            "width": 40,
            "height": 24,
            "label": class_id,
            "prediction": class_id if at < IMAGES_A_CLASS - 1 else (class_id + 1) % len(CLASSES),
            "confidence": 0.95 - 0.1 * at,
            "shard": 0,
        }
        for class_id in range(len(CLASSES))
        for at in range(IMAGES_A_CLASS)
    ]


def explanation_rows() -> list[dict[str, Any]]:
    """Even images are explained by 'star' and 'snow', odd ones by 'star' and 'red'."""
    made = []
    for row in image_rows():
        second = TEXT_IDS[1] if round((0.95 - row["confidence"]) * 10) % 2 == 0 else TEXT_IDS[3]
        made.append(
            {
                "image_id": row["image_id"],
                "class_id": row["prediction"],
                "text_ids": [TEXT_IDS[0], second],
                "coefficients": [0.7, 0.3],
                "group_ids": [0, 1],
                "group_contributions": [3.0, 1.0],
            }
        )
    return made


def map_rows() -> list[dict[str, Any]]:
    """Whole map and two groups, for three images a class."""
    made = []
    for row in image_rows():
        if row["prediction"] != row["label"] or row["confidence"] < 0.7:
            continue
        for group_id in (-1, 0, 1):
            cells = np.zeros(DIMS.cells, np.uint8)
            cells[[7, 8, 6][group_id + 1]] = 255
            cells[[2, 3, 1][group_id + 1]] = 100
            made.append(
                {
                    "image_id": row["image_id"],
                    "class_id": row["label"],
                    "group_id": group_id,
                    "map": cells.tolist(),
                    "scale": 2.0,
                }
            )
    return made


def finding(finding_id: int, class_id: int, word: int, verdict: str, **changed: Any) -> dict[str, Any]:
    row = {
        "finding_id": finding_id,
        "class_id": class_id,
        "text_id": TEXT_IDS[word],
        "group_id": 1,
        "kind": WORDS[word][1],
        "share": 0.61,
        "accuracy_with": 0.94,
        "accuracy_without": 0.41,
        "n_with": 812,
        "n_without": 97,
        "effect": 0.53,
        "effect_low": 0.41,
        "effect_high": 0.64,
        "q_value": 0.0002,
        "flip_rate": 0.17,
        "proof_drop": 2.5,
        "proof_control": 0.25,
        "proof_n": 24,
        "verdict": verdict,
        "rank": finding_id + 1,
    }
    return row | changed


UNMEASURED = dict.fromkeys(
    ("accuracy_with", "accuracy_without", "effect", "effect_low", "effect_high", "q_value", "flip_rate"), None
) | {"proof_drop": None, "proof_control": None, "proof_n": 0, "n_with": 0, "n_without": 0}

FINDINGS = (
    finding(0, 2, 1, "used"),
    finding(1, 0, 2, "association", share=0.074, q_value=0.031),
    finding(2, 1, 4, "unproven", **UNMEASURED),
)
ERRORS = (
    {"uri": "star/broken & <cut>.jpg", "stage": "decode", "reason": "image file is truncated"},
    {"uri": "star/empty.jpg", "stage": "read", "reason": "The file is empty."},
)


def store_rows(
    findings: tuple[dict[str, Any], ...], errors: tuple[dict[str, str], ...]
) -> dict[str, list[Any]]:
    """The rows of every table that pages read."""
    channel_words = {"text_ids": [TEXT_IDS[0], TEXT_IDS[1]], "similarities": [0.5, 0.25]}
    return {
        "images": image_rows(),
        "errors": list(errors),
        "examples": [
            {
                "channel": channel,
                "side": side,
                "rank": rank,
                "image_id": row["image_id"],
                "activation": 9.0 - rank,
            }
            for channel in range(DIMS.channels)
            for side, rows in (
                ("negative", image_rows()[:3]),
                ("positive", image_rows()[channel : channel + 4]),
            )
            for rank, row in enumerate(rows)
        ],
        "channels": [
            dict(
                channel=channel,
                direction=direction.tolist(),
                region_direction=direction.tolist(),
                separation=0.9 - 0.1 * channel,
                active_fraction=0.5,
                group_id=channel % 2,
                **(channel_words if channel else {"text_ids": [], "similarities": []}),
            )
            for channel, direction in enumerate(unit(DIMS.channels, 1))
        ],
        "groups": [
            dict(group_id=0, direction=unit(2, 2)[0].tolist(), channels=[0, 2, 4, 6], **channel_words),
            {
                "group_id": 1,
                "direction": unit(2, 2)[1].tolist(),
                "channels": [1, 3, 5],
                "text_ids": [TEXT_IDS[1]],
                "similarities": [0.4],
            },
        ],
        "texts": [
            {"text_id": text_id, "text": text, "kind": kind, "embedding": embedding.tolist()}
            for text_id, (text, kind), embedding in zip(TEXT_IDS, WORDS, unit(len(WORDS), 3), strict=True)
        ],
        "classes": [
            {
                "class_id": class_id,
                "name": name,
                "weights": [0.5] * DIMS.channels,
                "bias": 0.0,
                "n_images": 6,
                "accuracy": 5 / 6,
            }
            for class_id, name in enumerate(CLASSES)
        ],
        "class_texts": [
            {
                "class_id": class_id,
                "text_id": text_id,
                "share": [0.4, 0.2, 0.15, 0.1, 0.05, 0.0][(at + class_id) % 6],
                "contribution": 1.0,
                "n": 6,
            }
            for class_id in range(len(CLASSES) - 1)  # no words fit the last class
            for at, text_id in enumerate(TEXT_IDS)
        ],
        "explanations": explanation_rows(),
        "findings": list(findings),
        "maps": map_rows(),
    }


def write_world(
    folder: Path,
    *,
    painter: Painter = paint,
    findings: tuple[dict[str, Any], ...] = FINDINGS,
    errors: tuple[dict[str, str], ...] = ERRORS,
    without: tuple[str, ...] = (),
    map_size: tuple[int, int] = MAP_SIZE,
) -> Path:
    """Images in ``folder/images``, the store in ``folder/store`` (returned). ``without``: tables left out."""
    for class_id in range(len(CLASSES)):
        for at in range(IMAGES_A_CLASS):
            path = folder / "images" / uri_of(class_id, at)
            path.parent.mkdir(parents=True, exist_ok=True)
            painter(class_id, at).save(path)
    storage = open_storage(folder / "store")
    parts: list[PartRecord] = []
    for name, rows in store_rows(findings, errors).items():
        table = tables(DIMS)[name]
        if name not in without:
            made = sort_rows(table, pa.Table.from_pylist(rows, schema=table.schema))
            parts.append(write_part(storage, table, made, "all"))
    config = {
        "images": {"uri": str(folder / "images"), "format": "folder"},
        "classifier": {"model": "python:world:model", "layer": "body"},
        "encoder": {"model": "tiny"},
        "map_size": list(map_size),
    }
    commit(storage, Manifest(1, DIMS, {"classifier": "c"}, tuple(parts), config=config))
    return folder / "store"
