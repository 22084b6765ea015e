"""One part in, checked; one commit, last.

A part's name ends in its content's hash, so a part is never overwritten by another one and a repeated write
is free. Nothing is visible to readers before ``commit`` has put the manifest.
"""

import io
from collections.abc import Iterable
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.checked import cut_blocks
from store.errors import Damaged, SchemaMismatch, SnapshotConflict
from store.manifest import Manifest, PartRecord, manifest_path, sha256, snapshots
from store.schema import KINDS, SIDES, SUBJECTS, VERDICTS, Table
from store.signs import COMMIT, at_work
from store.storage import Storage, concurrently, step

ROW_GROUP_ROWS = 8192
LOWEST_ID = 0
NO_ID = -1  # findings: no group; maps: no group but the whole map
_ID_COLUMNS = ("image_id", "channel", "class_id", "text_id", "group_id", "finding_id", "rank", "id")
_ID_LISTS = ("text_ids", "group_ids", "channels")
MAY_BE_NONE = {("maps", "group_id"), ("findings", "group_id")}
_WORDS = {
    ("texts", "kind"): KINDS,
    ("examples", "side"): SIDES,
    ("findings", "verdict"): VERDICTS,
    ("confidences", "subject"): SUBJECTS,
}


def write_part(storage: Storage, table: Table, rows: pa.Table, name: str) -> PartRecord:
    """Check ``rows`` and write them as ``parts/<table>/<name>-<hash>.parquet``. Same rows, same bytes.

    Raises ``SchemaMismatch`` for anything that FORMAT.md does not allow and ``StorageFull`` without space;
    then nothing was written.
    """
    check_rows(table, rows, where=f"{table.name}/{name}")
    data = encode(rows)
    digest = sha256(data)
    path = f"parts/{table.name}/{name}-{digest[:12]}.parquet"
    record = PartRecord(path, table.name, rows.num_rows, len(data), digest, cut_blocks(data))
    step("part:encoded")
    if not (storage.exists(path) and storage.read(path) == data):
        storage.put(path, data)
    return record


def encode(rows: pa.Table) -> bytes:
    """Deterministic Parquet: zstd, page checksums, statistics on plain columns, fixed row groups."""
    plain = [one.name for one in rows.schema if not pa.types.is_nested(one.type)]
    sink = io.BytesIO()
    pq.write_table(
        rows.combine_chunks().replace_schema_metadata(None),
        sink,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=3,
        use_dictionary=[one.name for one in rows.schema if one.type == pa.string()],
        write_statistics=plain,
        write_page_checksum=True,
        use_compliant_nested_type=False,
        version="2.6",
    )
    return sink.getvalue()


def sort_rows(table: Table, rows: pa.Table) -> pa.Table:
    """``rows`` in the table's key order."""
    return rows.sort_by([(column, "ascending") for column in table.key])


def check_rows(table: Table, rows: pa.Table, where: str) -> None:
    """Raise ``SchemaMismatch`` unless the rows are what FORMAT.md allows in this table."""
    _check_schema(table, rows.schema, where)
    for column in rows.schema:
        check_values(table, column, rows.column(column.name), where)
    if not strictly_ascending(rows.select(table.key)):
        key = ", ".join(table.key)
        raise SchemaMismatch(
            f"Rows are not sorted by their key ({key}), or a key comes twice.",
            where=where,
            fix="Use sort_rows.",
        )


def _check_schema(table: Table, given: pa.Schema, where: str) -> None:
    if given.equals(table.schema):
        return
    if given.names != table.schema.names:
        what = f"Columns are {', '.join(given.names)}; {table.name} has {', '.join(table.schema.names)}."
    else:
        wrong = next(one for one in table.schema if not given.field(one.name).equals(one))
        what = f"Column {wrong.name} is {given.field(wrong.name)}; {table.name} has {wrong}."
    raise SchemaMismatch(what, where=where, fix="Build the rows with the table's own schema.")


def check_values(table: Table, column: pa.Field, values: pa.ChunkedArray, where: str) -> None:
    """Raise ``SchemaMismatch`` for missing, NaN or infinite values, ids out of range and unknown words."""
    at = f"{where}, column {column.name}"
    if values.null_count and not column.nullable:
        raise SchemaMismatch(f"{values.null_count} values are missing.", where=at)
    inner = values
    if pa.types.is_nested(column.type):
        inner = pc.list_flatten(values)
        if inner.null_count:
            raise SchemaMismatch(f"{inner.null_count} values inside the lists are missing.", where=at)
    if pa.types.is_floating(inner.type) and not _all_finite(inner):
        raise SchemaMismatch(
            "NaN or infinite values.", where=at, fix="Half floats end at 65504; scale or clip."
        )
    if column.name in (*_ID_COLUMNS, *_ID_LISTS) and len(inner):
        lowest = NO_ID if (table.name, column.name) in MAY_BE_NONE else LOWEST_ID
        least = pc.min(inner).as_py()
        if least is not None and least < lowest:
            raise SchemaMismatch(f"Id {least} is below {lowest}.", where=at)
    if (table.name, column.name) == ("confidences", "confidence") and len(values):
        extremes = pc.min_max(values).as_py()
        if not 0 <= extremes["min"] <= extremes["max"] <= 1:
            raise SchemaMismatch(f"Confidences from {extremes['min']} to {extremes['max']}.", where=at)
    words = _WORDS.get((table.name, column.name))
    if words and not pc.all(pc.is_in(values, pa.array(words))).as_py() and len(values):
        raise SchemaMismatch(f"Values other than {', '.join(words)}.", where=at)


