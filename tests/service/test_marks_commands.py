"""Marks on the command line: set, listed, taken back."""

import csv
import io
import json
from pathlib import Path

import pytest

from store.marks import Mark, add_mark, marks
from store.storage import open_storage
from store.verify import verify
from tests.service.entry_point import Run, Said
from tests.store.worlds import TinyWorld, tiny_store
from textcam.query import Query


@pytest.fixture
def store(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "store", TinyWorld(images=11))
    return tmp_path / "store"


def pairs(store: Path) -> list[str]:
    audit = Query.open(store).audit
    return [":".join(audit.pair(finding)) for finding in audit.findings()]


def test_marks_are_listed(textcam: Run, store: Path) -> None:
    assert textcam("marks", store) == Said(0, "no marks\n", "")
    assert textcam("marks", store, "--json").out == "[]\n"
    first, second = pairs(store)
    textcam("mark", store, first, "spurious", "--note", "one lake, one day")
    textcam("mark", store, second, "unclear")
    textcam("mark", store, second, "core")
    rows = sorted([[*first.split(":"), "spurious", "one lake, one day"], [*second.split(":"), "core", ""]])
    names = ["class_name", "text", "said", "note"]
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    assert json.loads(textcam("marks", store, "--json").out) == expected
    assert list(csv.DictReader(io.StringIO(textcam("marks", store, "--csv").out))) == expected
    assert [line.split()[0] for line in textcam("marks", store).out.splitlines()] == [
        "class_name",
        *(row[0] for row in rows),
    ]


def test_a_mark_is_taken_back(textcam: Run, store: Path) -> None:
    before = textcam("audit", store).out
    first, second = pairs(store)
    said = textcam("mark", store, first, "core", "--json")
    assert json.loads(said.out)["said"] == "core"
    textcam("mark", store, second, "unclear")
    assert textcam("audit", store).out != before
    assert textcam("unmark", store, first) == Said(0, f"{first} is not marked any more\n", "")
    assert [
        f"{one['class_name']}:{one['text']}" for one in json.loads(textcam("marks", store, "--json").out)
    ] == [second]
    said = textcam("unmark", store, second, "--json")
    assert json.loads(said.out)["said"] == "removed"
    assert textcam("audit", store).out == before
    assert verify(store) == []
    assert len(list((store / "marks").iterdir())) == 4  # nothing was changed or deleted


def test_what_is_not_marked_cannot_be_taken_back(textcam: Run, store: Path) -> None:
    first, second = pairs(store)
    textcam("mark", store, first, "core")
    refused = textcam("unmark", store, second)
    assert (refused.code, refused.out) == (2, "")
    assert f"{second} is not marked." in refused.err
    assert f"Marked are: {first}." in refused.err
    textcam("unmark", store, first)
    assert textcam("unmark", store, first).code == 2
    assert textcam("unmark", store, "star:nothing").code == 2


def test_a_mark_of_a_finding_that_is_gone_can_be_taken_back(textcam: Run, store: Path) -> None:
    storage = open_storage(store)
    add_mark(storage, Mark("heron", "water", "core"))
    assert textcam("unmark", store, "Heron:Water").code == 0
    assert marks(storage) == {}


def test_marked_anew_it_counts_again(store: Path) -> None:
    storage = open_storage(store)
    for said in ("core", "removed", "spurious"):
        add_mark(storage, Mark("star", "snow", said))
    assert marks(storage) == {("star", "snow"): Mark("star", "snow", "spurious")}
