"""The names of a classifier's classes: from a list, from the model itself, or from a file, read only here."""

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from store.errors import ModelError


def class_names_of(
    given: str | Sequence[str] | None, known: tuple[str, ...] | None, classes: int
) -> tuple[str, ...]:
    """C distinct names: the given ones, else those that the model knows, else "class 0" and so on."""
    if given is None:
        names = (
            known if known and len(known) == classes else tuple(f"class {index}" for index in range(classes))
        )
    else:
        names = (
            read_class_list(Path(given)).names
            if isinstance(given, str)
            else tuple(str(name) for name in given)
        )
        if len(names) != classes:
            raise ModelError(
                f"{len(names)} class names are given, and the model has {classes} classes",
                where="classifier.class_names",
                fix="give one name a class, in the order of the logits",
            )
    return _distinct(names)


@dataclass(frozen=True)
class ClassList:
    """C names in the order of the logits, and further names of classes: ``aliases``, each of one class."""

    names: tuple[str, ...]
    aliases: Mapping[str, int]


def read_class_list(path: Path) -> ClassList:
    """A list of classes: text with one name a line, or a .csv with a column ``name``.

    A column ``class_id`` (0 to C - 1) says the order; without it lines are in order. Every further column
    (``wnid``, say) gives aliases; what it gives to several classes is none. Raises ModelError naming file and
    line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the class names cannot be read: {error}", where=path, fix="give a text file, one name a line"
        ) from None
    if path.suffix.lower() != ".csv":
        return ClassList(tuple(line.strip() for line in text.splitlines() if line.strip()), {})
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    try:
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise ModelError(
            f"the class names cannot be read: {error}", where=path, fix="mend the table"
        ) from None
    if not rows or "name" not in rows[0][1]:
        raise ModelError("the table has no column 'name'", where=path, fix="add a header line with `name`")
    for where, row in rows:
        if not row["name"].strip():
            raise ModelError("a class has no name", where=where, fix="fill in the column `name`")
        if "" in row:
            raise ModelError(
                "a line has more cells than the header", where=where, fix="quote cells with commas"
            )
    class_ids = [_class_id(where, row, at, len(rows)) for at, (where, row) in enumerate(rows)]
    if len(set(class_ids)) < len(rows):
        twice = next(one for one in class_ids if class_ids.count(one) > 1)
        raise ModelError(f"two classes have the class_id {twice}", where=path, fix="give each its own")
    given: dict[str, set[int]] = {}
    for class_id, (_, row) in zip(class_ids, rows, strict=True):
        for column, value in row.items():
            if column not in ("class_id", "name") and value.strip():
                given.setdefault(value.strip(), set()).add(class_id)
    named = dict(zip(class_ids, (row["name"].strip() for _, row in rows), strict=True))
    aliases = {alias: min(several) for alias, several in given.items() if len(several) == 1}
    return ClassList(tuple(named[class_id] for class_id in range(len(rows))), aliases)


def _class_id(where: str, row: Mapping[str, str], line: int, classes: int) -> int:
    text = row.get("class_id", str(line)).strip()
    if not text.isdecimal() or int(text) >= classes:
        raise ModelError(
            f"the class_id {text!r} is no number from 0 to {classes - 1}",
            where=where,
            fix="count the classes from 0, in the order of the logits",
        )
    return int(text)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names, with a number behind those that occur before, whatever their case and spaces.

    ImageNet has two cranes and two maillots, and a Cardigan that is a dog beside one of wool.
    """
    seen: set[str] = set()
    result = []
    for name in names:
        told, number = name, 1
        while (key := " ".join(unicodedata.normalize("NFC", told).split()).casefold()) in seen:
            number += 1
            told = f"{name} ({number})"
        seen.add(key)
        result.append(told)
    return tuple(result)
