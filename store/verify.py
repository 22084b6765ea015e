"""Proof of a whole snapshot: hashes, rows, keys, values, references between tables, indexes, fingerprints.

Reads every byte once for its hash and streams every table once for its values; memory holds ids, never
vectors.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from store import form
from store.checked import CheckedFile, check_file
from store.errors import Damaged, StoreNotFound, TextcamError, first_line
from store.index import INDEXED, Card, load_index, read_card, vector_batches
from store.manifest import (
    FINGERPRINTS,
    LARGE,
    IndexRecord,
    Manifest,
    PartRecord,
    manifest_path,
    read_manifest,
    was_pruned,
)
from store.marks import damaged_marks
from store.reader import Snapshot, as_matrix, repeated_keys
from store.rows import MAY_BE_NONE, NO_ID, check_values, strictly_ascending
from store.schema import stable_id, tables
from store.storage import Storage, open_storage
from store.vectors import VectorIndex, recall_at_10, tier_for

OPTIONAL = ("errors", "channel_texts", "class_effects", "confidences", "findings", "maps")
UNIT = {
    "embeddings": ("embedding",),
    "texts": ("embedding",),
    "channels": ("direction", "region_direction"),
    "groups": ("direction",),
}
NAMED_BY = {"images": "uri", "texts": "text"}  # the column that an id is the hash of
MAY_BE_ZERO = ("channels", "groups")  # a channel that never fires has no direction
TOLERANCE = {
    pa.float16(): 2e-3,
    pa.float32(): 1e-4,
}  # of a norm; half floats round each number by up to 2^-11
RECALL_TOLERANCE = 0.01  # other processors add up in another order, so that equals change places
# column -> table whose first key column must hold each of its values
REFERENCES: dict[str, dict[str, str]] = {
    "images": {"label": "classes", "prediction": "classes"},
    "embeddings": {"image_id": "images"},
    "activations": {"image_id": "images"},
    "examples": {"channel": "channels", "image_id": "images"},
    "channels": {"group_id": "groups", "text_ids": "texts"},
    "channel_texts": {"channel": "channels", "text_id": "texts"},
    "groups": {"channels": "channels", "text_ids": "texts"},
    "class_effects": {"class_id": "classes", "text_id": "texts"},
    "class_texts": {"class_id": "classes", "text_id": "texts"},
    "explanations": {"image_id": "images", "class_id": "classes", "text_ids": "texts", "group_ids": "groups"},
    "findings": {"class_id": "classes", "text_id": "texts", "group_id": "groups"},
    "maps": {"image_id": "images", "class_id": "classes", "group_id": "groups"},
}
# lists of a row that belong together
SAME_LENGTH = {
    "channels": ("text_ids", "similarities"),
    "groups": ("text_ids", "similarities"),
    "explanations": ("text_ids", "coefficients"),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: ``where`` is the file or table, ``what`` a sentence.

    ``kind`` is damaged, manifest, table, form (of a file), key, value, norm, reference or index.
    """

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


def verify(uri: str | Path, snapshot: int | None = None) -> list[Problem]:
    """Everything that is wrong with a snapshot (the latest by default); an empty list is the proof.

    Raises ``StoreNotFound`` and ``FormatTooNew``; all damage is in the list.
    """
    storage = open_storage(uri)
    try:
        manifest = read_manifest(storage, snapshot)
    except Damaged as error:
        return [Problem("damaged", error.where, error.what)]
    found = problems(Snapshot(storage, manifest))
    found += _guarded("manifest", "manifest", partial(_written_form, storage, manifest))
    if found and was_pruned(storage, manifest.snapshot):
        raise StoreNotFound(
            f"Snapshot {manifest.snapshot} was pruned while it was being verified.",
            where=storage.uri,
            fix="Verify the store anew: its newest snapshot is whole.",
        )
    return found


def problems(snapshot: Snapshot) -> list[Problem]:
    """As ``verify``, for a snapshot in hand, committed or not."""
    found = _guarded("manifest", "config", partial(_manifest, snapshot))
    found += _missing_tables(snapshot)
    sound = set()
    for name in snapshot.tables:
        of_table = list(_table_problems(snapshot, name))
        found += of_table
        if all(one.kind in ("norm", "key", "form") for one in of_table):
            sound.add(name)
    found += _guarded("reference", "tables", partial(_references, snapshot, sound))
    for record in snapshot.manifest.indexes:
        if record.table in sound:
            found += _guarded("index", record.path, partial(_index, snapshot, record))
    found += [Problem("damaged", error.where, error.what) for error in damaged_marks(snapshot.storage)]
    return list(dict.fromkeys(found))


