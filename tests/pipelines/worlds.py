"""Image folders and configurations for runs in tests."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.config import Config
from pipelines.config_file import make_config
from store.reader import Snapshot
from store.schema import TABLE_NAMES

TEXTS = (("red", "colour"), ("green", "colour"), ("blue", "colour"), ("grass", "scene"), ("sky", "scene"))
TEXTS += (
    ("box", "object"),
    ("ball", "object"),
    ("logo", "artefact"),
    ("frame", "artefact"),
    ("wool", "texture"),
)


def write_images(folder: Path, count: int = 23, seed: int = 0) -> None:
    """``count`` small pictures in three folders, named as the classes; each differs from the others."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        name = ("red", "green", "blue")[number % 3]
        pixels = rng.integers(0, 120, (20, 24, 3), np.uint8)
        pixels[..., number % 3] += 90
        path = folder / name / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def jpeg(side: int = 64) -> bytes:
    """A JPEG of noise, long enough to be cut short."""
    sink = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "JPEG")
    return sink.getvalue()


def config(folder: Path, store: str = "store", **sections: Any) -> Config:
    """A run over ``folder/images`` with the small models; ``sections`` change or add to it."""
    bank = folder / "texts.csv"
    bank.write_text("text,kind\n" + "".join(f"{text},{kind}\n" for text, kind in TEXTS))
    raw: dict[str, Any] = {
        "images": {"uri": "images"},
        "classifier": {"model": "python:tests.pipelines.models:linear_classifier"},
        "encoder": {"model": "python:tests.pipelines.models:clip"},
        "texts": {"bank": "texts.csv"},
        "directions": {"examples": 4},
        "groups": {"count": 3},
        "run": {"executor": "inline", "shard_size": 12, "batch_size": 4, "device": "cpu"},
        "store": store,
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
    return make_config(raw, base=folder)


def tables(uri: str | Path) -> dict[str, pa.Table]:
    """All tables of a store, without the number of the shard, which is about the run and not the images."""
    snapshot = Snapshot.open(uri)
    found = {name: snapshot.table(name) for name in TABLE_NAMES}
    found["images"] = found["images"].drop_columns("shard")
    return found


def different_tables(one: str | Path, other: str | Path) -> list[str]:
    """Names of the tables that two stores do not share bit for bit."""
    first, second = tables(one), tables(other)
    return [name for name in TABLE_NAMES if not first[name].equals(second[name])]


def files(uri: Path) -> dict[str, bytes]:
    """Every committed file of a local store."""
    return {path: (uri / path).read_bytes() for path in Snapshot.open(uri).manifest.paths()}
