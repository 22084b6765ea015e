"""The proof stage when something is wrong: memory is short, an image is spoilt, a model makes no number."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.run import Progress, precompute
from store.reader import Snapshot
from store.verify import verify
from tests.pipelines import models, worlds

PLACE = "python:tests.pipelines.models:"
SURE = {"apple:logo": "used", "plum:night": "used", "leaf:stamp": "association"}


def findings(store: Path) -> dict[str, dict]:
    snapshot = Snapshot.open(store)
    texts = {row["text_id"]: row["text"] for row in snapshot.table("texts").to_pylist()}
    names = [row["name"] for row in snapshot.table("classes").to_pylist()]
    rows = snapshot.table("findings").to_pylist()
    return {f"{names[row['class_id']]}:{texts[row['text_id']]}": row for row in rows}


def verdicts(store: Path) -> dict[str, str]:
    return {name: row["verdict"] for name, row in findings(store).items()}


def test_short_memory_halves_the_batches_of_a_proof_and_changes_no_verdict(cues: Path) -> None:
    made = {"model": PLACE + "hungry_cue_classifier"}, {"model": PLACE + "hungry_cue_clip"}
    run = {"batch_size": 7, "events": str(cues / "hungry.jsonl")}
    summary = precompute(worlds.cue_config(cues, "hungry", classifier=made[0], encoder=made[1], run=run))
    assert (summary.images, summary.errors) == (72, 0)
    assert verify(cues / "hungry") == []
    one, other = findings(cues / "whole"), findings(cues / "hungry")
    assert one.keys() == other.keys()
    for name, row in one.items():
        assert other[name]["verdict"] == row["verdict"]
        assert other[name]["proof_drop"] == pytest.approx(row["proof_drop"], abs=1e-3)
    lines = [json.loads(line) for line in (cues / "hungry.jsonl").read_text().splitlines()]
    assert {line["images"] for line in lines if line["event"] == "halved"} == {2}


def test_a_proof_is_halved_by_a_worker_that_was_never_short_before(cues: Path, tmp_path: Path) -> None:
    """Extracted with room; when the proof comes, there is less."""
    worlds.write_cues(tmp_path / "images")
    done: list[str] = []

    def shrink(progress: Progress) -> None:
        if progress.stage == "proof" and not done:
            done.append("shrunk")
            models.ROOM = 2

    try:
        roomy = {"model": PLACE + "shrinking_classifier"}
        precompute(worlds.cue_config(tmp_path, classifier=roomy), shrink)
    finally:
        models.ROOM = None
    assert done
    assert SURE.items() <= verdicts(tmp_path / "store").items()


def test_an_edit_that_the_transform_refuses_costs_its_trial_only(cues: Path) -> None:
    model = {"model": PLACE + "refusing_classifier"}
    summary = precompute(worlds.cue_config(cues, "refusing", classifier=model))
    assert (summary.images, summary.errors) == (72, 0)
    found = findings(cues / "refusing")
    assert found.keys() == findings(cues / "whole").keys()
    assert {(row["verdict"], row["proof_n"]) for row in found.values()} == {("unproven", 0)}


def test_an_edit_of_which_the_classifier_makes_no_number_costs_its_trial_only(cues: Path) -> None:
    model = {"model": PLACE + "overflowing_classifier"}
    precompute(worlds.cue_config(cues, "overflowing", classifier=model))
    assert set(verdicts(cues / "overflowing").values()) == {"unproven"}
    assert verify(cues / "overflowing") == []


def test_images_with_holes_in_their_features_take_no_part(cues: Path) -> None:
    holes = [
        path.name
        for path in sorted((cues / "images").rglob("*.png"))
        if np.asarray(Image.open(path))[0, 0, 0] == 250
    ]
    assert 2 <= len(holes) <= 12
    precompute(worlds.cue_config(cues, "holes", encoder={"model": PLACE + "clip_with_holes"}))
    assert verify(cues / "holes") == []
    assert SURE.items() <= verdicts(cues / "holes").items()
    before, after = findings(cues / "whole"), findings(cues / "holes")
    assert sum(after[name]["proof_n"] < before[name]["proof_n"] for name in SURE) > 0


def test_an_image_that_is_spoilt_before_its_proof_takes_no_part(tmp_path: Path) -> None:
    worlds.write_cues(tmp_path / "images")
    spoilt: list[Path] = []

    def spoil(progress: Progress) -> None:
        if progress.stage == "audit" and not spoilt:
            spoilt.append(tmp_path / "images" / "apple" / "003.png")  # with a logo
            spoilt[0].write_bytes(b"no picture")

    precompute(worlds.cue_config(tmp_path, report={"exemplars": 0}), spoil)
    assert spoilt
    assert SURE.items() <= verdicts(tmp_path / "store").items()
    assert Snapshot.open(tmp_path / "store").count("images") == 72
