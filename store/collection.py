"""A folder of stores, one a classifier of the same run: a file says what they are called."""

import json

from store.errors import Damaged
from store.storage import Storage

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
