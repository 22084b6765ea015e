"""What is already done: one small record per piece of work, under a key made of everything that shaped it.

A record counts only if every file that it names is in place and has the hash that was written down. So a run
that was killed goes on where it was, and a changed model or file redoes what depends on it and nothing else.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from store.errors import Damaged
from store.manifest import PartRecord
from store.storage import Entry, Storage, concurrently

BLOCK = 64  # records that one thread looks up at a time
FRESH_SECONDS = 60.0


class File(Protocol):
    """A written file: a part of the store, or a work file."""

    @property
    def path(self) -> str:
        """Where it lies in the store's storage."""

    @property
    def bytes(self) -> int:
        """Its size."""

    @property
    def sha256(self) -> str:
        """Its hash, hexadecimal."""


@dataclass(frozen=True)
class WorkFile:
    """A file between stages: it belongs to a run, not to a snapshot."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Codec:
    """How a kind of record becomes plain JSON, comes back, and which files it names."""

    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]
    files: Callable[[Any], Sequence[File]]


WORK_FILES = Codec(asdict, lambda plain: WorkFile(**plain), lambda file: [file])
PARTS = Codec(PartRecord.to_dict, PartRecord.from_dict, lambda part: [part])
MAYBE_PARTS = Codec(
    lambda part: [part.to_dict()] if part else [],
    lambda plain: PartRecord.from_dict(plain[0]) if plain else None,
    lambda part: [part] if part else [],
)
PART_LISTS = Codec(
    lambda parts: [part.to_dict() for part in parts],
    lambda plain: [PartRecord.from_dict(one) for one in plain],
    lambda parts: parts,
)


class Ledger:
    """Records of finished work, in ``work/records/<stage>/<key>.json``."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._listed: dict[str, Entry] = {}
        self._listed_at = -math.inf  # seconds; long ago

    def get_all(self, stage: str, keys: Sequence[str]) -> dict[str, Any]:
        """Results of finished work by key, for many keys at once.

        A file that is as long as it was and was last written before its record, which is written last, is
        not read again: so a run with nothing to do is quick. Whoever reads a file later checks its hash.
        """
        if not keys:
            return {}
        listed, wanted = self._listing(), list(dict.fromkeys(keys))

        def look_up(some: Sequence[str]) -> list[Any]:
            records = [listed.get(self._path(stage, key)) for key in some]
            pairs = zip(some, records, strict=True)
            return [
                None if record is None else self._get(stage, key, listed, record) for key, record in pairs
            ]

        blocks = [wanted[first : first + BLOCK] for first in range(0, len(wanted), BLOCK)]
        found = [one for block in concurrently(look_up, blocks) for one in block]
        return {key: one for key, one in zip(wanted, found, strict=True) if one is not None}

    def _listing(self) -> Mapping[str, Entry]:
        """All files of the store; the same once more to who asks soon after, with nothing written between."""
        if time.monotonic() - self._listed_at > FRESH_SECONDS:
            self._listed_at = time.monotonic()
            self._listed = {entry.path: entry for entry in self._storage.scan()}
        return self._listed

    def get(self, stage: str, key: str) -> Any:
        """The result of finished work, or None if it was never done or its files do not hold."""
        return self._get(stage, key, {}, None)

    def _get(self, stage: str, key: str, listed: Mapping[str, Entry], written: Entry | None) -> Any:
        try:
            record = json.loads(self._storage.read(self._path(stage, key)))
            files = [WorkFile(**one) for one in record["files"]]
            result = record["result"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

        def untouched(file: WorkFile) -> bool:
            entry = listed.get(file.path)
            return (
                entry is not None
                and written is not None
                and entry.size == file.bytes
                and entry.modified <= written.modified
            )

        return result if all(untouched(one) or holds(self._storage, one) for one in files) else None

    def put(self, stage: str, key: str, result: Any, files: Sequence[File]) -> None:
        """Write down finished work; the last step of it. ``result`` is plain JSON."""
        named = [{"path": one.path, "bytes": one.bytes, "sha256": one.sha256} for one in files]
        text = json.dumps({"files": named, "result": result}, sort_keys=True)
        self._listed, self._listed_at = {}, -math.inf
        self._storage.put(self._path(stage, key), text.encode())

    def forget(self, stage: str, key: str) -> None:
        """Let finished work be done again."""
        self._listed, self._listed_at = {}, -math.inf
        self._storage.delete(self._path(stage, key))

    def once(self, stage: str, key: str, work: Callable[[], tuple[Any, Sequence[File]]]) -> Any:
        """The result of ``work``, done now or taken from its record. ``work`` gives plain JSON and its
        files."""
        found = self.get(stage, key)
        if found is None:
            found, files = work()
            self.put(stage, key, found, files)
        return found

    def keys(self, stage: str) -> list[str]:
        """Keys of all records of a stage, whether or not their files hold; sorted."""
        folder = f"work/records/{stage}/"
        paths = (path.removeprefix(folder) for path in self._storage.list(folder))
        return [path.removesuffix(".json") for path in paths if path.endswith(".json")]

    @staticmethod
    def _path(stage: str, key: str) -> str:
        return f"work/records/{stage}/{key}.json"


def holds(storage: Storage, file: File) -> bool:
    """Whether a file is there with the bytes that were written."""
    try:
        if storage.size(file.path) != file.bytes:
            return False
        return hashlib.sha256(storage.read(file.path)).hexdigest() == file.sha256
    except FileNotFoundError:
        return False


def write_arrays(storage: Storage, path: str, arrays: Mapping[str, NDArray[Any]]) -> WorkFile:
    """Write plain arrays between stages, as safetensors: they run no code when read."""
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    storage.put(path, data)
    return WorkFile(path, len(data), hashlib.sha256(data).hexdigest())


def read_arrays(storage: Storage, file: File) -> dict[str, NDArray[Any]]:
    """The arrays of a work file, after its hash was checked. Raises Damaged."""
    data = storage.read(file.path)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise Damaged(
            "A work file is not the one that was written.", where=file.path, fix="Delete it and rerun."
        )
    return dict(load(data))
