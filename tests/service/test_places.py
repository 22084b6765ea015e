"""STORE on the command line: a store, one of its snapshots, or a folder of stores, alike for all commands."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from service.places import Place
from store.collection import write_names
from store.reader import Snapshot
from store.storage import open_storage
from store.writer import commit
from tests.service.entry_point import Run, Said
from tests.store.worlds import TinyWorld, tiny_manifest, tiny_store


def next_snapshot(path: Path, images: int) -> None:
    storage = open_storage(path)
    made = tiny_manifest(storage, TinyWorld(images=images), 1, None)
    commit(storage, replace(made, snapshot=2, parent=1))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two snapshots; the first has fewer images."""
    tiny_store(tmp_path / "s", TinyWorld(images=5))
    next_snapshot(tmp_path / "s", 11)
    return tmp_path / "s"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two stores."""
    for name in ("one", "two"):
        tiny_store(tmp_path / "both" / name, TinyWorld(images=11))
    write_names(open_storage(tmp_path / "both"), ["one", "two"])
    return tmp_path / "both"


# --- snapshots --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("runs/birds", Place("runs/birds")),
        ("runs/birds@2", Place("runs/birds", 2)),
        ("runs/birds@02", Place("runs/birds", 2)),
        ("s3://bucket/a@b@13", Place("s3://bucket/a@b", 13)),
        ("runs/birds@2/", Place("runs/birds@2/")),
        ("runs/birds@new", Place("runs/birds@new")),
        ("runs/me@12/birds", Place("runs/me@12/birds")),
        ("@3", Place("@3")),
        ("runs/@3", Place("runs/@3")),
    ],
)
def test_a_snapshot_is_named_behind_an_at(named: str, place: Place) -> None:
    assert Place.of(named) == place


def test_a_snapshot_of_a_store(textcam: Run, store: Path) -> None:
    count = "SELECT count(*) AS n FROM images"
    assert json.loads(textcam("sql", f"{store}@1", count, "--json").out) == [{"n": 5}]
    assert json.loads(textcam("sql", f"{store}@2", count, "--json").out) == [{"n": 11}]
    assert json.loads(textcam("sql", store, count, "--json").out) == [{"n": 11}]
    assert json.loads(textcam("info", f"{store}@1", "--json").out)["snapshot"] == 1
    said = textcam("diff", f"{store}@1", store).out.splitlines()
    assert said[0] == f"before    {store}, snapshot 1: 5 images, 1 not used, 2 findings"
    none = textcam("verify", f"{store}@3")
    assert (none.code, none.out) == (2, "")
    assert "No snapshot 3 in this store." in none.err


def test_what_is_done_to_a_store_refuses_a_snapshot(textcam: Run, store: Path) -> None:
    for request in (
        ["mark", f"{store}@1", "0", "core"],
        ["marks", f"{store}@1"],
        ["unmark", f"{store}@1", "0"],
        ["prune", f"{store}@1"],
        ["add", f"{store}@1", "--images", store],
    ):
        said = textcam(*request)
        assert (said.code, said.out) == (2, ""), request
        assert f"Name the store: {store}\n" in said.err
    assert len(list((store / "snapshots").iterdir())) == 2


def test_a_folder_whose_name_ends_so_is_written_with_a_slash(textcam: Run, tmp_path: Path) -> None:
    tiny_store(tmp_path / "s@7", TinyWorld(images=5))
    assert textcam("verify", f"{tmp_path}/s@7").code == 2
    assert textcam("verify", f"{tmp_path}/s@7/") == Said(0, "ok\n", "")


# --- folders of stores ------------------------------------------------------------------------------------


def test_verify_answers_for_each(textcam: Run, folder: Path) -> None:
    assert textcam("verify", folder) == Said(0, "one\nok\n\ntwo\nok\n\n", "")
    assert json.loads(textcam("verify", folder, "--json").out) == {"one": [], "two": []}
    part = Snapshot.open(folder / "two").parts("texts")[0]
    (folder / "two" / part.path).unlink()
    said = textcam("verify", folder)
    assert said.code == 1
    assert said.out.startswith("one\nok\n\ntwo\n")
    assert part.path in said.out


def test_info_and_audit_answer_for_each(textcam: Run, folder: Path) -> None:
    told = json.loads(textcam("info", folder, "--json").out)
    assert {name: one["store"] for name, one in told.items()} == {
        "one": str(folder / "one"),
        "two": str(folder / "two"),
    }
    assert textcam("info", folder).out.startswith(f"one\nstore       {folder}/one\n")
    alone = textcam("audit", folder / "one").out
    assert textcam("audit", folder).out == f"one\n{alone}\ntwo\n{alone}\n"
    record = json.loads(textcam("audit", folder / "one", "--json").out)
    assert json.loads(textcam("audit", folder, "--json").out) == {"one": record, "two": record}
    rows = list(csv.DictReader(io.StringIO(textcam("audit", folder, "--csv").out)))
    assert [row["store"] for row in rows] == ["one"] * len(record) + ["two"] * len(record)
    assert rows[0]["class_name"] == record[0]["class_name"]


def test_prune_is_done_for_each(textcam: Run, folder: Path) -> None:
    next_snapshot(folder / "one", 12)
    dry = json.loads(textcam("prune", folder, "--dry-run", "--json").out)
    assert {name: one["dropped_snapshots"] for name, one in dry.items()} == {"one": [1], "two": []}
    assert textcam("prune", folder).code == 0
    assert [file.name for file in (folder / "one" / "snapshots").iterdir()] == ["00000002.json"]
    assert textcam("verify", folder).code == 0


@pytest.mark.parametrize("command", ["info", "audit", "verify", "prune"])
def test_one_that_fails_does_not_cost_the_others_their_answers(
    textcam: Run, folder: Path, command: str
) -> None:
    (folder / "one" / "snapshots" / "00000001.json").unlink()
    said = textcam(command, folder)
    assert said.code == 2
    assert said.err.startswith("error: No committed store here.\n")
    assert said.out.startswith("two\n")
    assert not said.out.startswith("one\n")
    assert "\none\n" not in said.out


def test_a_folder_of_stores_has_no_snapshot(textcam: Run, folder: Path) -> None:
    said = textcam("verify", f"{folder}@1")
    assert (said.code, said.out) == (2, "")
    assert "A snapshot belongs to one store" in said.err


@pytest.mark.parametrize(
    "words", [["search", "STORE", "red"], ["sql", "STORE", "SELECT 1"], ["data", "STORE"]]
)
def test_other_commands_name_the_stores_in_it(textcam: Run, folder: Path, words: list[str]) -> None:
    said = textcam(*(str(folder) if word == "STORE" else word for word in words))
    assert (said.code, said.out) == (2, "")
    assert f"{folder}/one, {folder}/two" in said.err
