"""Two classifiers side by side, on stores whose tables are changed by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.compared import comparison_lines
from store.errors import EncoderMismatch, QueryError
from store.reader import Snapshot
from tests.store.worlds import CLASSES, fingerprints
from tests.textcam.worlds import Rows, edited
from textcam.compare import compare


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return edited(tmp_path_factory.mktemp("plain") / "s", {})


def test_a_classifier_is_like_itself(plain: Snapshot) -> None:
    found = compare(plain, plain)
    assert [(one.channel_a, one.channel_b) for one in found.twins] == [
        (one.channel_a, one.channel_a) for one in found.twins
    ]
    assert len(found.twins) == found.channels_a == 7
    assert found.alike == pytest.approx(1, abs=1e-5)
    assert found.by_chance < 0.95
    assert found.only_a == found.only_b == ()
    assert {one.name for one in found.classes} <= set(CLASSES)
    assert all(one.agreement == pytest.approx(1, abs=1e-5) for one in found.classes)
    assert (found.images, found.same_prediction, found.same_first_word) == (11, 1.0, 1.0)


def test_channels_in_another_order_are_found_again(plain: Snapshot, tmp_path: Path) -> None:
    def turned(rows: Rows) -> Rows:
        moved = [{**row, "channel": 6 - row["channel"]} for row in rows]
        return sorted(moved, key=lambda row: row["channel"])

    found = compare(plain, edited(tmp_path / "b", {"channels": turned}))
    assert sorted((one.channel_a, one.channel_b) for one in found.twins) == [(k, 6 - k) for k in range(7)]
    assert all(one.words_a == one.words_b for one in found.twins)


def test_a_channel_that_looks_for_something_else_has_no_twin(plain: Snapshot, tmp_path: Path) -> None:
    def opposed(rows: Rows) -> Rows:
        total = -np.sum([row["direction"] for row in rows], axis=0)
        away = (total / np.linalg.norm(total)).tolist()
        return [{**row, "direction": away} if row["channel"] == 3 else row for row in rows]

    found = compare(plain, edited(tmp_path / "b", {"channels": opposed}))
    assert 3 not in [one.channel_a for one in found.twins]
    assert len(found.twins) == 6


def test_concepts_that_one_has_and_the_other_has_not(plain: Snapshot, tmp_path: Path) -> None:
    first = plain.table("channels").to_pylist()[0]["text_ids"][0]
    names = {row["text_id"]: row["text"] for row in plain.table("texts").to_pylist()}

    def forgetful(rows: Rows) -> Rows:
        kept = [[text for text in row["text_ids"] if text != first] for row in rows]
        return [
            {**row, "text_ids": ids, "similarities": row["similarities"][: len(ids)]}
            for row, ids in zip(rows, kept, strict=True)
        ]

    found = compare(plain, edited(tmp_path / "b", {"channels": forgetful}))
    assert found.only_a == (names[first],)
    assert found.only_b == ()


def test_agreement_of_a_class_by_hand(plain: Snapshot, tmp_path: Path) -> None:
    shares = {}

    def halved(rows: Rows) -> Rows:
        made = []
        for row in rows:
            shares.setdefault(row["class_id"], []).append(row["share"])
            made.append({**row, "share": row["share"] / 2})
        return made

    found = {
        one.name: one.agreement
        for one in compare(plain, edited(tmp_path / "b", {"class_texts": halved})).classes
    }
    for class_id, of_class in shares.items():
        assert found[CLASSES[class_id]] == pytest.approx(sum(of_class) / 2, abs=1e-5)


def test_images_seen_as_another_class(plain: Snapshot, tmp_path: Path) -> None:
    def one_changed(rows: Rows) -> Rows:
        return [
            {**row, "class_id": (row["class_id"] + 1) % 3} if i == 0 else row for i, row in enumerate(rows)
        ]

    found = compare(plain, edited(tmp_path / "b", {"explanations": one_changed}))
    assert found.same_prediction == pytest.approx(10 / 11)
    assert found.same_first_word == 1.0


@pytest.mark.parametrize(("name", "error"), [("encoder", EncoderMismatch), ("texts", QueryError)])
def test_what_cannot_be_compared_is_refused(
    plain: Snapshot, tmp_path: Path, name: str, error: type[Exception]
) -> None:
    other: dict[str, Any] = {**fingerprints(), name: "0" * 64}
    with pytest.raises(error, match="cannot be compared"):
        compare(plain, edited(tmp_path / "b", {}, fingerprints=other))


def test_it_reads_as_sentences(plain: Snapshot) -> None:
    lines = comparison_lines(compare(plain, plain), 2)
    assert lines[2].startswith("channels  7 have a twin; the nearest in B of a channel of A has cosine 1.00")
    assert "only A    nothing" in lines
    assert (
        lines[-1]
        == "images    11 in both; 100 % seen as the same class, of these 100 % with the same first word"
    )
