"""One reader of a file of class names, whatever it is called and however it was saved; faults are named."""

from pathlib import Path

import pytest

from pipelines.labels import class_ids_of, read_aliases
from store.errors import ModelError
from textcam.class_names import class_names_of, read_class_list


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".csv", ".CSV"])
def test_a_table_with_and_without_a_mark_of_byte_order(tmp_path: Path, encoding: str, suffix: str) -> None:
    path = tmp_path / f"classes{suffix}"
    path.write_text('name,class_id,wnid\r\n"a ""great"" cat",1,n2\r\ndog,0,n1\r\n', encoding=encoding)
    assert read_class_list(path).names == ("dog", 'a "great" cat')
    assert read_aliases(str(path)) == {"n1": 0, "n2": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("cat\n\n dog \n", encoding=encoding)
    assert class_names_of(str(path), None, 2) == ("cat", "dog")
    assert read_aliases(str(path)) == {}


@pytest.mark.parametrize(
    ("table", "says", "line"),
    [
        ("class_id,name\nx,cat\n", "the class_id 'x' is no number from 0 to 0", 2),
        ("class_id,name\n0,cat\n2,dog\n", "the class_id '2' is no number from 0 to 1", 3),
        ("class_id,name\n0,cat\n²,dog\n", "is no number", 3),
        ("class_id,name\n,cat\n", "is no number", 2),
        ("class_id,name\n0,cat\n0,dog\n", "two classes have the class_id 0", None),
        ("class_id,name\n0,cat\n1\n", "a class has no name", 3),
        ("class_id,name\n0,cat, big\n", "more cells than the header", 2),
        ("class_id,label\n0,cat\n", "no column 'name'", None),
        ("", "no column 'name'", None),
        ('name\n"cat\n' + "x" * 200_000, "cannot be read", None),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, table: str, says: str, line: int | None) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(table)
    for read in (read_class_list, lambda path: read_aliases(str(path))):
        with pytest.raises(ModelError, match=says) as caught:
            read(path)
        assert caught.value.where == (f"{path}, line {line}" if line else str(path))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("name\nMöwe\n".encode("latin-1"))
    for name in ("gone.csv", "gone.txt", "latin.csv", ""):
        with pytest.raises(ModelError, match="the class names cannot be read"):
            read_aliases(str(tmp_path / name))


def test_what_is_given_to_several_classes_is_no_alias(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("name,family,wnid\ntabby,cat,n1\nsiamese,cat,n2\npug,dog,n3\n")
    assert read_aliases(str(path)) == {"n1": 0, "n2": 1, "n3": 2, "dog": 2}


def test_a_folder_that_only_looks_like_a_number_is_no_class() -> None:
    assert class_ids_of(("1", "²"), ("cat", "dog"), {}) == {"1": 1}
