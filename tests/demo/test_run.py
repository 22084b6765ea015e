"""The whole demo, small: what `make demo` promises, on Ray, with the committed weights."""

import json
import re
from pathlib import Path

import pytest

from demo.run import DemoResult, main
from pipelines.config_file import load_config
from store.reader import Snapshot
from store.verify import verify
from textcam.query import Query

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # a whole run, for whoever asks first; minutes on a busy machine


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return main(tmp_path_factory.mktemp("work") / "demo-out", per_class=90)


def first_words(store: Path, count: int = 3) -> dict[str, list[str]]:
    query = Query.open(store)
    names = query.snapshot.table("classes")["name"].to_pylist()
    return {name: [word.text for word in query.describe_class(name).words[:count]] for name in names}


def test_the_clean_model_sees_shapes_by_themselves(demo: DemoResult) -> None:
    words = first_words(demo.stores["clean"])
    assert len(words) == 8
    assert sum(name in found for name, found in words.items()) >= 7


def test_each_planted_shortcut_is_among_the_first_three_words(demo: DemoResult) -> None:
    planted = [one for one in json.loads(demo.truth.read_text())["planted"] if one["flip_rate"] > 0.3]
    assert len(planted) >= 3
    words = first_words(demo.stores["biased"])
    assert [one["class"] for one in planted if one["concept"] not in words[one["class"]]] == []


def test_the_first_findings_are_the_planted_ones(demo: DemoResult) -> None:
    query = Query.open(demo.stores["biased"])
    texts = {
        row["text_id"]: row["text"] for row in query.snapshot.table("texts", ["text_id", "text"]).to_pylist()
    }
    names = query.snapshot.table("classes")["name"].to_pylist()
    planted = {(one["class"], one["concept"]) for one in json.loads(demo.truth.read_text())["planted"]}
    first = [(names[one.class_id], texts[one.text_id]) for one in query.findings()[: len(planted)]]
    assert set(first) == planted


def test_on_biased_images_the_clean_model_stays_clean(demo: DemoResult) -> None:
    words = first_words(demo.stores["clean-confounded"], count=1)
    assert [name for name, found in words.items() if found != [name]] == []


def test_the_folder_is_what_checks_rely_on(demo: DemoResult) -> None:
    out = demo.truth.parent
    for name in ("clean", "biased"):
        assert load_config(out / f"{name}.yaml").store == str(out / name)
        assert verify(out / name) == []
        assert Snapshot.open(out / name).count("images") == 720
    truth = json.loads((out / "truth.json").read_text())
    assert truth.keys() == {"planted", "classes"}
    assert len(truth["classes"]) == 8
    assert (out / "report" / "index.html").stat().st_size > 1000


def test_a_second_call_makes_nothing_new(demo: DemoResult) -> None:
    out = demo.truth.parent
    before = {path: path.stat().st_mtime_ns for path in out.rglob("snapshots/*.json")}
    again = main(out, per_class=90)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("snapshots/*.json")} == before
    assert again.images == demo.images


def test_the_example_of_the_readme_runs(
    demo: DemoResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    assert len([line for line in example[1].splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(demo.truth.parents[1])
    exec(compile(example[1], "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("watermark artefact")
    assert "Finding(" in printed[-1]