def _guarded(kind: str, where: str, check: Callable[[], Iterable[Problem]]) -> list[Problem]:
    """The check's problems; an error that ends it is one more."""
    found: list[Problem] = []
    try:
        found.extend(check())
    except TextcamError as error:
        kind = "damaged" if isinstance(error, Damaged) else kind
        found.append(Problem(kind, error.where or where, error.what))
    except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
        found.append(Problem("damaged", where, f"cannot be read: {first_line(error)}"))
    return found


def _written_form(storage: Storage, manifest: Manifest) -> Iterator[Problem]:
    path = manifest_path(manifest.snapshot)
    if storage.read(path) != manifest.to_json():
        yield Problem("manifest", path, "it is not in the form in which manifests are written")


def _manifest(snapshot: Snapshot) -> Iterator[Problem]:
    """Fingerprints are there, and the configuration names what the run was about."""
    manifest = snapshot.manifest
    for name in FINGERPRINTS:
        found = manifest.fingerprints.get(name, "")
        if not re.fullmatch("(2-)?[0-9a-f]+", found):
            what = "is no hash in hexadecimal digits" if found else "is missing"
            yield Problem("manifest", "fingerprints", f"that of the {name} {what}")
    settings, cells = manifest.settings(), manifest.dims.cells
    for section, key in (("images", "uri"), ("classifier", "model"), ("encoder", "model")):
        if not getattr(getattr(settings, section), key, ""):
            yield Problem("manifest", "config", f"{section}.{key} is missing")
    if settings.map_size and math.prod(settings.map_size) != cells:
        height, width = settings.map_size
        yield Problem("manifest", "config", f"maps have {cells} cells, and not {height} x {width}")


def _missing_tables(snapshot: Snapshot) -> Iterator[Problem]:
    without = snapshot.manifest.config.get("activations", True) is False
    optional = {*OPTIONAL, "activations"} if without else {*OPTIONAL}
    for name in tables(snapshot.dims):
        if name not in optional and not snapshot.has(name):
            yield Problem("table", name, "the snapshot does not have this table")


def _table_problems(snapshot: Snapshot, name: str) -> Iterator[Problem]:
    whole = True
    for part in snapshot.parts(name):
        found = _guarded("damaged", part.path, partial(_bytes, snapshot.storage, part))
        found = found or _guarded("value", part.path, partial(_part, snapshot, part))
        whole = whole and not any(one.kind == "damaged" for one in found)
        yield from found
    if whole and len(snapshot.parts(name)) > 1:
        yield from _guarded("key", name, partial(_keys_across, snapshot, name))


def _bytes(storage: Storage, part: PartRecord) -> Iterator[Problem]:
    """Size, hash of the whole file, and hash of each block."""
    check_file(storage, part.path, part.bytes, part.sha256)
    file = CheckedFile(storage, part)
    while file.read(LARGE):
        pass  # the file checks each block as it goes
    yield from ()


def _part(snapshot: Snapshot, part: PartRecord) -> Iterator[Problem]:
    """Rows, key order, values and norms of one file whose hash holds."""
    table = tables(snapshot.dims)[part.table]
    file = snapshot.open_part(part)
    for what in form.faults(snapshot.storage, part, file):
        yield Problem("form", part.path, what)
    if snapshot.manifest.format_version > 1:  # early stores of format 1 were cut otherwise
        for what in form.block_faults(part, file.metadata):
            yield Problem("form", part.path, what)
    if not strictly_ascending(file.read(columns=list(table.key))):
        yield Problem(
            "key", part.path, f"rows are not sorted by {', '.join(table.key)}, or a key comes twice"
        )
    for batch in file.iter_batches(8192):
        rows = pa.Table.from_batches([batch])
        for column in table.schema:
            check_values(table, column, rows.column(column.name), part.path)
        yield from _norms(batch, part)
        yield from _lengths(batch, part)
        yield from _own_ids(batch, part)


