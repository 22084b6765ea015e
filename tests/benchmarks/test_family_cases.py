"""A case from nothing: a world whose classifier is hardly trained, its effects, and what methods get."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks.truth import family_worlds
from benchmarks.truth.families import CONTEST
from benchmarks.truth.family import words_of
from benchmarks.truth.family_cases import family_case
from benchmarks.truth.family_judges import compete_in_family
from benchmarks.truth.label_scenes import LabelScenes, label_world
from demo.models import TinyClassifier


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and as little work as there can be."""
    start = tmp_path / "start.safetensors"
    save_file(TinyClassifier(("a", "b")).state_dict(), start)
    monkeypatch.setenv("TEXTCAM_WORLDS", str(tmp_path / "worlds"))
    monkeypatch.setattr(LabelScenes, "trunk", staticmethod(lambda: start))
    for name, value in (("SCENES", 129), ("STEPS", 2), ("MOST_SCENES", 12)):
        monkeypatch.setattr(family_worlds, name, value)
    return tmp_path / "worlds"


def test_a_case_from_nothing(quick: Path) -> None:
    world = label_world("size", 0)
    one = family_case(world, images=48)
    kept = {path: path.stat().st_mtime_ns for path in quick.iterdir()}
    assert len(kept) == 2, "a classifier and its effects"
    again = family_case(world, images=48)
    assert {path: path.stat().st_mtime_ns for path in quick.iterdir()} == kept, "nothing is trained twice"
    case = one.case
    for name in ("pooled", "embeddings", "maps", "cells"):
        first, second = (getattr(found.case.evidence, name) for found in (one, again))
        assert (first == second).all(), name
    assert len(case.evidence.pooled) == len(case.scoring.as_references()[0]) == 24
    assert np.bincount(case.classes).tolist() == [8, 8, 8]
    assert not one.gate["size"][1]
    assert [word for word, seen in zip(words_of(world.family), one.seen, strict=True) if not seen] == [
        "small",
        "large",
    ]
    np.testing.assert_allclose(
        case.evidence.pooled, case.evidence.maps.mean((2, 3)), rtol=1e-6, err_msg="maps are what is pooled"
    )


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_words_about_a_size_are_not_judged_where_the_encoder_does_not_see_it(quick: Path) -> None:
    world = label_world("size", 1)
    one = family_case(world, images=48)
    assert one.ruled[:, ~one.seen].any(), "the rules are about sizes"
    found = compete_in_family([replace(one, used=one.ruled)], {"ours": CONTEST["ours"]})["ours"]
    assert len(found["first word is in the rule"]) == len(world.cues) == 1, "the cue's class alone is judged"
    assert np.isfinite(found["channel pearson"]).all()
