"""The names of a classifier's classes: from a list, a file or the model itself."""

import csv
import unicodedata
from collections.abc import Sequence
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
        names = _read_names(Path(given)) if isinstance(given, str) else tuple(str(name) for name in given)
        if len(names) != classes:
            raise ModelError(
                f"{len(names)} class names are given, and the model has {classes} classes",
                where="classifier.class_names",
                fix="give one name a class, in the order of the logits",
            )
    return _distinct(names)


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the class names cannot be read: {error}", where=path, fix="give a text file, one name a line"
        ) from error
    if path.suffix != ".csv":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "name" not in rows[0]:
        raise ModelError("the table has no column 'name'", where=path, fix="add a header line with `name`")
    if "class_id" in rows[0]:
        rows.sort(key=lambda row: int(row["class_id"]))
    return tuple(row["name"].strip() for row in rows)


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