def _norms(batch: pa.RecordBatch, part: PartRecord) -> Iterator[Problem]:
    for column in UNIT.get(part.table, ()):
        vectors = batch.column(column)
        norms = np.linalg.norm(as_matrix(vectors), axis=1)
        wrong = np.abs(norms - 1) > TOLERANCE[vectors.type.value_type]
        if part.table in MAY_BE_ZERO:
            wrong &= norms != 0
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            row_id = batch.column(0)[first].as_py()
            what = (
                f"{wrong.sum()} vectors of {column} are not unit vectors; id {row_id} has {norms[first]:.5f}"
            )
            yield Problem("norm", part.path, what)


def _own_ids(batch: pa.RecordBatch, part: PartRecord) -> Iterator[Problem]:
    """An image's id is that of its URI, a text's that of the text."""
    if part.table in NAMED_BY:
        names, ids = batch.column(NAMED_BY[part.table]).to_pylist(), batch.column(0).to_pylist()
        for name, found in zip(names, ids, strict=True):
            if stable_id(name) != found:
                yield Problem("value", part.path, f"id {found} is not the one of {name!r}")
                return


def _lengths(batch: pa.RecordBatch, part: PartRecord) -> Iterator[Problem]:
    pairs = [SAME_LENGTH[part.table]] if part.table in SAME_LENGTH else []
    if part.table == "explanations":
        pairs.append(("group_ids", "group_contributions"))
    for one, other in pairs:
        if not pc.list_value_length(batch.column(one)).equals(pc.list_value_length(batch.column(other))):
            yield Problem("value", part.path, f"{one} and {other} of a row do not have the same length")


def _keys_across(snapshot: Snapshot, name: str) -> Iterator[Problem]:
    twice = repeated_keys(snapshot.table(name, tables(snapshot.dims)[name].key))
    if twice:
        yield Problem("key", name, f"{twice} keys are in more than one part")


def _references(snapshot: Snapshot, sound: set[str]) -> Iterator[Problem]:
    """Each id that a table names exists; tables that must hold the same images do."""
    targets = ("images", "classes", "channels", "groups", "texts")
    known = {name: _ids(snapshot, name) for name in targets if name in sound or not snapshot.has(name)}
    for name, columns in REFERENCES.items():
        for column, target in columns.items():
            if name in sound and target in known:
                yield from _reference(snapshot, name, column, target, known[target])
    for name in ("embeddings", "activations", "explanations"):
        if name in sound and "images" in sound and snapshot.count(name) != snapshot.count("images"):
            what = f"{snapshot.count(name)} rows for {snapshot.count('images')} images"
            yield Problem("reference", name, what)
    if {"channels", "groups"} <= sound:
        yield from _group_members(snapshot)
    if "confidences" in sound:
        yield from _subjects(snapshot, known)
    if {"images", "errors"} <= sound:
        both = set(snapshot.table("errors", ["uri"]).column(0).to_pylist())
        both &= set(snapshot.table("images", ["uri"]).column(0).to_pylist()) if both else set()
        for uri in sorted(both)[:1]:
            yield Problem("reference", "errors", f"{len(both)} images are in images too, the first: {uri}")


def _ids(snapshot: Snapshot, name: str) -> NDArray[np.int64]:
    column = tables(snapshot.dims)[name].key[0]
    pieces = [batch.column(0).to_numpy() for batch in snapshot.batches(name, [column])]
    return np.sort(np.concatenate(pieces).astype(np.int64)) if pieces else np.empty(0, np.int64)


def _reference(
    snapshot: Snapshot, name: str, column: str, target: str, known: NDArray[np.int64]
) -> Iterator[Problem]:
    unknown: set[int] = set()
    for batch in snapshot.batches(name, [column]):
        values = batch.column(0)
        flat = pc.list_flatten(values) if pa.types.is_nested(values.type) else values.drop_null()
        ids = np.unique(flat.to_numpy(zero_copy_only=False).astype(np.int64))
        if (name, column) in MAY_BE_NONE:
            ids = ids[ids != NO_ID]
        unknown.update(ids[~np.isin(ids, known)].tolist())
    if unknown:
        yield Problem(
            "reference",
            name,
            f"{len(unknown)} ids of {column} are not in {target}, the least: {min(unknown)}",
        )


