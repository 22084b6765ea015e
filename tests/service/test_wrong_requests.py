"""What a user gets wrong most: each a clear message, the right exit code, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipelines import worlds

ROOT = Path(__file__).parents[2]
ENCODER = """
from pathlib import Path
import torch
from tests.pipelines import models

def clip():
    return models.Clip(int(Path(__file__).with_name("seed").read_text())), models.transform(), models.tokens
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration with an encoder of the user's own, which changes with the file ``seed``."""
    (tmp_path / "mine.py").write_text(ENCODER)
    (tmp_path / "seed").write_text("3")
    config = worlds.config(tmp_path, encoder={"model": "python:mine:clip"}).model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def textcam(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_bad_configuration(folder: Path) -> None:
    text = (folder / "run.yaml").read_text().replace("shard_size:", "shardsize:")
    (folder / "run.yaml").write_text(text)
    code, out, err = textcam(folder, "precompute", "run.yaml")
    assert (code, out) == (2, "")
    assert "run.shardsize: unknown key. Did you mean shard_size?" in err


def test_a_missing_folder(folder: Path) -> None:
    code, out, err = textcam(folder, "precompute", "run.yaml")
    assert (code, out) == (2, "")
    assert "There is no such folder or file." in err
    assert str(folder / "images") in err


def test_an_empty_folder(folder: Path) -> None:
    (folder / "images").mkdir()
    code, _, err = textcam(folder, "precompute", "run.yaml")
    assert code == 2
    assert "No image was found" in err


def test_a_text_named_jpg_and_a_truncated_jpeg(folder: Path) -> None:
    worlds.write_images(folder / "images", 21)
    (folder / "images" / "red" / "text.jpg").write_text("not an image")
    (folder / "images" / "red" / "short.jpg").write_bytes(worlds.jpeg()[:500])
    code, out, err = textcam(folder, "precompute", "run.yaml")
    assert (code, out) == (1, "")
    assert "2 of 23 images could not be used" in err
    assert "red/short.jpg (decode: The image cannot be decoded" in err
    assert "red/text.jpg (decode: The image cannot be decoded: not an image" in err

    text = (folder / "run.yaml").read_text().replace("max_error_rate: 0.01", "max_error_rate: 0.1")
    (folder / "run.yaml").write_text(text)
    assert textcam(folder, "precompute", "run.yaml")[0] == 0
    code, out, _ = textcam(folder, "sql", "store", "SELECT uri, stage FROM errors", "--json")
    assert code == 0
    assert yaml.safe_load(out) == [
        {"uri": "red/short.jpg", "stage": "decode"},
        {"uri": "red/text.jpg", "stage": "decode"},
    ]


def test_a_store_is_not_asked_with_another_encoder(folder: Path) -> None:
    worlds.write_images(folder / "images", 21)
    assert textcam(folder, "precompute", "run.yaml")[0] == 0
    search = ("search", "store", "a word that is not in the bank", "--trust-code")
    assert textcam(folder, *search)[0] == 0
    (folder / "seed").write_text("4")
    code, out, err = textcam(folder, *search)
    assert (code, out) == (1, "")
    assert "encoder" in err.splitlines()[0]
    assert textcam(folder, "search", "store", "grass")[0] == 0  # a text of the bank needs no encoder
