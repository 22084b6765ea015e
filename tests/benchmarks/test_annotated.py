"""Adapters for published data sets, on tiny files of the same layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.truth.annotated import open_annotated
from store.errors import SourceError


def test_clevr(tmp_path: Path) -> None:
    def thing(color: str, shape: str, material: str, size: str) -> dict[str, object]:
        return {"color": color, "shape": shape, "material": material, "size": size, "pixel_coords": [1, 2, 3]}

    scenes = [
        {"image_filename": "CLEVR_val_000000.png", "objects": [thing("red", "cube", "metal", "large")]},
        {
            "image_filename": "CLEVR_val_000001.png",
            "objects": [thing("red", "sphere", "rubber", "small"), thing("blue", "cube", "metal", "small")],
        },
    ]
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "CLEVR_val_scenes.json").write_text(json.dumps({"scenes": scenes}))
    found = open_annotated("clevr", tmp_path)
    assert found.uris == ("images/val/CLEVR_val_000000.png", "images/val/CLEVR_val_000001.png")
    shown = {name: found.shown[:, at].tolist() for at, name in enumerate(found.attributes)}
    assert shown["red"] == [True, True]
    assert shown["red cube"] == [True, False], "a red sphere and a blue cube are no red cube"
    assert shown["blue cube"] == [False, True]
    assert shown["large"] == [True, False]


def test_cub(tmp_path: Path) -> None:
    files = {
        "images.txt": "1 001.Black_footed_Albatross/a.jpg\n2 002.Laysan_Albatross/b.jpg\n",
        "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
        "image_class_labels.txt": "1 1\n2 2\n",
        "attributes/attributes.txt": "1 has_bill_shape::hooked_seabird\n2 has_wing_color::blue\n",
        "attributes/image_attribute_labels.txt": "1 1 1 4 3.5\n1 2 0 1 2.0\n2 1 1 2 1.0\n2 2 1 3 0 1.2\n",
        "parts/parts.txt": "1 back\n2 left eye\n",
        "parts/part_locs.txt": "1 1 312.0 182.5 1\n1 2 0.0 0.0 0\n2 1 5.0 6.0 1\n2 2 7.0 8.0 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = open_annotated("cub", tmp_path)
    assert found.uris[0] == "images/001.Black_footed_Albatross/a.jpg"
    assert found.class_names == ("Black footed Albatross", "Laysan Albatross")
    assert found.labels.tolist() == [0, 1]
    assert found.attributes == ("bill shape: hooked seabird", "wing color: blue")
    assert found.shown.tolist() == [[True, False], [True, True]]
    assert found.certain.tolist() == [[True, False], [False, True]]
    assert found.points["back"].tolist() == [[312.0, 182.5], [5.0, 6.0]]
    assert np.isnan(found.points["left eye"][0]).all()


def test_imagenet(tmp_path: Path) -> None:
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    for name in ("n01443537/x_1.JPEG", "n01440764/x_2.JPEG"):
        (tmp_path / "val" / name).parent.mkdir(parents=True)
        (tmp_path / "val" / name).touch()
    found = open_annotated("imagenet", tmp_path)
    assert found.uris == ("val/n01440764/x_2.JPEG", "val/n01443537/x_1.JPEG")
    assert found.labels.tolist() == [0, 1]
    assert found.class_names == ("tench, Tinca tinca", "goldfish")


def test_waterbirds(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "img_id,img_filename,y,split,place,place_filename\n"
        "1,001.A/a.jpg,0,0,1,/o/ocean/1.jpg\n2,002.B/b.jpg,1,2,0,/b/bamboo/2.jpg\n"
    )
    found = open_annotated("waterbirds", tmp_path)
    assert found.labels.tolist() == [0, 1]
    assert found.attributes == ("water", "land")
    assert found.shown.tolist() == [[True, False], [False, True]]


def test_what_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No data set"):
        open_annotated("places", tmp_path)
    with pytest.raises(SourceError, match=r"has no CLEVR_val_scenes\.json"):
        open_annotated("clevr", tmp_path)
    (tmp_path / "metadata.csv").write_text("img_id,img_filename\n1,a.jpg\n")
    with pytest.raises(SourceError, match="cannot be read"):
        open_annotated("waterbirds", tmp_path)