def _group_members(snapshot: Snapshot) -> Iterator[Problem]:
    """Channels and groups tell the same story about who belongs where."""
    channels = snapshot.table("channels", ["channel", "group_id"]).to_pydict()
    groups = snapshot.table("groups", ["group_id", "channels"]).to_pydict()
    of_channel = set(zip(channels["channel"], channels["group_id"], strict=True))
    of_group = {
        (channel, group)
        for group, members in zip(groups["group_id"], groups["channels"], strict=True)
        for channel in members
    }
    for channel, group in sorted(of_channel ^ of_group)[:1]:
        what = f"channel {channel} and group {group} do not agree on whether they belong together"
        yield Problem("reference", "groups", what)


def _subjects(snapshot: Snapshot, known: dict[str, NDArray[np.int64]]) -> Iterator[Problem]:
    """What a confidence is about exists."""
    plural = {"channel": "channels", "class": "classes", "group": "groups", "image": "images"}
    for batch in snapshot.batches("confidences", ["subject", "id"]):
        for subject, target in plural.items():
            ids = batch.column(1).filter(pc.equal(batch.column(0), subject)).to_numpy()
            if target in known and not np.isin(ids, known[target]).all():
                yield Problem("reference", "confidences", f"a {subject} is not in {target}")


def _index(snapshot: Snapshot, record: IndexRecord) -> Iterator[Problem]:
    """The index is as its card and its name say, has exactly the table's ids, and under each sampled id that
    row's own vector.
    """
    table = record.table
    index, card = load_index(snapshot, table), read_card(snapshot.storage, record)
    for what in _card_faults(snapshot, record, card, index):
        yield Problem("index", record.path, what)
    if not np.array_equal(np.sort(index.ids), _ids(snapshot, table)):
        yield Problem("index", record.path, "its ids are not the table's")
        return
    found = [] if index.tier not in ("flat", "sqfp16") else [*_self_matches(snapshot, index, record)]
    yield from found or _recall(snapshot, record, card, index)


def _card_faults(snapshot: Snapshot, record: IndexRecord, card: Card, index: VectorIndex) -> Iterator[str]:
    if not record.path.startswith(f"indexes/{record.table}-{card.built_from[:12]}-"):
        yield "its name says that it was built from other content than its card"
    fitting, settings = tier_for(card.rows), snapshot.manifest.settings().index
    asked = settings.tier if settings and fitting != "flat" else None
    if card.tier not in (fitting, asked):
        yield f"its tier is {card.tier}; {card.rows} vectors are for {fitting}"
    if index.kind != card.tier:
        yield f"its card says {card.tier}, its content is {index.kind}"


def _recall(snapshot: Snapshot, record: IndexRecord, card: Card, index: VectorIndex) -> Iterator[Problem]:
    measured = recall_at_10(index, partial(vector_batches, snapshot, record.table))
    if abs(measured - card.recall_at_10) > RECALL_TOLERANCE:
        what = f"its card says recall {card.recall_at_10}, measured is {measured:.3f}"
        yield Problem("index", record.path, what)


def _sample(snapshot: Snapshot, table: str, rows: int = 64) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first vectors of each part, up to ``rows`` in all."""
    ids, vectors = [], []
    share = max(1, rows // max(1, len(snapshot.parts(table))))
    key = tables(snapshot.dims)[table].key[0]
    for part in snapshot.parts(table)[:rows]:
        batch = next(snapshot.open_part(part).iter_batches(share, columns=[key, INDEXED[table]]), None)
        if batch is not None:
            ids.append(batch.column(0).to_numpy().astype(np.int64))
            vectors.append(as_matrix(batch.column(1)))
    return np.concatenate(ids or [np.empty(0, np.int64)]), np.concatenate(
        vectors or [np.empty((0, snapshot.dims.embedding), np.float32)]
    )


def _self_matches(snapshot: Snapshot, index: VectorIndex, record: IndexRecord) -> Iterator[Problem]:
    ids, vectors = _sample(snapshot, record.table)
    if not len(ids):
        return
    held = index.vectors(ids)
    wrong = np.abs(held - vectors).max(axis=1) > 2e-3
    if wrong.any():
        first = int(ids[np.flatnonzero(wrong)[0]])
        yield Problem(
            "index", record.path, f"{wrong.sum()} of {len(ids)} ids hold another row's vector, as {first}"
        )