def _all_finite(values: pa.ChunkedArray) -> bool:
    """In chunks of NumPy: pyarrow has no half-float kernels."""
    import numpy as np

    present = values.drop_null()
    return all(bool(np.isfinite(chunk.to_numpy(zero_copy_only=False)).all()) for chunk in present.chunks)


def strictly_ascending(keys: pa.Table) -> bool:
    """Whether each row of ``keys`` is after the one before it, columns compared from left to right."""
    if keys.num_rows < 2:
        return True
    columns = [column.combine_chunks() for column in keys.columns]
    pairs = [(column.slice(0, len(column) - 1), column.slice(1)) for column in columns]

    def before(rest: pa.Array, pair: tuple[pa.Array, pa.Array]) -> pa.Array:
        return pc.or_(pc.less(*pair), pc.and_(pc.equal(*pair), rest))

    return bool(pc.all(reduce(before, reversed(pairs), pa.array([False] * (keys.num_rows - 1)))).as_py())


def commit(storage: Storage, manifest: Manifest) -> Manifest:
    """Make the snapshot visible, all at once: the last act of a run.

    Checks before that every file is in place with its size, that parts have their table's schema and that no
    key is in two parts. Raises ``Damaged``, ``SchemaMismatch``, or ``SnapshotConflict`` where another writer
    was first: then the other snapshot stands, and this run's parts are kept for the next try. While the store
    is being pruned it raises ``SnapshotConflict`` too.
    """
    with at_work(storage, COMMIT):  # from the look at the files to the manifest no prune may take any away
        _check_number(storage, manifest)
        _check_files(storage, manifest)
        from store.reader import Snapshot  # the check of keys across parts reads them as any reader would

        Snapshot(storage, manifest).check_parts()
        step("commit:checked")
        _put_manifest(storage, manifest)
        step("commit:done")
    return manifest


def _put_manifest(storage: Storage, manifest: Manifest) -> None:
    path, document = manifest_path(manifest.snapshot), manifest.to_json()
    try:
        storage.put(path, document, if_absent=True)
    except SnapshotConflict:
        # A put that arrived although its answer did not is tried again by the client, and then finds itself.
        # (A twin that wrote the same is as good.)
        if storage.read(path) != document:
            raise _conflict(storage, manifest.snapshot) from None


def _conflict(storage: Storage, snapshot: int) -> SnapshotConflict:
    return SnapshotConflict(
        f"Another writer committed snapshot {snapshot} first; it is kept and nothing was lost.",
        where=f"{storage.uri}/{manifest_path(snapshot)}",
        fix="Run the same command again: it builds on the newer snapshot.",
    )


def _check_number(storage: Storage, manifest: Manifest) -> None:
    parent = manifest.parent
    where = f"{storage.uri}/{manifest_path(manifest.snapshot)}"
    if manifest.snapshot != (parent or 0) + 1:
        raise SchemaMismatch(f"Snapshot {manifest.snapshot} cannot follow {parent}.", where=where)
    committed = snapshots(storage)
    if max(committed, default=0) > manifest.snapshot:  # its number may be free: it was taken, then pruned
        raise _conflict(storage, manifest.snapshot)
    if parent is not None and {parent, manifest.snapshot}.isdisjoint(committed):
        raise SchemaMismatch(f"Its parent {parent} is not committed.", where=where)


def _check_files(storage: Storage, manifest: Manifest) -> None:
    if len(set(manifest.paths())) != len(manifest.paths()):
        raise SchemaMismatch("A file is named twice.", where=manifest_path(manifest.snapshot))
    if len({one.table for one in manifest.indexes}) != len(manifest.indexes):
        raise SchemaMismatch("A table has two indexes.", where=manifest_path(manifest.snapshot))
    indexes: Iterable[tuple[str, int | None]] = (
        pair for one in manifest.indexes for pair in ((one.path, one.bytes), (one.card_path, None))
    )
    named = [*((part.path, part.bytes) for part in manifest.parts), *indexes]
    concurrently(lambda one: _check_size(storage, *one), named)


def _check_size(storage: Storage, path: str, size: int | None) -> None:
    where = f"{storage.uri}/{path}"
    try:
        found = storage.size(path)
    except FileNotFoundError:
        raise Damaged("A file that was to be committed is not there.", where=where) from None
    if size is not None and found != size:
        raise Damaged(f"It has {found} bytes and not {size}.", where=where)
