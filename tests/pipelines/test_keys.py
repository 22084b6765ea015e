"""Each key of the configuration, changed by itself, is in the keys of the work that it shapes, or shapes no
row.

A run over a store that was made with the old value must end in the same rows as a run that starts anew: for
all keys that is a slow test, and for a few a fast one. Every key of the configuration stands in a table here;
one that is new fails the first test until it does.
"""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import BaseModel
from safetensors.torch import save_file

from pipelines.config import Config, NumberFormats
from pipelines.execute import local_ray
from pipelines.run import precompute
from tests.pipelines import models, worlds

MODELS = "python:tests.pipelines.models"
# A key, the value that it gets, and the base that it is changed in ("" for the plain one).
SHAPING: dict[str, tuple[Any, str]] = {
    "images.uri": ("others", ""),
    "images.format": ("webdataset", ""),
    "images.limit": (9, ""),
    "images.labels": ("none", ""),
    "images.uri_column": ("other_uri", "parquet"),
    "images.bytes_column": ("mask", "parquet"),
    "images.label_column": ("other_label", "parquet"),
    "added": ([{"uri": "others"}], ""),
    "classifier.model": (f"{MODELS}:squashed_classifier", ""),
    "classifier.weights": ("classifier.safetensors", ""),
    "classifier.layer": ("features.0", ""),
    "classifier.class_names": ("classes.txt", ""),
    "classifier.two_sided": (True, ""),
    "classifier.options": ({"shift": 0.5}, ""),
    "classifier.preprocess": ({"size": 16, "mean": 0.4, "std": 0.25}, ""),
    "encoder.model": (f"{MODELS}:other_clip", ""),
    "encoder.weights": ("encoder.safetensors", ""),
    "encoder.options": ({"shift": 0.5}, ""),
    "encoder.preprocess": ({"size": 16, "mean": 0.4, "std": 0.25}, ""),
    "texts.bank": ("other.csv", ""),
    "texts.templates": (["a photo of {}"], ""),
    "cam.method": ("gradcam++", "bent"),
    "directions.examples": (3, ""),
    "directions.shrinkage": (0.5, ""),
    "directions.regions": (False, "cues"),
    "words.top": (1, ""),
    "words.screen": (2, ""),
    "words.sparsity": (0.9, ""),
    "words.relative_sparsity": (0.9, ""),
    "words.decorrelation": (5.0, ""),
    "words.form": ("whole", ""),
    "words.centre": (False, "cues"),
    "words.contrast": (False, ""),
    "groups.method": ("names", ""),
    "groups.count": (2, ""),
    "groups.per_image": (1, ""),
    "report.exemplars": (1, ""),
    "report.findings": (1, "cues"),
    "proof.findings": (1, "cues"),
    "proof.images": (8, "cues"),
    "activations": (False, ""),
    "run.number_format": ("bfloat16", ""),
    "run.max_pixels": (1000, ""),
    "run.max_bytes": (2000, ""),
}
# Keys that shape last bits on some machines at most: the work is done anew, the rows may be the same.
LAST_BITS: dict[str, Any] = {"run.batch_size": 7}
# Of each base and of the first and the last of the work, one that the fast tests make anew as well.
FAST = ("images.bytes_column", "classifier.options", "cam.method", "directions.regions", "run.batch_size")
# Keys that must change nothing: all of them in one run.
IDLE: dict[str, Any] = {
    "index.tier": "sqfp16",
    "index.min_recall": 0.1,
    "run.cpus_per_worker": 2,
    "run.device": "auto",
    "run.shard_size": 5,
    "run.feed_threads": 3,
    "run.silence": 5.0,
    "run.events": "events.jsonl",
    "run.max_error_rate": 0.9,
    "run.max_attempts": 1,
    "store": "elsewhere",
}
# The same, in one run by Ray.
BY_RAY: dict[str, Any] = {
    "run.executor": "ray",
    "run.workers": 2,
    "run.cpus_per_worker": 0.5,
    "run.gpus_per_worker": 0,
    "run.decoders": 1,
    "run.cpus_per_decoder": 0.5,
}
# Not tried here: which cluster it is, and a compiler that takes minutes (its rows: tests/textcam).
ELSEWHERE = ("run.address", "run.compile")


def keys(model: type[BaseModel] = Config, way: str = "") -> Iterator[str]:
    """Every key that holds a value."""
    for name, field in model.model_fields.items():
        kinds = [
            one for one in (field.annotation, *get_args(field.annotation)) if hasattr(one, "model_fields")
        ]
        if kinds and kinds[0] is not NumberFormats and name != "added":
            yield from keys(kinds[0], f"{way}{name}.")
        else:
            yield f"{way}{name}"


def test_no_key_is_forgotten() -> None:
    assert sorted(keys()) == sorted({*SHAPING, *LAST_BITS, *IDLE, *BY_RAY, *ELSEWHERE})


