"""What a snapshot consists of: one JSON file that names every other file, with its size and hash.

The bytes are canonical (sorted keys, no timestamps), and the file carries the hash of its own content, so
that a damaged manifest is told apart from a newer one and equal runs commit equal bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

from store.collection import read_names
from store.errors import Damaged, FormatTooNew, SchemaMismatch, StoreNotFound
from store.schema import FORMAT_VERSION, TABLE_NAMES, Dims
from store.storage import Storage, checked_path

FOLDER = "snapshots/"
_ATTEMPTS = 100
FINGERPRINTS = ("classifier", "encoder", "texts", "plan", "configuration")


def sha256(data: bytes | memoryview) -> str:
    """Lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


class Block(NamedTuple):
    """A run of bytes of a part with its own hash, so that a reader of few rows checks just those."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class PartRecord:
    """One Parquet file of a table. ``blocks`` follow one another and cover the file; none means one block."""

    path: str
    table: str
    rows: int
    bytes: int
    sha256: str
    blocks: tuple[Block, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "blocks": [list(block) for block in self.blocks]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PartRecord":
        """Back from ``to_dict``; ``Damaged`` where it cannot be."""
        record = _record(
            PartRecord, {**data, "blocks": tuple(Block(*block) for block in data.get("blocks", ()))}
        )
        if record.blocks and sum(block.bytes for block in record.blocks) != record.bytes:
            raise Damaged("A part's blocks do not add up to its size.", where=record.path)
        return record


@dataclass(frozen=True)
class IndexRecord:
    """One vector index and its card. What the index was built from stands in the card."""

    table: str
    path: str
    bytes: int
    sha256: str
    card_path: str
    card_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "IndexRecord":
        """Back from ``to_dict``; ``Damaged`` where it cannot be."""
        checked_path(str(data.get("card_path", "")))
        return _record(IndexRecord, data)


_Record = TypeVar("_Record", PartRecord, IndexRecord)


def _record(cls: type[_Record], data: Mapping[str, Any]) -> _Record:
    try:
        record = cls(**data)
    except TypeError as error:
        raise Damaged(f"A file's record is not complete: {error}.", where=data.get("path", "")) from None
    checked_path(record.path)
    if record.table not in TABLE_NAMES:
        raise Damaged(f"Unknown table {record.table!r}.", where=record.path)
    return record


@dataclass(frozen=True)
class Manifest:
    """One snapshot. Numbers start at 1; ``parent`` is the snapshot that this one grew from, if any.

    ``fingerprints`` has the keys ``FINGERPRINTS``. ``config`` is the run's whole
    configuration as plain JSON, with which a query opens images, classifier and encoder again.
    """

    snapshot: int
    dims: Dims
    fingerprints: dict[str, str]
    parts: tuple[PartRecord, ...]
    indexes: tuple[IndexRecord, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    parent: int | None = None
    format_version: int = FORMAT_VERSION

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
            "indexes": [one.to_dict() for one in self.indexes],
        }
        try:
            whole = _canonical({**body, "sha256": "0" * 64})  # once: the hash is of all but its own line
            line = _hash_line("0" * 64)
            return whole.replace(line, _hash_line(sha256(whole.replace(line, b"", 1))), 1)
        except (TypeError, ValueError) as error:
            raise SchemaMismatch(f"The manifest does not fit JSON: {error}.", where="config") from None

    @classmethod
    def from_json(cls, data: bytes, where: str = "") -> "Manifest":
        """Check and parse. ``Damaged`` where the content is not what was written, then ``FormatTooNew``."""
        body = _checked_body(data, where)
        version = body.pop("format_version")
        if version < 1:
            raise Damaged(f"There is no format {version}.", where=where)
        if version > FORMAT_VERSION:
            raise FormatTooNew(
                f"This store has format {version}; this program reads up to {FORMAT_VERSION}.",
                where=where,
                fix="Install a later version of textcam.",
            )
        try:
            body["dims"] = Dims(**body["dims"])
            body["parts"] = tuple(PartRecord.from_dict(part) for part in body["parts"])
            body["indexes"] = tuple(IndexRecord.from_dict(one) for one in body["indexes"])
            return cls(**body, format_version=version)
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"The manifest cannot be understood: {error}.", where=where) from None


def _canonical(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _hash_line(digest: str) -> bytes:
    """The line of the whole manifest that holds its hash: no other begins with a single space and this."""
    return f'\n "sha256": "{digest}",'.encode()


def _checked_body(data: bytes, where: str) -> dict[str, Any]:
    """The parsed manifest without its hash, which must hold for every byte, whatever the version."""
    damaged = Damaged(
        "The manifest is not the one that was committed: its content does not have its hash.",
        where=where,
        fix="Restore the file from a copy of the store, or open another snapshot.",
    )
    try:
        whole = json.loads(data)
        body = {key: value for key, value in whole.items() if key != "sha256"}
        line = _hash_line(whole["sha256"])
        plain = data.count(line) == 1 and sha256(data.replace(line, b"")) == whole["sha256"]
        # Written out again only where that does not hold: it takes seconds for a manifest of many megabytes.
        if not plain and (sha256(_canonical(body)) != whole["sha256"] or _canonical(whole) != data):
            raise damaged
        if not isinstance(body["format_version"], int):
            raise damaged
    except (ValueError, KeyError, AttributeError, RecursionError):
        raise damaged from None
    return body


def manifest_path(snapshot: int) -> str:
    """Where a snapshot's manifest lies."""
    return f"{FOLDER}{snapshot:08d}.json"


def snapshots(storage: Storage) -> list[int]:
    """Numbers of all committed snapshots, ascending."""
    names = (path.removeprefix(FOLDER).removesuffix(".json") for path in storage.list(FOLDER))
    return sorted(int(name) for name in names if len(name) == 8 and name.isascii() and name.isdigit())


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
