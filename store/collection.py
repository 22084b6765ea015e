"""A folder of stores, one a classifier of the same run: a file says what they are called."""

import json
from collections.abc import Sequence

from store.errors import Damaged, QueryError
from store.storage import Storage, open_storage

NAMES = "classifiers.json"


def write_names(storage: Storage, names: list[str]) -> None:
    """Say which stores lie in this folder; those that were there before stay."""
    known = read_names(storage)
    both = [*known, *(name for name in names if name not in known)]
    if both != known:
        storage.put(NAMES, json.dumps({"classifiers": both}).encode())


def read_names(storage: Storage) -> list[str]:
    """Names of the stores in this folder, empty where it is none of this kind. Raises Damaged."""
    try:
        return [str(name) for name in json.loads(storage.read(NAMES))["classifiers"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise Damaged(
            "This file should list the stores beside it.",
            where=f"{storage.uri}/{NAMES}",
            fix="Delete it and run `textcam precompute` again.",
        ) from None


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
