"""Results of the truth benchmark: parts keep their own lines and tables, whatever the others do."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import Measure
from benchmarks.truth import page, results
from benchmarks.truth.__main__ import rows, with_lead
from benchmarks.truth.page import Table, number, replaced
from benchmarks.truth.tables import GOALS, LEAD, TABLES, tables

PAGE = (
    "before\n<!-- t2: begin -->\nold\n<!-- t2: end -->\nbetween\n<!-- goals: begin -->\n<!-- goals: end -->\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "truth.md")
    monkeypatch.setenv("TEXTCAM_WORLDS", str(tmp_path / "worlds"))
    (tmp_path / "truth.md").write_text(PAGE)
    return tmp_path


def test_numbers_are_short() -> None:
    made = [number(one) for one in (0.964, 0.999, 1.0, 0.0, -0.001, -0.05, 3.1, 12.345, -1.0)]
    assert made == [".96", "1", "1", "0", "0", "-.05", "3.10", "12.35", "-1.00"]


def test_a_table_leaves_out_who_has_none_of_its_measures() -> None:
    found = {
        "t9": {"a": {"x": (0.5, 0.25, 0.75)}, "b": {"y": (0.1, 0.1, 0.1)}, "cost": {"CPU minutes": (9, 9, 9)}}
    }
    lines = Table("t9", [("X", "x"), ("Z", "z")]).lines(found)
    assert lines == ["| | X | Z |", "|---|---|---|", "| a | .50 [.25, .75] |  |"]
    assert Table("t9", [("Y", "y")], [("b", "B")], intervals=False).lines(found)[2] == "| B | .10 |"
    assert Table("t8", [("Y", "y")]).lines(found) == []


def test_what_stands_between_markers_is_replaced_and_nothing_else() -> None:
    made = replaced(PAGE, "t2", ["new", "lines"])
    assert made == PAGE.replace("old\n", "new\nlines\n")
    assert replaced(made, "t2", []) == made
    assert replaced(made, "t1", ["new"]) == made


def test_parts_replace_their_own_lines(folder: Path) -> None:
    results.keep_parts(["t1"], [Measure("t1 | ours | own word first", 0.9, 0.8, 1.0)])
    results.keep_parts(
        ["t2"], [Measure("t2 | right labels | pearson", 0.8), Measure("t2 | gone | pearson", 0.1)]
    )
    results.keep_parts(["t2"], [Measure("t2 | right labels | pearson", 0.75, 0.7, 0.8)])
    document = json.loads((folder / "truth.json").read_text())
    assert [(one["name"], one["value"]) for one in document["measures"]] == [
        ("t1 | ours | own word first", 0.9),
        ("t2 | right labels | pearson", 0.75),
    ]
    text = (folder / "truth.md").read_text()
    assert "| right labels | .75 [.70, .80] |" in text
    assert "old" not in text
    assert "| own word first, clean classifiers | at least .95 | .90 [.80, 1] | no |" in text


def test_the_lead_is_seed_by_seed_over_the_best_of_the_others() -> None:
    made = with_lead(
        {
            "ours": {"a": [0.9, 0.7], "b": [1.0, 1.0], "b pearson": [0.1, 0.1]},
            "ours, presence alone": {"a": [1.0, 1.0], "b": [1.0, 1.0], "b pearson": [0.1, 0.1]},
            "ridge": {"a": [0.8, 0.9], "b": [0.2, 0.0], "b pearson": [0.1, 0.1]},
            "chance": {"a": [1.0, 0.0], "b": [0.5, 0.0], "b pearson": [0.1, 0.1]},
        }
    )
    assert np.allclose(made[LEAD]["a"], [0.1, -0.2])
    assert made[LEAD]["b"] == [0.5, 1.0]
    assert made[LEAD]["least"] == made[LEAD]["a"]


def test_every_table_has_its_place_in_the_page_and_every_goal_its_measure() -> None:
    text = Path("docs/truth.md").read_text()
    for marker in (*TABLES, "goals"):
        assert text.count(f"<!-- {marker}: begin -->\n") == text.count(f"<!-- {marker}: end -->\n") == 1, (
            marker
        )
    made = tables(results.rows_of(results.kept()))
    for marker, lines in made.items():
        assert "\n".join(lines) in text, f"{marker} is not what results/truth.json says"
    assert len(made["goals"]) == len(GOALS) + 2


def test_rows_carry_goals_and_directions() -> None:
    name = "false shortcut in first three, confounded"
    (one,) = rows({"t1": {"ours": {name: [0.0, 1.0, 0.0, 0.0]}}})
    assert (one.value, one.goal, one.better) == (0.25, 0.1, "lower")
