"""Text banks as a user gives them: several files, kinds, templates, and what a run says about them."""

from pathlib import Path

import pytest

from pipelines.config import Config
from pipelines.estimate import plan
from pipelines.run import precompute
from store.errors import ConfigError
from tests.pipelines import worlds as runs
from textcam.query import Query
from textcam.texts import DEFAULT_TEMPLATES, TextBank, embed_bank, load_bank

CLIP = Path(__file__).parents[2] / "demo" / "weights" / "clip"
LONG = " ".join(["striped"] * 30) + " star"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs.write_images(tmp_path / "images", 9)
    (tmp_path / "mine.csv").write_text(
        "text,kind,note\nwater,scene,x\n  Red ,colour,x\na striped thing,,x\n", encoding="utf-8"
    )
    (tmp_path / "more.txt").write_text(
        f"# own words\nred\ngrass\ngrass grass\n\nWATER\n{LONG}\nÜberzug\n", encoding="utf-8"
    )
    return tmp_path


def config(folder: Path, **texts: object) -> Config:
    """A run with the demo's CLIP, whose tokenizer takes 24 tokens."""
    return runs.config(
        folder,
        encoder={"model": f"local-dir:{CLIP}"},
        texts={"bank": ["mine.csv", "more.txt"], **texts},
        proof={"findings": 0},
        report={"exemplars": 0},
    )


def test_several_banks_are_one_and_their_doubts_are_told(folder: Path) -> None:
    told = precompute(config(folder))
    rows = Query.open(folder / "store").sql("SELECT text, kind FROM texts").to_pylist()
    assert {row["text"]: row["kind"] for row in rows} == {
        "water": "scene",
        "Red": "colour",
        "a striped thing": "other",
        "grass": "other",
        "grass grass": "other",
        LONG: "other",
        "Überzug": "other",
    }
    assert told.duplicate_texts == ("red = Red", "WATER = water")
    assert [line.partition(" (")[0] for line in told.near_duplicate_texts] == ["grass grass ~ grass"]
    assert told.truncated_texts == (LONG,)
    again = precompute(config(folder))
    assert (again.new, again.truncated_texts) == (False, (LONG,))


def test_templates_of_ones_own_are_what_is_encoded(folder: Path) -> None:
    precompute(config(folder, templates={"colour": ["something {}", "{} everywhere"]}))
    query = Query.open(folder / "store")
    bank = load_bank([folder / "mine.csv"], {"colour": ["something {}", "{} everywhere"]})
    expected = embed_bank(bank, query._models.encoder.encode_texts)
    default = TextBank(bank.texts, bank.kinds, DEFAULT_TEMPLATES)
    plain = embed_bank(default, query._models.encoder.encode_texts)
    rows = query.sql("SELECT text, embedding FROM texts").to_pylist()
    stored = {row["text"]: row["embedding"] for row in rows}
    for text, row, other in zip(bank.texts, expected, plain, strict=True):
        assert stored[text] == pytest.approx(row, abs=1e-5)
        assert (stored[text] == pytest.approx(other, abs=1e-5)) == (text != "Red")


def embedded_texts(folder: Path) -> set[tuple[Path, int]]:
    """The files of embedded texts, and when each was written."""
    return {(path, path.stat().st_mtime_ns) for path in (folder / "store" / "work" / "texts").iterdir()}


def test_texts_are_embedded_once_for_one_encoder_and_bank(folder: Path) -> None:
    files = []
    for words in ({}, {"top": 3}):
        precompute(config(folder).model_copy(update={"words": config(folder).words.model_copy(update=words)}))
        files.append(embedded_texts(folder))
    assert len(files[0]) == 1
    assert files[0] == files[1]
    with (folder / "more.txt").open("a") as file:
        file.write("snow\n")
    precompute(config(folder))
    assert len(embedded_texts(folder) - files[0]) == 1


def test_a_bank_that_cannot_be_read_is_refused_with_its_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match="A template must hold"):
        precompute(config(folder, templates=["no place"]))
    (folder / "mine.csv").write_text("text,kind\nwater,scenery\n")
    for act in (plan, precompute):
        with pytest.raises(ConfigError, match="Unknown kind 'scenery'") as error:
            act(config(folder))
        assert str(error.value.where).endswith("mine.csv, line 2")
    assert not (folder / "store").exists()  # before any work was done


def test_a_plan_counts_the_passes_of_slow_cam_methods(folder: Path) -> None:
    squashed = {"model": "python:tests.pipelines.models:squashed_classifier"}

    def planned(method: str, *, linear: bool = True) -> dict[str, float]:
        changed = runs.config(folder, cam={"method": method}, **({} if linear else {"classifier": squashed}))
        return plan(changed).milliseconds_per_image

    assert "channel weights" not in planned("gradcam", linear=False)
    assert "channel weights" not in planned("scorecam")  # a linear head: only maps that pages show need them
    slow = planned("scorecam", linear=False)
    assert slow["channel weights"] == pytest.approx(7 * slow["classifier"], rel=0.05)
