"""docs/sql.md: every query and piece of Python on the page runs, and its answer is worked out again here.

The store is the tiny one, with a few rows edited so that no answer is empty. What a query must answer is
computed from the plain rows of the tables or from the world's numbers, never by SQL.
"""

import csv
import io
import json
import re
import shlex
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from service.cli import main
from store.errors import QueryError
from store.reader import Snapshot
from tests.store.worlds import CLASSES, TEXTS, TinyWorld
from tests.textcam.worlds import Edit, edited

PAGE = (Path(__file__).parents[1] / "docs" / "sql.md").read_text(encoding="utf-8")
QUERIES = {
    title: re.findall(r"```sql\n(.*?)```", section, re.S)
    for title, section in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    if "```sql" in section
}
WORLD = TinyWorld()
NAME_OF = dict(zip(WORLD.text_ids.tolist(), WORLD.texts, strict=True))
ID_OF = {name: text_id for text_id, name in NAME_OF.items()}
WATERMARK = ID_OF["a watermark"]
Rows = list[dict[str, Any]]


def _double(rows: Rows) -> Rows:
    """Two images with the same bytes."""
    by_uri = sorted(rows, key=lambda row: row["uri"])
    by_uri[4]["content_hash"] = by_uri[1]["content_hash"]
    return by_uri


def _watermarked(rows: Rows) -> Rows:
    """Every third explanation names the watermark first, each with another coefficient."""
    for at, row in enumerate(rows):
        others = [one for one in row["text_ids"] if one != WATERMARK]
        row["text_ids"] = [WATERMARK, *others[:1]] if at % 3 == 0 else others[:2]
        row["coefficients"] = [0.9 - 0.05 * at, 0.1][: len(row["text_ids"])]
    return rows


def _shared(rows: Rows) -> Rows:
    """Channels 0, 3, 5 share one word, 1 and 2 another, 4 and 6 have their own."""
    words = ["red", "noise", "noise", "red", "metal", "red", "a star"]
    return [row | {"text_id": ID_OF[words[row["channel"]]]} for row in rows]


def _broken(rows: Rows) -> Rows:
    found = [
        ("a.png", "decode", "cut short"),
        ("b.png", "read", "not there"),
        ("c.png", "decode", "cut short"),
    ]
    return [dict(zip(("uri", "stage", "reason"), one, strict=True)) for one in found]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    edits: dict[str, Edit] = {
        "images": _double,
        "explanations": _watermarked,
        "channel_texts": _shared,
        "errors": _broken,
    }
    return edited(tmp_path_factory.mktemp("sql") / "runs" / "birds", edits)


@pytest.fixture
def answer(snapshot: Snapshot) -> Any:
    """The rows that the query under a heading returns."""
    return lambda title: snapshot.sql(QUERIES[title][0]).to_pylist()


def rows_of(snapshot: Snapshot, table: str) -> Rows:
    return list(snapshot.table(table).to_pylist())


def test_every_query_is_tested() -> None:
    assert len(QUERIES) >= 10
    assert all(len(found) == 1 for found in QUERIES.values())
    used = set(
        re.findall(r'(?:answer|QUERIES)(?:\(|\[)"([^"]+)"', Path(__file__).read_text(encoding="utf-8"))
    )
    assert used == set(QUERIES)


def test_worst_classes(answer: Any, snapshot: Snapshot) -> None:
    found = answer("Classes with the worst accuracy, and their words")
    right = WORLD.labels == WORLD.predictions
    accuracy = [right[WORLD.labels == c].mean() for c in range(3)]
    order = sorted(range(3), key=lambda c: (np.float32(accuracy[c]), CLASSES[c]))
    assert [row["name"] for row in found] == [CLASSES[c] for c in order]
    shares = rows_of(snapshot, "class_texts")
    for row, c in zip(found, order, strict=True):
        assert row["accuracy"] == pytest.approx(accuracy[c])
        assert row["n_images"] == int((WORLD.labels == c).sum())
        mine = sorted((one for one in shares if one["class_id"] == c), key=lambda one: -one["share"])
        assert row["words"].split(", ")[0] == NAME_OF[mine[0]["text_id"]]
        assert set(row["words"].split(", ")) == {NAME_OF[one["text_id"]] for one in mine}


