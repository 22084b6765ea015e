"""Probe sets on disk: the layout, the truth beside them, and the bias of the confounded one."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.probe import probe_scenes, write_probe
from demo.scenes import VALUES, render
from demo.shortcuts import PLANTED, confound


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("confounded", [False, True])
def test_a_probe_is_a_folder_of_classes_and_a_table_of_the_truth(tmp_path, confounded):
    write_probe(tmp_path / "set", confounded=confounded, per_class=3, seed=5)
    rows = rows_of(tmp_path / "set_attributes.csv")
    files = sorted(
        path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set").rglob("*.jpg")
    )
    assert sorted(row["uri"] for row in rows) == files
    assert Counter(row["uri"].split("/")[0] for row in rows) == dict.fromkeys(VALUES["shape"], 3)
    for row in rows:
        assert row["shape"] == row["uri"].split("/")[0]
    scene = list(probe_scenes("star", confounded=confounded, per_class=3, seed=5))[2]
    written = np.asarray(Image.open(tmp_path / "set" / "star" / "0002.jpg"), dtype=float)
    assert abs(written - render(scene).image).mean() < 6
    row = next(row for row in rows if row["uri"] == "star/0002.jpg")
    assert {name: row[name] for name in VALUES} == {name: getattr(scene, name) for name in VALUES}


def test_the_same_seed_writes_the_same_bytes_and_other_seeds_share_no_picture(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_probe(tmp_path / name, confounded=True, per_class=2, seed=seed)
    contents = {name: [p.read_bytes() for p in sorted((tmp_path / name).rglob("*.jpg"))] for name in "abc"}
    assert contents["a"] == contents["b"]
    assert not set(contents["a"]) & set(contents["c"])


def test_the_confounded_probe_carries_the_cues_and_the_unbiased_one_does_not():
    for confounded, own, others in ((True, (0.85, 1.0), (0.0, 0.06)), (False, (0.02, 0.3), (0.02, 0.3))):
        drawn = {
            name: list(probe_scenes(name, confounded=confounded, per_class=120, seed=1))
            for name in VALUES["shape"]
        }
        for cue in PLANTED:
            share = {name: np.mean([cue.shown(scene) for scene in some]) for name, some in drawn.items()}
            low, high = own
            assert low <= share.pop(cue.class_name) <= high, cue
            low, high = others
            assert low <= np.mean(list(share.values())) <= high, cue


def test_confounding_changes_nothing_but_the_cues():
    rng = np.random.default_rng(0)
    for scene in probe_scenes("ring", confounded=False, per_class=30, seed=2):
        changed = confound(scene, rng, follow=1.0, leak=0.0)
        assert not any(cue.shown(changed) for cue in PLANTED)
        cues = [cue for cue in PLANTED if cue.shown(scene)]
        different = {name for name in vars(scene) if getattr(scene, name) != getattr(changed, name)}
        assert different == {cue.attribute for cue in cues}
