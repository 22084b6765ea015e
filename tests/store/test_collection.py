"""A folder of stores: its list, and the two that a person means."""

from pathlib import Path

import pytest

from store.collection import NAMES, pair, read_names, write_names
from store.errors import Damaged, QueryError, SnapshotConflict
from store.storage import LocalStorage, open_storage


def test_names_are_added_and_never_lost(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert read_names(storage) == []
    write_names(storage, ["a", "b"])
    write_names(storage, ["c", "a"])
    assert read_names(storage) == ["a", "b", "c"]


def test_two_who_write_at_once_both_get_theirs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, rival = open_storage(tmp_path), open_storage(tmp_path)
    write_names(storage, ["a"])
    put = LocalStorage.put

    def late(self: LocalStorage, path: str, data: bytes, **options: bool) -> None:
        if self is storage:
            monkeypatch.setattr(LocalStorage, "put", put)
            write_names(rival, ["c"])
        put(self, path, data, **options)

    monkeypatch.setattr(LocalStorage, "put", late)
    write_names(storage, ["b"])
    assert read_names(storage) == ["a", "c", "b"]
    assert storage.list() == ["classifiers-2.json", "classifiers-3.json", "classifiers.json"]


def test_a_list_whose_answer_was_lost_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStorage.put

    def lost(self: LocalStorage, *given: object, **options: bool) -> None:
        put(self, *given, **options)
        raise SnapshotConflict("asked twice")

    monkeypatch.setattr(LocalStorage, "put", lost)
    write_names(open_storage(tmp_path), ["a", "b"])
    assert read_names(open_storage(tmp_path)) == ["a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == [NAMES]


@pytest.mark.parametrize("content", ["", "[]", '{"classifiers": 3}', "{"])
def test_a_damaged_list_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / NAMES).write_text(content)
    with pytest.raises(Damaged) as damage:
        read_names(open_storage(tmp_path))
    assert damage.value.where.endswith(NAMES)


def test_the_two_that_are_meant(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert pair(["x", "y/z"]) == ("x", "y/z")
    with pytest.raises(QueryError) as refusal:
        pair([folder])
    assert refusal.value.fix == "Name two stores."
    write_names(open_storage(tmp_path), ["a", "b"])
    assert pair([folder]) == (f"{folder}/a", f"{folder}/b")
    assert pair([folder + "/", "b", "a"]) == (f"{folder}/b", f"{folder}/a")
    write_names(open_storage(tmp_path), ["c"])
    for named in ([folder], [folder, "a", "b", "c"]):
        with pytest.raises(QueryError) as refusal:
            pair(named)
        assert refusal.value.fix == "Name two of a, b, c."
