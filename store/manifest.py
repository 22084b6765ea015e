"""What a snapshot consists of: one JSON file that names every other file, with its size and hash.

The bytes are canonical (sorted keys, no timestamps), and the file carries the hash of its own content, so
that a damaged manifest is told apart from a newer one and equal runs commit equal bytes.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Interval, Predicate

from store.collection import read_names
from store.documents import (
    OPEN,
    STRICT,
    Count,
    Digest,
    Number,
    canonical,
    numbered,
    numbers,
    parse,
    seal,
    unseal,
)
from store.documents import sha256 as sha256
from store.errors import Damaged, FormatTooNew, SchemaMismatch, StoreNotFound
from store.schema import FORMAT_VERSION, SINCE, TABLE_NAMES, Dims
from store.settings import Settings
from store.storage import Storage, checked_path

FOLDER = "snapshots/"
_ATTEMPTS = 100
FINGERPRINTS = ("classifier", "encoder", "texts", "plan", "configuration")
NAME = r"(?!\.)[^/\\\0]+"  # of a part, before its hash
SMALL, LARGE = 64 << 10, 1 << 20  # bytes: a file under SMALL is one block; no block is over LARGE


def is_table(name: str) -> bool:
    """Whether there is such a table."""
    return name in TABLE_NAMES


def is_json(config: Mapping[str, Any]) -> bool:
    """Whether it can be written as JSON: no NaN, no infinity."""
    try:
        canonical(config)
    except (TypeError, ValueError):
        return False
    return True


TableName = Annotated[str, Predicate(is_table)]


class Block(NamedTuple):
    """A run of bytes of a part with its own hash, so that a reader of few rows checks just those."""

    bytes: Annotated[int, Interval(ge=1, le=LARGE)]
    sha256: str


@dataclass(frozen=True)
class PartRecord:
    """One Parquet file of a table. ``blocks`` follow one another and cover the file; none means one block."""

    __pydantic_config__ = STRICT
    path: str
    table: TableName
    rows: Count
    bytes: Annotated[Count, Ge(1)]
    sha256: Digest
    blocks: tuple[Block, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "blocks": [list(block) for block in self.blocks]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PartRecord":
        """Back from ``to_dict``; ``Damaged`` where it cannot be."""
        what = "A part's record"
        return parse(PartRecord, json.dumps(data).encode(), what, where=str(data.get("path", "")))

    def faults(self) -> Iterator[str]:
        """What its parts do not agree on: path, table and hash; size and blocks."""
        checked_path(self.path)
        name = rf"parts/{self.table}/{NAME}-{self.sha256[:12]}\.parquet"
        if not re.fullmatch(name, self.path):
            yield f"A part of {self.table} with this hash is not called so."
        if self.blocks and sum(block.bytes for block in self.blocks) != self.bytes:
            yield "A part's blocks do not add up to its size."
        if not self.blocks and self.bytes > SMALL:
            yield "A part of this size has blocks."


@dataclass(frozen=True)
class IndexRecord:
    """One vector index and its card. What the index was built from stands in the card."""

    table: TableName
    path: str
    bytes: Annotated[Count, Ge(1)]
    sha256: Digest
    card_path: str
    card_sha256: Digest

    def faults(self) -> Iterator[str]:
        """What its parts do not agree on: paths, table and hash."""
        checked_path(self.path), checked_path(self.card_path)
        name = rf"indexes/{self.table}-[0-9a-f]{{12}}-{self.sha256[:12]}\.faiss"
        if not re.fullmatch(name, self.path):
            yield f"An index of {self.table} with this hash is not called so."
        if self.card_path != self.path.removesuffix(".faiss") + ".json":
            yield "An index's card does not lie beside it."


@dataclass(frozen=True)
class Manifest:
    """One snapshot. Numbers start at 1; ``parent`` is the snapshot that this one grew from, if any.

    ``fingerprints`` has the keys ``FINGERPRINTS``. ``config`` is the run's whole
    configuration as plain JSON, with which a query opens images, classifier and encoder again.
    """

    __pydantic_config__ = STRICT
    snapshot: Number
    dims: Dims
    fingerprints: dict[str, str]
    parts: tuple[PartRecord, ...]
    indexes: tuple[IndexRecord, ...] = ()
    config: Annotated[dict[str, Any], Predicate(is_json)] = field(default_factory=dict)
    parent: Number | None = None
    format_version: Annotated[int, Ge(1)] = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Records in the order of their paths: manifests of the same files are equal."""
        object.__setattr__(self, "parts", tuple(sorted(self.parts, key=lambda part: part.path)))
        object.__setattr__(self, "indexes", tuple(sorted(self.indexes, key=lambda one: one.path)))

    def of(self, table: str) -> list[PartRecord]:
        """The parts of a table, by path."""
        return [part for part in self.parts if part.table == table]

    def index_of(self, table: str) -> IndexRecord | None:
        """The index over a table's vectors, if there is one."""
        return next((one for one in self.indexes if one.table == table), None)

    def paths(self) -> list[str]:
        """Every file that this snapshot consists of, its own included."""
        indexes = [path for one in self.indexes for path in (one.path, one.card_path)]
        return sorted([manifest_path(self.snapshot), *(part.path for part in self.parts), *indexes])

    def to_json(self) -> bytes:
        """Canonical bytes, the same for equal manifests; ``SchemaMismatch`` where ``config`` is no JSON."""
        body = {
            "format_version": self.format_version,
            "snapshot": self.snapshot,
            "parent": self.parent,
            "dims": asdict(self.dims),
            "fingerprints": self.fingerprints,
            "config": self.config,
            "parts": [part.to_dict() for part in self.parts],
            "indexes": [asdict(one) for one in self.indexes],
        }
        try:
            return seal(body)
        except (TypeError, ValueError) as error:
            raise SchemaMismatch(f"The manifest does not fit JSON: {error}.", where="config") from None

    @classmethod
    def from_json(cls, data: bytes, where: str = "") -> "Manifest":
        """Check and parse. ``Damaged`` where the content is not what was written, then ``FormatTooNew``."""
        body = unseal(
            data,
            "The manifest is not the one that was committed: its content does not have its hash.",
            where=where,
            fix="Restore the file from a copy of the store, or open another snapshot.",
        )
        version = parse(_Version, body, "The manifest", where).format_version
        if version > FORMAT_VERSION:
            raise FormatTooNew(
                f"This store has format {version}; this program reads up to {FORMAT_VERSION}.",
                where=where,
                fix="Install a later version of textcam.",
            )
        manifest = parse(Manifest, body, "The manifest", where)
        for what, path in manifest.faults():
            raise Damaged(what, where=f"{where}: {path}" if path else where)
        manifest.settings(where)
        return manifest

    def settings(self, where: str = "") -> Settings:
        """What readers take from the configuration; ``Damaged`` where that is of other types."""
        return parse(Settings, canonical(self.config), "The configuration in the manifest", where)

    def faults(self) -> Iterator[tuple[str, str]]:
        """What the entries do not agree on, each with the path that it is about, if with one."""
        if self.snapshot != (self.parent or 0) + 1:
            yield f"Snapshot {self.snapshot} cannot follow {self.parent}.", ""
        records: tuple[PartRecord | IndexRecord, ...] = (*self.parts, *self.indexes)
        for one in records:
            yield from ((what, one.path) for what in one.faults())
            if SINCE.get(one.table, 1) > self.format_version:
                yield f"Format {self.format_version} has no table {one.table}.", one.path
        if len(set(self.paths())) != len(self.paths()):
            yield "A file is named twice.", ""
        if len({one.table for one in self.indexes}) != len(self.indexes):
            yield "A table has two indexes.", ""