def test_images_that_name_a_text(answer: Any, snapshot: Snapshot) -> None:
    found = answer("Images whose explanation names a text")
    images = {row["image_id"]: row for row in rows_of(snapshot, "images")}
    naming = [one for one in rows_of(snapshot, "explanations") if WATERMARK in one["text_ids"]]
    naming.sort(key=lambda one: -one["coefficients"][0])
    assert len(naming) == 4
    assert found == [
        {
            "uri": images[one["image_id"]]["uri"],
            "predicted": CLASSES[images[one["image_id"]]["prediction"]],
            "coefficient": one["coefficients"][0],
        }
        for one in naming
    ]


def test_accuracy_with_and_without(answer: Any, snapshot: Snapshot) -> None:
    found = answer("Accuracy of a class with and without a word")
    naming = {one["image_id"]: WATERMARK in one["text_ids"] for one in rows_of(snapshot, "explanations")}
    right: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    for row in rows_of(snapshot, "images"):
        right[CLASSES[row["label"]], naming[row["image_id"]]].append(row["label"] == row["prediction"])
    assert found == [
        {"name": name, "named": named, "n": len(ones), "accuracy": pytest.approx(np.mean(ones))}
        for (name, named), ones in sorted(right.items(), key=lambda one: (one[0][0], not one[0][1]))
    ]
    assert sum(row["n"] for row in found) == 11


def test_shared_words(answer: Any) -> None:
    assert answer("Words that several channels share") == [
        {"text": "red", "kind": "colour", "n": 3, "channels": [5, 3, 0]},
        {"text": "noise", "kind": "other", "n": 2, "channels": [2, 1]},
    ]


def test_nearest_channels(answer: Any) -> None:
    found = answer("Nearest channels by direction")
    similarity = WORLD.directions @ WORLD.directions[3]
    order = [int(j) for j in np.argsort(-similarity) if j != 3]
    assert [row["channel"] for row in found] == order
    assert [row["similarity"] for row in found] == pytest.approx(similarity[order].tolist(), abs=1e-6)
    assert [row["group_id"] for row in found] == WORLD.group_of[order].tolist()


def test_exciting_images(answer: Any) -> None:
    found = answer("Images that excite a channel most")
    order = np.argsort(-WORLD.pooled[:, 3], kind="stable")[:2]
    assert [row["uri"] for row in found] == [WORLD.uris[i] for i in order]
    assert [row["activation"] for row in found] == WORLD.pooled[order, 3].tolist()


def test_groups(answer: Any, snapshot: Snapshot) -> None:
    found = answer("Groups, their channels and words")
    assert [(row["group_id"], row["n_channels"], row["channels"]) for row in found] == [
        (0, 4, [0, 2, 4, 6]),
        (1, 3, [1, 3, 5]),
    ]
    words = {row["group_id"]: row["text_ids"] for row in rows_of(snapshot, "groups")}
    for row in found:
        assert row["words"].split(", ") == [NAME_OF[one] for one in words[row["group_id"]]]


def test_kinds_of_evidence(answer: Any, snapshot: Snapshot) -> None:
    found = answer("What kind of evidence each class rests on")
    shares: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows_of(snapshot, "class_texts"):
        shares[CLASSES[row["class_id"]], TEXTS[NAME_OF[row["text_id"]]]] += row["share"]
    assert {(row["name"], row["kind"]): row["share"] for row in found} == pytest.approx(shares)
    for name in CLASSES:
        mine = [row["share"] for row in found if row["name"] == name]
        assert mine == sorted(mine, reverse=True)
        assert sum(mine) == pytest.approx(1, abs=1e-5)