# --- the worlds -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as files, in a tar and in a Parquet file, two sets of weights and of texts."""
    folder = tmp_path_factory.mktemp("keys")
    worlds.write_images(folder / "images", 14)
    worlds.write_images(folder / "others", 11, seed=1)
    worlds.write_cues(folder / "cues")
    large = folder / "images" / "red" / "large.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (40, 40, 3), np.uint8)).save(large)
    with tarfile.open(folder / "images" / "set.tar", "w") as tar:
        tar.add(folder / "others" / "red", "red")
    files = {path: path.read_bytes() for path in sorted((folder / "images").rglob("*.png"))}
    names = [path.stem for path in files]
    labels = [path.parent.name for path in files]
    table = {
        "image": list(files.values()),
        "mask": list(files.values())[::-1],
        "uri": names,
        "other_uri": names[::-1],
        "label": labels,
        "other_label": labels[::-1],
    }
    (folder / "parquet").mkdir()
    pq.write_table(pa.table(table), folder / "parquet" / "set.parquet")
    for name, net in (("classifier", models.Net(linear=True)), ("encoder", models.Clip(3))):
        state = {key: value * 0.9 + 0.01 for key, value in net.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
    (folder / "classes.txt").write_text("green\nblue\nred\n")
    (folder / "other.csv").write_text(
        "text,kind\n" + "".join(f"{text},{kind}\n" for text, kind in worlds.TEXTS[2:])
    )
    return folder


def configured(world: Path, base: str, store: str, changes: dict[str, Any]) -> Config:
    """The configuration of a base, with some keys changed."""
    sections: dict[str, Any] = {
        "": {
            "classifier": {"model": f"{MODELS}:shifted_classifier"},
            "encoder": {"model": f"{MODELS}:shifted_clip"},
        },
        "parquet": {"images": {"uri": "parquet", "format": "parquet"}},
        "bent": {"classifier": {"model": f"{MODELS}:squashed_classifier"}},
        "cues": {
            "images": {"uri": "cues"},
            "classifier": {"model": f"{MODELS}:cue_classifier"},
            "encoder": {"model": f"{MODELS}:cue_clip"},
            "directions": {"examples": 6},
            "groups": {"count": 8},
            "run": {"batch_size": 8},
        },
    }[base]
    texts = worlds.CUE_TEXTS if base == "cues" else worlds.TEXTS
    sections["run"] = {**sections.get("run", {}), "max_error_rate": 0.5}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections[section] = {**sections.get(section, {}), name: value} if name else value
    return worlds.config(world, sections.pop("store", store), texts, **sections)


@pytest.fixture(scope="module")
def made(world: Path) -> dict[str, Path]:
    """A store of each base."""
    for base in ("", "parquet", "bent", "cues"):
        precompute(configured(world, base, f"base-{base}", {}))
    return {base: world / f"base-{base}" for base in ("", "parquet", "bent", "cues")}


def records(store: Path) -> set[str]:
    return {path.name for path in (store / "work" / "records" / "extract").iterdir()}


# --- the property -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in SHAPING if key not in FAST])
def test_a_changed_key_changes_rows_of_a_store_that_was_there(
    world: Path, made: dict[str, Path], key: str
) -> None:
    """It sees a key that nothing is done for; which rows they must be is the next test's question."""
    value, base = SHAPING[key]
    shutil.copytree(made[base], world / f"again-{key}")
    precompute(configured(world, base, f"again-{key}", {key: value}))
    assert worlds.different_tables(made[base], world / f"again-{key}") != []


@pytest.mark.parametrize(
    "key",
    [
        *FAST,
        *(pytest.param(key, marks=pytest.mark.slow) for key in [*SHAPING, *LAST_BITS] if key not in FAST),
    ],
)
def test_a_changed_key_ends_in_the_same_rows_as_a_new_store(
    world: Path, made: dict[str, Path], key: str
) -> None:
    value, base = SHAPING[key] if key in SHAPING else (LAST_BITS[key], "")
    again, anew = f"regrown-{key}", f"anew-{key}"
    shutil.copytree(made[base], world / again)
    precompute(configured(world, base, again, {key: value}))
    precompute(configured(world, base, anew, {key: value}))
    assert worlds.different_tables(world / again, world / anew) == []
    if key in SHAPING:
        assert worlds.different_tables(made[base], world / anew) != []
    else:
        assert records(made[base]) < records(world / again)


def test_keys_that_change_no_row(world: Path, made: dict[str, Path]) -> None:
    precompute(configured(world, "", "idle", IDLE))
    assert worlds.different_tables(made[""], world / "elsewhere") == []


@pytest.mark.slow
def test_how_ray_spreads_the_work_changes_no_row(world: Path, made: dict[str, Path]) -> None:
    with local_ray():
        precompute(configured(world, "", "by-ray", BY_RAY))
    assert worlds.different_tables(made[""], world / "by-ray") == []


def test_a_compiled_model_is_another_key() -> None:
    plain, compiled = (Config.model_validate(_smallest(compile=one)).run.shaping() for one in (False, True))
    assert plain != compiled


def _smallest(**run: Any) -> dict[str, Any]:
    parts = {"images": {"uri": "a"}, "classifier": {"model": "b"}, "encoder": {"model": "c"}}
    return {**parts, "store": "d", "run": run}
