"""A folder of stores: its list, and the two that a person means."""

from pathlib import Path

import pytest

from store.collection import NAMES, pair, read_names, write_names
from store.errors import Damaged, QueryError
from store.storage import open_storage


def test_names_are_added_and_never_lost(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert read_names(storage) == []
    write_names(storage, ["a", "b"])
    write_names(storage, ["c", "a"])
    assert read_names(storage) == ["a", "b", "c"]


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
