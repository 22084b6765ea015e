"""What changed between two stores, on stores whose tables are changed by hand."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest

from store.reader import Snapshot
from store.schema import stable_id, tables
from store.writer import write_part
from tests.store.worlds import CLASSES, tiny_store
from tests.textcam.worlds import Edit, Rows, edited
from textcam.answers import Word
from textcam.diff import LEAST_MOVE, Change, diff, moved_share


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    uri = tmp_path_factory.mktemp("plain") / "s"
    return edited(uri, {})


def test_a_store_does_not_differ_from_itself(plain: Snapshot, tmp_path: Path) -> None:
    assert diff(plain, plain).is_empty
    twin = edited(tmp_path / "twin", {})
    found = diff(plain, twin)
    assert found.is_empty
    assert (found.before.store, found.after.store) == (plain.storage.uri, twin.storage.uri)
    assert (found.after.images, found.after.errors, found.after.findings) == (11, 1, 2)


def test_images_that_came_went_and_changed(plain: Snapshot, tmp_path: Path) -> None:
    rows = plain.table("images").to_pylist()
    gone, changed, turned = rows[0], rows[1], rows[2]

    def edit(images: Rows) -> Rows:
        kept = [row for row in images if row["uri"] != gone["uri"]]
        for row in kept:
            if row["uri"] == changed["uri"]:
                row["content_hash"], row["prediction"] = "other", (row["prediction"] + 1) % 3
            if row["uri"] == turned["uri"]:
                row["prediction"] = (row["prediction"] + 1) % 3
        return [*kept, {**gone, "uri": "new/é.png", "image_id": stable_id("new/é.png")}]

    found = diff(plain, edited(tmp_path / "s", {"images": edit})).images
    assert asdict(found) == {
        "added": 1,
        "removed": 1,
        "changed": 1,
        "repredicted": 1,
        "added_names": ("new/é.png",),
        "removed_names": (gone["uri"],),
        "changed_names": (changed["uri"],),
        "repredicted_names": (turned["uri"],),
    }


def test_of_many_images_a_few_are_named(plain: Snapshot, tmp_path: Path) -> None:
    found = diff(plain, edited(tmp_path / "s", {"images": lambda rows: rows[:2]})).images
    assert (found.removed, len(found.removed_names)) == (9, 5)


def test_models_and_settings(plain: Snapshot, tmp_path: Path) -> None:
    old = plain.manifest
    config = {**old.config, "groups": {"count": 7}, "added": [{"uri": "/more"}]}
    other = edited(
        tmp_path / "s",
        {},
        fingerprints={**old.fingerprints, "classifier": "ff", "configuration": "ee"},
        config=config,
    )
    found = diff(plain, other)
    assert found.fingerprints == (
        Change("classifier", old.fingerprints["classifier"], "ff"),
        Change("configuration", old.fingerprints["configuration"], "ee"),
    )
    assert found.settings == (Change("added", None, [{"uri": "/more"}]), Change("groups.count", 2, 7))
    assert not found.is_empty


def test_classes_by_name_with_accuracy_and_words(plain: Snapshot, tmp_path: Path) -> None:
    texts = {row["text"]: row["text_id"] for row in plain.table("texts", ["text", "text_id"]).to_pylist()}
    first, second = sorted(texts)[:2]

    def shares(rows: Rows) -> Rows:
        """Class 0 goes by one text alone; class 1 by two, a quarter and three quarters."""
        made = [row for row in rows if row["class_id"] == 2]
        for class_id, text, share in ((0, first, 1.0), (1, first, 0.25), (1, second, 0.75)):
            made.append({**rows[0], "class_id": class_id, "text_id": texts[text], "share": share})
        return made

    before = edited(tmp_path / "a", {"class_texts": shares})

    def moved(rows: Rows) -> Rows:
        for row in rows:
            if (row["class_id"], row["text_id"]) == (1, texts[first]):
                row["share"] = 0.625
            if (row["class_id"], row["text_id"]) == (1, texts[second]):
                row["share"] = 0.375
        return rows

    def accuracy(rows: Rows) -> Rows:
        rows[0]["accuracy"], rows[0]["n_images"] = 0.125, 8
        return rows

    after = edited(tmp_path / "b", {"class_texts": lambda rows: moved(shares(rows)), "classes": accuracy})
    found = diff(before, after).classes
    assert [one.name for one in found] == [CLASSES[1], CLASSES[0]]
    one, zero = found
    assert one.moved == pytest.approx(0.375)
    assert [(word.text, word.share) for word in one.words_before] == [(second, 0.75), (first, 0.25)]
    assert [(word.text, word.share) for word in one.words_after] == [(first, 0.625), (second, 0.375)]
    assert (zero.moved, zero.accuracy_after, zero.n_after) == (0.0, 0.125, 8)
    assert zero.n_before == plain.table("classes")["n_images"][0].as_py()
    assert zero.accuracy_before == plain.table("classes")["accuracy"][0].as_py()


def test_a_class_that_is_new_stands_first(plain: Snapshot, tmp_path: Path) -> None:
    def renamed(rows: Rows) -> Rows:
        rows[2]["name"] = "comet"
        return rows

    found = diff(plain, edited(tmp_path / "s", {"classes": renamed})).classes
    assert {(one.name, one.n_before is None, one.n_after is None, one.moved) for one in found} == {
        (CLASSES[2], False, True, None),
        ("comet", True, False, None),
    }


def test_findings_that_came_went_and_changed_their_verdict(plain: Snapshot, tmp_path: Path) -> None:
    def edit(rows: Rows) -> Rows:
        used, unproven = rows
        return [{**used, "verdict": "association", "rank": 1}, {**unproven, "finding_id": 9, "rank": 0}]

    found = diff(plain, edited(tmp_path / "s", {"findings": edit}))
    rows = {row["finding_id"]: row for row in plain.table("findings").to_pylist()}
    texts = {row["text_id"]: row["text"] for row in plain.table("texts", ["text_id", "text"]).to_pylist()}
    (came,), (went,), (changed,) = found.findings_came, found.findings_went, found.verdicts_changed
    assert (came.class_name, came.text) == (CLASSES[0], texts[rows[1]["text_id"]])
    assert came.before is None
    assert came.after is not None
    assert (came.after.finding_id, came.after.rank) == (9, 0)
    assert went.after is None
    assert went.before is not None
    assert went.before.finding_id == 1
    assert changed.before is not None
    assert changed.after is not None
    assert (changed.before.verdict, changed.after.verdict) == ("used", "association")
    assert (changed.class_name, changed.text) == (CLASSES[2], texts[rows[0]["text_id"]])


def word(text: str, share: float) -> Word:
    return Word(stable_id(text), text, "other", share=share)


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ([], [], 0.0),
        ([word("a", 1.0)], [], 1.0),
        ([word("a", 1.0)], [word("b", 1.0)], 1.0),
        ([word("a", 0.5), word("b", 0.5)], [word("b", 0.5), word("a", 0.5)], 0.0),
        ([word("a", 0.5), word("b", 0.5)], [word("a", 0.75), word("c", 0.25)], 0.5),
    ],
)
def test_moved_share_by_hand(before: list[Word], after: list[Word], moved: float) -> None:
    assert moved_share(before, after) == moved
    assert moved_share(after, before) == moved


def test_snapshots_of_one_store_share_files_that_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_store(tmp_path / "s")
    first = Snapshot.open(tmp_path / "s")
    table = tables(first.dims)["images"]
    row = {**first.table("images").to_pylist()[0], "uri": "new.png", "image_id": stable_id("new.png")}
    part = write_part(first.storage, table, pa.Table.from_pylist([row], schema=table.schema), "2")
    more = replace(first.manifest, snapshot=2, parent=1, parts=(*first.manifest.parts, part))
    second = Snapshot(first.storage, more)
    for path in (one.path for one in first.parts("images")):
        first.storage.put(path, b"unreadable")
    found = diff(first, second)
    assert (found.images.added, found.images.removed, found.images.changed) == (1, 0, 0)


def test_it_is_plain_enough_for_json(plain: Snapshot, tmp_path: Path) -> None:
    other = edited(tmp_path / "s", {"findings": lambda rows: rows[:1], "images": lambda rows: rows[:3]})
    told = json.loads(json.dumps(asdict(diff(plain, other))))
    assert told["images"]["removed"] == 8
    assert told["findings_went"][0]["before"]["finding_id"] == 1


def test_small_moves_are_not_told(plain: Snapshot, tmp_path: Path) -> None:
    def nudge(by: float) -> Edit:
        def edit(rows: Rows) -> Rows:
            mine = [row for row in rows if row["class_id"] == 1][:2]
            mine[0]["share"] += by
            mine[1]["share"] -= by
            return rows

        return edit

    little = edited(tmp_path / "a", {"class_texts": nudge(LEAST_MOVE / 2)})
    more = edited(tmp_path / "b", {"class_texts": nudge(LEAST_MOVE * 2)})
    assert diff(plain, little).classes == ()
    assert [one.name for one in diff(plain, more).classes] == [CLASSES[1]]
