"""Worlds with planted shortcuts: what is drawn, planted, measured and kept."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.truth import shortcuts
from demo.scenes import VALUES
from demo.shortcuts import Shortcut


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEXTCAM_WORLDS", str(tmp_path))
    for name, value in {"SCENES": 150, "EPOCHS": 1, "TRUNK_SCENES": 150, "TRUNK_EPOCHS": 1}.items():
        monkeypatch.setattr(shortcuts, name, value)
    monkeypatch.setattr(shortcuts, "_effects", lambda asked, seed: _no_effects())
    return tmp_path


def _no_effects() -> list[shortcuts.Effect]:
    return [shortcuts.Effect("star", "watermark", "artefact", False, 0.5, 2.0, 9)]


def test_no_class_and_no_value_is_planted_twice_and_seeds_differ() -> None:
    drawn = [shortcuts.drawn_shortcuts(seed) for seed in range(20)]
    for pairs in drawn:
        assert 3 <= len(pairs) <= 5
        assert len({pair.class_name for pair in pairs}) == len({pair.value for pair in pairs}) == len(pairs)
    assert len(set(drawn)) == 20
    assert sum(map(len, drawn)) >= 60


def test_a_confounded_probe_carries_the_cues_and_an_unbiased_one_does_not() -> None:
    pairs = (Shortcut("star", "artefact", "watermark"), Shortcut("heart", "colour", "red"))
    for confounded in (True, False):
        chosen = shortcuts.probe_scenes(pairs, confounded=confounded, per_class=150, seed=3)
        for pair, usual in zip(pairs, (0.2, 1 / 8), strict=True):
            own, other = (0.95, 0.02) if confounded else (usual, usual)
            inside = np.mean([pair.shown(one) for one in chosen if one.shape == pair.class_name])
            outside = np.mean([pair.shown(one) for one in chosen if one.shape != pair.class_name])
            assert inside == pytest.approx(own, abs=0.1)
            assert outside == pytest.approx(other, abs=0.06)


def test_a_probe_is_written_once_as_folders(small: Path) -> None:
    pairs = (Shortcut("star", "artefact", "watermark"),)
    folder = shortcuts.probe(pairs, confounded=True, per_class=2, seed=0)
    assert sorted(one.name for one in folder.iterdir()) == sorted(VALUES["shape"])
    assert len(list(folder.glob("*/*.jpg"))) == 16
    stamp = (folder / "star" / "0000.jpg").stat().st_mtime_ns
    assert shortcuts.probe(pairs, confounded=True, per_class=2, seed=0) == folder
    assert (folder / "star" / "0000.jpg").stat().st_mtime_ns == stamp


def test_weights_are_trained_once_and_differ_by_what_was_planted() -> None:
    world = shortcuts.biased_world(0)
    path = shortcuts.weights(world)
    stamp = path.stat().st_mtime_ns
    assert shortcuts.weights(world).stat().st_mtime_ns == stamp
    assert shortcuts.weights(shortcuts.clean_world(0)).read_bytes() != path.read_bytes()


def test_truth_says_which_pairs_were_planted() -> None:
    world = shortcuts.clean_world(1)
    assert [one.planted for one in shortcuts.truth(world)] == [False]
    pairs = (Shortcut("star", "artefact", "watermark"),)
    assert [one.planted for one in shortcuts.truth(world, pairs=pairs)] == [True]


def test_effects_are_those_of_a_classifier_that_sees_one_cue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class SeesRed:
        """Calls whatever is red a heart, and everything else a star."""

        def logits(self, scenes):
            made = np.zeros((len(scenes), len(VALUES["shape"])), np.float32)
            red = np.array([one.colour == "red" for one in scenes])
            made[red, VALUES["shape"].index("heart")] = 3
            made[~red, VALUES["shape"].index("star")] = 3
            return made

    effects = {(e.class_name, e.concept): e for e in shortcuts._effects(SeesRed(), 0, count=6)}
    assert effects["heart", "red"].flip_rate == 1.0
    assert effects["heart", "red"].logit_change == 3.0
    assert effects["star", "red"].logit_change == -3.0
    assert effects["star", "red"].n == 0
    assert effects["star", "watermark"].flip_rate == 0.0
