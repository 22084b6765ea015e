"""Scores of published layouts, on small folders of them that hold the demo's pictures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.truth.annotated import open_annotated
from benchmarks.truth.annotated_scores import rows_of, score
from benchmarks.truth.contest import CONTEST
from demo.models import CLIP_FOLDER, WEIGHTS
from demo.pictures import jpeg
from demo.scenes import VALUES, render, scenes
from textcam.classifier import TorchClassifier, load_classifier
from textcam.encoder import ClipEncoder, load_encoder

ENTRANTS = {name: CONTEST[name] for name in ("ours", "chance", "no channels")}


@pytest.fixture(scope="module")
def models() -> tuple[TorchClassifier, ClipEncoder]:
    clean = WEIGHTS / "clean.safetensors"
    classifier = load_classifier("python:demo.models:tiny_classifier", weights=str(clean))
    return classifier, load_encoder(f"local-dir:{CLIP_FOLDER}")


def test_class_names_of_an_imagenet_layout(
    tmp_path: Path, models: tuple[TorchClassifier, ClipEncoder]
) -> None:
    names = VALUES["shape"]
    listed = "".join(f"n{place} {name}\n" for place, name in enumerate(names))
    (tmp_path / "LOC_synset_mapping.txt").write_text(listed)
    for place, name in enumerate(names):
        folder = tmp_path / "val" / f"n{place}"
        folder.mkdir(parents=True)
        for number, scene in enumerate(scenes("probe", 900 + place, 16, shape=name)):
            (folder / f"{number:02d}.JPEG").write_bytes(jpeg(render(scene).image))
    found = score(open_annotated("imagenet", tmp_path), *models, entrants=ENTRANTS)
    assert np.mean(found["ours"]["own name first"]) >= 7 / 8
    assert np.mean(found["chance"]["own name first"]) <= 0.5
    assert not found["no channels"]
    assert "channel pearson" not in found["ours"], "there are no attributes"


def test_backgrounds_of_a_waterbirds_layout(
    tmp_path: Path, models: tuple[TorchClassifier, ClipEncoder]
) -> None:
    rows = []
    for number, scene in enumerate(scenes("probe", 950, 128, shape="star")):
        scene = type(scene)(**{**vars(scene), "background": ("water", "forest")[number // 2 % 2]})
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(render(scene).image))
        rows.append((number, f"{number}.jpg", number % 2, 0, int(scene.background == "water"), ""))
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("img_id", "img_filename", "y", "split", "place", "place_filename"))
        table.writerows(rows)
    found = score(open_annotated("waterbirds", tmp_path), *models, entrants=ENTRANTS)
    ours, trivial = (found[name]["image has the attribute, AUPRC"] for name in ("ours", "no channels"))
    assert len(ours) == len(trivial) == 2 * 1, "water and land, of the one class that has both"
    assert np.mean(trivial) > 0.9
    assert found["ours"]["image has the attribute, share"] == [0.5, 0.5]
    assert len(found["ours"]["channel pearson"]) == 128
    measures = {one.name: one for one in rows_of("waterbirds", found)}
    assert measures["waterbirds | no channels | image has the attribute, AUPRC"].value > 0.9


def test_attributes_of_a_clevr_layout(tmp_path: Path, models: tuple[TorchClassifier, ClipEncoder]) -> None:
    kept = []
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "scenes").mkdir()
    for number, scene in enumerate(scenes("probe", 960, 160)):
        (tmp_path / "images" / "val" / f"{number}.png").write_bytes(jpeg(render(scene).image))
        said = {"color": scene.colour, "shape": scene.shape, "material": scene.texture, "size": "large"}
        kept.append({"image_filename": f"{number}.png", "objects": [said]})
    (tmp_path / "scenes" / "CLEVR_val_scenes.json").write_text(json.dumps({"scenes": kept}))
    found = score(open_annotated("clevr", tmp_path), *models, entrants=ENTRANTS)
    assert np.mean(found["ours"]["channel auprc"]) > 2 * np.mean(found["chance"]["channel auprc"])