def test_findings(answer: Any) -> None:
    found = answer("Findings and their verdicts")
    assert [(row["name"], row["text"], row["verdict"]) for row in found] == [
        ("star", "a watermark", "used"),
        ("circle", "a meadow", "unproven"),
    ]
    assert found[0]["effect"] == pytest.approx(0.6)
    assert found[1]["effect"] is None


def test_label_suspects(answer: Any, snapshot: Snapshot) -> None:
    wrong = [row for row in rows_of(snapshot, "images") if row["label"] != row["prediction"]]
    wrong.sort(key=lambda row: (-row["confidence"], row["uri"]))
    assert len(wrong) > 1
    assert answer("Label suspects") == [
        {
            "uri": row["uri"],
            "label": CLASSES[row["label"]],
            "prediction": CLASSES[row["prediction"]],
            "confidence": row["confidence"],
        }
        for row in wrong
    ]


def test_confused_classes(answer: Any) -> None:
    found = answer("Which classes are taken for which")
    pairs = zip(WORLD.labels.tolist(), WORLD.predictions.tolist(), strict=True)
    counted = Counter((CLASSES[label], CLASSES[seen]) for label, seen in pairs if label != seen)
    assert {(row["label"], row["prediction"]): row["n"] for row in found} == counted
    assert [row["n"] for row in found] == sorted(counted.values(), reverse=True)


def test_errors_by_reason(answer: Any) -> None:
    assert answer("Images that could not be used, by reason") == [
        {"stage": "decode", "reason": "cut short", "n": 2, "example": "a.png"},
        {"stage": "read", "reason": "not there", "n": 1, "example": "b.png"},
    ]


def test_doubles(answer: Any) -> None:
    (found,) = answer("The same file more than once")
    by_uri = sorted(WORLD.uris)
    assert (found["n"], found["uris"]) == (2, [by_uri[1], by_uri[4]])


@pytest.mark.parametrize("command", re.findall(r"^textcam sql .+$", PAGE, re.M))
def test_commands_of_the_page(
    command: str,
    snapshot: Snapshot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worst = QUERIES["Classes with the worst accuracy, and their words"][0]
    (tmp_path / "worst.sql").write_text(worst)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(Path(snapshot.storage.uri).parent)
    words = shlex.split(command)
    if "<" in words:
        monkeypatch.setattr(sys, "stdin", io.StringIO((tmp_path / words.pop()).read_text()))
        words.remove("<")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    out = capsys.readouterr().out
    query = words[3] if words[3].startswith("SELECT") else worst
    names = [row["name"] for row in snapshot.sql(query).to_pylist()]
    assert names
    if "--json" in words:
        assert [row["name"] for row in json.loads(out)] == names
    elif "--json-lines" in words:
        assert [json.loads(line)["name"] for line in out.splitlines()] == names
    elif "--csv" in words:
        written = list(csv.DictReader((tmp_path / "worst.csv").read_text(encoding="utf-8").splitlines()))
        assert [row["name"] for row in written] == names
    else:
        assert [line.split()[0] for line in out.splitlines()[1:]] == names


def test_python_of_the_page(snapshot: Snapshot, tmp_path: Path) -> None:
    first, last = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    known: dict[str, Any] = {}
    here = {
        '"runs/birds"': repr(str(snapshot.storage.uri)),
        '"slices.parquet"': repr(str(tmp_path / "s.parquet")),
    }
    for piece in (first, last):
        for said, meant in here.items():
            piece = piece.replace(said, meant)
        exec(piece, known)
    assert sorted(row["name"] for row in known["rows"]) == sorted(CLASSES)
    assert pq.read_table(tmp_path / "s.parquet").equals(known["slices"])
    assert known["slices"].num_rows == 11


def test_no_query_writes_a_file(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(QueryError):
        snapshot.sql(f"COPY (SELECT * FROM images) TO '{tmp_path / 'out.parquet'}' (FORMAT parquet)")
    assert list(tmp_path.iterdir()) == []
