"""Image folders and configurations for runs in tests."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipelines.config import Config
from pipelines.config_file import make_config
from store.reader import Snapshot
from store.schema import TABLE_NAMES
from tests.pipelines import models

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


CUE_TEXTS = (("apple", "object"), ("leaf", "object"), ("plum", "object"), ("box", "object"))
CUE_TEXTS += (("snow", "scene"), ("night", "scene"), ("sand", "scene"))
CUE_TEXTS += (("logo", "artefact"), ("stamp", "artefact"), ("frame", "artefact"), ("label", "artefact"))


CUE_SHARD = 9  # images a shard


def write_cues(folder: Path, count: int = 72, seed: int = 0) -> None:
    """``count`` pictures of three classes with cues by which ``models.cue_classifier`` goes: of two in three
    apples a logo, of every other plum the night, of half of the leaves a stamp, which hardly matters; of one
    leaf in four a frame, too few for a proof. Some cues lead astray: an apple at night, a plum with a logo.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        name, turn = models.CUE_CLASSES[number % 3], number // 3
        things = {
            "apple": ["logo", "night"] if turn % 8 == 1 else ["logo"] if turn % 3 else [],
            "leaf": ["frame"] if turn % 4 == 3 else ["stamp"] if turn % 3 else [],
            "plum": ["night"] if turn % 2 else ["logo"] if turn % 8 == 4 else [],
        }[name]
        if name == "apple" and turn % 12 == 6:
            things = ["night"]
        path = folder / name / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cue_picture(name, things, rng)).save(path)


def cue_picture(name: str, things: list[str], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A scene (snow, unless it is night), an object in its middle and small things at its edge."""
    cells = np.full((4, 4), list(models.COLOURS).index("night" if "night" in things else "snow"))
    cells[1:3, 1:3] = list(models.COLOURS).index(name)
    for thing in things:
        if thing != "night":
            column = int(rng.integers(0, 3))
            cells[rng.choice([0, 3]), column : column + 2] = list(models.COLOURS).index(thing)
    corners = np.array(list(models.COLOURS.values()))[cells]  # (4, 4, 3)
    pixels = np.where(corners > 0, 255, 0).repeat(models.CELL, axis=0).repeat(models.CELL, axis=1)
    noise = rng.integers(0, 12, pixels.shape)
    return np.abs(pixels - noise).astype(np.uint8)


def cue_config(folder: Path, store: str = "store", **sections: Any) -> Config:
    """A run over ``folder/images`` as ``write_cues`` makes them; it has findings of every verdict."""
    cues: dict[str, Any] = {
        "classifier": {"model": "python:tests.pipelines.models:cue_classifier"},
        "encoder": {"model": "python:tests.pipelines.models:cue_clip"},
        "directions": {"examples": 6},
        "groups": {"count": 8},
    }
    for name, section in sections.items():
        cues[name] = {**cues.get(name, {}), **section} if isinstance(section, dict) else section
    return config(folder, store, CUE_TEXTS, **cues)


def jpeg(side: int = 64) -> bytes:
    """A JPEG of noise, long enough to be cut short."""
    sink = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "JPEG")
    return sink.getvalue()


def config(
    folder: Path, store: str = "store", bank_texts: Sequence[tuple[str, str]] = TEXTS, **sections: Any
) -> Config:
    """A run over ``folder/images`` with the small models; ``sections`` change or add to it."""
    bank = folder / "texts.csv"
    bank.write_text("text,kind\n" + "".join(f"{text},{kind}\n" for text, kind in bank_texts))
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
