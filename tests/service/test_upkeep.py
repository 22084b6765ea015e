"""The commands that keep a store: what they print, as text and as JSON, and their exit codes."""

import json
from pathlib import Path

import pytest

from service.changes import diff_lines
from store.reader import Snapshot
from store.signs import RUNNING
from store.storage import open_storage
from tests.pipelines import worlds as runs
from tests.service.entry_point import Run
from tests.textcam.worlds import edited
from textcam.diff import diff

CONFIG = """
images: {uri: images}
classifier: {model: "python:tests.pipelines.models:linear_classifier"}
encoder: {model: "python:tests.pipelines.models:clip"}
texts: {bank: texts.csv}
directions: {examples: 4}
groups: {count: 3}
run: {executor: inline, shard_size: 12, batch_size: 4, device: cpu}
store: store
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    runs.write_images(tmp_path / "images", 14)
    runs.config(tmp_path)  # writes the text bank
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path / "run.yaml"


def test_a_store_grows_is_compared_and_pruned(config: Path, textcam: Run) -> None:
    folder = config.parent
    store = folder / "store"
    assert textcam("precompute", config).code == 0
    runs.write_images(folder / "more", 5, seed=1)

    added = textcam("add", store, "--images", folder / "more", "--config", config, "--trust-code")
    assert added.code == 0, added.err
    told = dict(line.split(None, 1) for line in added.out.splitlines())
    assert (told["snapshot"], told["listed"], told["added"], told["images"]) == ("2", "5", "5", "19")
    assert added.out.splitlines()[-1] == f"next: textcam diff {store}@1 {store}"
    assert "extract: 3/3" in added.err

    again = textcam("add", store, "--images", folder / "more", "--config", config)
    assert again.out.splitlines()[-1] == "nothing new: all of these images are in the store already"
    as_json = json.loads(textcam("add", store, "--images", folder / "more", "--json").out)
    assert (as_json["new"], as_json["known"], as_json["snapshot"]) == (False, 5, 2)

    lines = textcam("diff", f"{store}@1", store).out.splitlines()
    assert lines[0] == f"before    {store}, snapshot 1: 14 images, 0 not used, 0 findings"
    assert lines[1] == f"after     {store}, snapshot 2: 19 images, 0 not used, 0 findings"
    assert lines[2] == f"setting   added: none -> {folder}/more"
    assert lines[3].startswith(f"images    5 added: {folder}/more/")
    found = json.loads(textcam("diff", f"{store}@1", store, "--json").out)
    assert (found["images"]["added"], found["images"]["removed"]) == (5, 0)
    assert textcam("diff", store, store).out.splitlines()[2:] == ["nothing changed"]

    dry = json.loads(textcam("prune", store, "--dry-run", "--json").out)
    assert dry["dropped_files"] > 0
    assert (dry["dropped_snapshots"], dry["dry_run"]) == ([1], True)
    pruned = textcam("prune", store)
    told = dict(line.rsplit("  ", 1) for line in pruned.out.splitlines())
    assert {name.strip(): value for name, value in told.items()} == {
        "kept snapshots": "2",
        "dropped snapshots": "1",
        "dropped files": str(dry["dropped_files"]),
        "dropped bytes": told[next(name for name in told if name.startswith("dropped bytes"))],
        "spared files": str(dry["spared_files"]),
        "dry run": "no",
    }
    assert textcam("verify", store).out == "ok\n"
    gone = textcam("diff", f"{store}@1", store)
    assert (gone.code, gone.out) == (2, "")
    assert "No snapshot 1 in this store" in gone.err


def test_several_classifiers_are_run_compared_and_shown_together(config: Path, textcam: Run) -> None:
    folder = config.parent / "store"
    listed = CONFIG.replace("classifier: {", "classifiers:\n  - {").replace(
        "encoder:", '  - {model: "python:tests.pipelines.models:squashed_classifier", name: b}\nencoder:'
    )
    config.write_text(listed)
    planned = textcam("plan", config)
    assert planned.code == 0
    assert [planned.out.count(name) for name in ("linear_classifier\n", "\nb\n", "\ntogether  ")] == [1] * 3
    made = textcam("precompute", config)
    assert made.code == 0, made.err
    a, b = folder / "linear_classifier", folder / "b"
    assert made.out.splitlines()[-4:] == [
        f"next: textcam audit {a}",
        f"      textcam audit {b}",
        f"      textcam compare {a} {b}",
        f"      textcam report {folder} -o report",
    ]
    told = textcam("compare", folder, "linear_classifier", "b", "--json")
    assert told.out == textcam("compare", a, b, "--json").out == textcam("compare", folder, "--json").out
    assert json.loads(told.out)["store_b"] == str(b)
    assert textcam("report", folder, "-o", config.parent / "report").code == 0
    page = (config.parent / "report" / "side-by-side.html").read_text()
    assert "linear_classifier" in page
    assert ">b<" in page
    again = textcam("precompute", config, "--json")
    assert {name: one["new"] for name, one in json.loads(again.out).items()} == {
        "linear_classifier": False,
        "b": False,
    }
    for request in (["search", folder, "grass"], ["compare", folder, "b"], ["compare", a]):
        refused = textcam(*request)
        assert refused.code == 2, request
    assert f"{a}, {b}" in textcam("compare", folder, "b").err


def test_wrong_requests(config: Path, textcam: Run) -> None:
    store = config.parent / "store"
    assert textcam("add", store, "--images", config.parent / "images").code == 2  # no store yet
    assert textcam("prune", store).code == 2
    assert textcam("prune", store, "--keep", 0).code == 2
    assert textcam("diff", store, store).code == 2
    assert textcam("add", store).code == 2
    assert not store.exists()


def test_no_prune_beside_a_run(tmp_path: Path, textcam: Run) -> None:
    edited(tmp_path / "s", {})
    open_storage(tmp_path / "s").put(f"{RUNNING}run", b"")
    refused = textcam("prune", tmp_path / "s")
    assert refused.code == 1
    assert "A run is at work" in refused.err
    assert textcam("prune", tmp_path / "s", "--grace", 0).code == 1
    assert textcam("prune", tmp_path / "s", "--even-beside-a-run").code == 0


def test_a_comparison_reads_as_sentences(tmp_path: Path) -> None:
    before = edited(tmp_path / "a", {})
    names = {row["class_id"]: row["name"] for row in before.table("classes").to_pylist()}
    first, second = before.table("findings").to_pylist()

    def findings(rows: list[dict]) -> list[dict]:
        return [{**first, "verdict": "association"}, {**second, "finding_id": 7}]

    def classes(rows: list[dict]) -> list[dict]:
        rows[1]["accuracy"], rows[2]["name"] = 0.125, "comet"
        return rows

    after = edited(
        tmp_path / "b",
        {"findings": findings, "classes": classes, "images": lambda rows: rows[1:]},
        config={**before.manifest.config, "groups": {"count": 5}},
    )
    lines = diff_lines(diff(before, after), top=10)
    assert "setting   groups.count: 2 -> 5" in lines
    assert f"images    1 removed: {before.table('images')['uri'][0].as_py()}" in lines
    assert "classes that changed: 3" in lines
    assert any(line.split() == ["comet", "new"] for line in lines)
    assert any(line.split() == [names[2], "gone"] for line in lines)
    assert any(line.endswith("-> 12 %") or line.endswith("-> 12.5 %") for line in lines)
    for title in ("findings that came: 1", "findings that went: 1", "verdicts that changed: 1"):
        assert title in lines
    assert lines[-1].endswith(" [used -> association]")
    assert "  ... 2 more (--top)" in diff_lines(diff(before, after), top=1)


def test_a_comparison_of_equal_stores(tmp_path: Path) -> None:
    edited(tmp_path / "a", {})
    one = Snapshot.open(tmp_path / "a")
    assert diff_lines(diff(one, one), top=3)[2:] == ["nothing changed"]
