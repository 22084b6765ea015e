"""A folder of stores, one a classifier of the same run: a file says what they are called.

A list is never changed, but followed by a longer one: ``classifiers.json``, ``classifiers-2.json`` and so on,
each put only where there is none, so that of two runs into one folder neither loses its names. The last
holds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Predicate

from store.documents import STRICT, parse
from store.errors import QueryError, SnapshotConflict
from store.storage import Storage, checked_path, open_storage

NAMES = "classifiers.json"
_ATTEMPTS = 100


def is_name(text: str) -> bool:
    """Whether it can be the name of a folder in this one. Raises Damaged for a path out of it."""
    return "/" not in checked_path(text)


@dataclass(frozen=True)
class _Names:
    __pydantic_config__ = STRICT
    classifiers: tuple[Annotated[str, Predicate(is_name)], ...]


def write_names(storage: Storage, names: list[str]) -> None:
    """Say which stores lie in this folder; those that were there before stay.

    Raises Damaged for a list that cannot be read, SnapshotConflict if others were faster a hundred times.
    """
    for _ in range(_ATTEMPTS):
        number, known = _last(storage)
        both = [*known, *(name for name in names if name not in known)]
        if both == known:
            return
        try:
            storage.put(_path(number + 1), json.dumps({"classifiers": both}).encode(), if_absent=True)
        except SnapshotConflict:
            continue  # somebody else's, or one's own whose answer was lost: look again
        return
    raise SnapshotConflict("Too many others write into this folder.", where=storage.uri, fix="Try again.")


def read_names(storage: Storage) -> list[str]:
    """Names of the stores in this folder, empty where it is none of this kind. Raises Damaged."""
    return _last(storage)[1]


def _last(storage: Storage) -> tuple[int, list[str]]:
    """The number of the last list, and what it says; (0, []) where there is none."""
    number, data = 0, b""
    while True:
        try:
            data = storage.read(_path(number + 1))
        except FileNotFoundError:
            return number, _decoded(data, f"{storage.uri}/{_path(number)}") if number else []
        number += 1


def _path(number: int) -> str:
    return NAMES if number == 1 else f"{NAMES.removesuffix('.json')}-{number}.json"


def _decoded(data: bytes, where: str) -> list[str]:
    fix = "Delete it and run `textcam precompute` again."
    return list(parse(_Names, data, "The list of the stores in this folder", where, fix).classifiers)


def pair(named: Sequence[str]) -> tuple[str, str]:
    """Two stores from what a person names: both, a folder of stores and two names, or a folder of just two.

    Raises QueryError.
    """
    if len(named) == 2:
        return named[0], named[1]
    names = list(named[1:]) or read_names(open_storage(named[0]))
    if len(names) != 2:
        held = read_names(open_storage(named[0]))
        raise QueryError(
            "Two stores are compared.",
            where=named[0],
            fix=f"Name two of {', '.join(held)}." if held else "Name two stores.",
        )
    folder = named[0].rstrip("/")
    return f"{folder}/{names[0]}", f"{folder}/{names[1]}"