@dataclass(frozen=True)
class _Version:
    """What is looked at before all else, whatever a later version has beside it."""

    __pydantic_config__ = OPEN
    format_version: Annotated[int, Ge(1)]


def manifest_path(snapshot: int) -> str:
    """Where a snapshot's manifest lies."""
    return numbered(FOLDER, snapshot)


def snapshots(storage: Storage) -> list[int]:
    """Numbers of all committed snapshots, ascending."""
    return numbers(storage, FOLDER)


def read_manifest(storage: Storage, snapshot: int | None = None) -> Manifest:
    """A snapshot's manifest, the latest by default; ``StoreNotFound`` where nothing was committed."""
    for _ in range(_ATTEMPTS):
        path = _path_of(storage, snapshot)
        try:
            data = storage.read(path)
            break
        except FileNotFoundError:
            continue  # pruned since it was listed; the newest one never is
    else:
        raise Damaged("A manifest is listed and cannot be read.", where=f"{storage.uri}/{path}")
    manifest = Manifest.from_json(data, where=f"{storage.uri}/{path}")
    if manifest_path(manifest.snapshot) != path:
        raise Damaged(
            f"This file says that it is snapshot {manifest.snapshot}.", where=f"{storage.uri}/{path}"
        )
    return manifest


def was_pruned(storage: Storage, snapshot: int) -> bool:
    """Whether a snapshot that was committed is not there any more. A prune always keeps the newest."""
    numbers = snapshots(storage)
    return snapshot not in numbers and snapshot < max(numbers, default=0)


def _path_of(storage: Storage, snapshot: int | None) -> str:
    numbers = snapshots(storage)
    if not numbers or (snapshot is not None and snapshot not in numbers):
        held = (
            f"It has snapshots {_ranges(numbers)}."
            if numbers
            else "A finished `textcam precompute` makes one."
        )
        what = "No committed store here." if not numbers else f"No snapshot {snapshot} in this store."
        if not numbers and (names := read_names(storage)):
            what = "Here are the stores of several classifiers; name one of them."
            held = ", ".join(f"{storage.uri}/{name}" for name in names)
        raise StoreNotFound(what, where=storage.uri, fix=held)
    return manifest_path(numbers[-1] if snapshot is None else snapshot)


def _ranges(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def built_from(parts: Iterable[PartRecord]) -> str:
    """One hash for the exact content of a table: of its parts' hashes, by path."""
    ordered = sorted(parts, key=lambda part: part.path)
    return sha256("\n".join(f"{part.path} {part.sha256}" for part in ordered).encode())
