"""One part in, checked; one commit, last.

A part's name ends in its content's hash, so a part is never overwritten by another one and a repeated write
is free. Nothing is visible to readers before ``commit`` has put the manifest.
"""

import io
import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from store.checked import cut_blocks
from store.errors import Damaged, SchemaMismatch, SnapshotConflict
from store.manifest import NAME, Manifest, PartRecord, manifest_path, sha256, snapshots
from store.rows import NO_ID as NO_ID
from store.rows import check_rows
from store.rows import sort_rows as sort_rows
from store.schema import Table
from store.signs import COMMIT, at_work
from store.storage import Storage, concurrently, step

ROW_GROUP_ROWS, PARQUET = 8192, "2.6"


def write_part(storage: Storage, table: Table, rows: pa.Table, name: str) -> PartRecord:
    """Check ``rows`` and write them as ``parts/<table>/<name>-<hash>.parquet``. Same rows, same bytes.

    Raises ``SchemaMismatch`` for anything that FORMAT.md does not allow and ``StorageFull`` without space;
    then nothing was written.
    """
    if not re.fullmatch(NAME, name):
        raise SchemaMismatch("A part's name has no slash and is not empty.", where=repr(name))
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
        version=PARQUET,
    )
    return sink.getvalue()


def commit(storage: Storage, manifest: Manifest) -> Manifest:
    """Make the snapshot visible, all at once: the last act of a run.

    Checks before that every file is in place with its size, that parts have their table's schema and that no
    key is in two parts. Raises ``Damaged``, ``SchemaMismatch``, or ``SnapshotConflict`` where another writer
    was first: then the other snapshot stands, and this run's parts are kept for the next try. While the store
    is being pruned it raises ``SnapshotConflict`` too.
    """
    with at_work(storage, COMMIT):  # from the look at the files to the manifest no prune may take any away
        document = manifest.to_json()
        _check_document(storage, manifest, document)
        _check_files(storage, manifest)
        from store.reader import Snapshot  # the check of keys across parts reads them as any reader would

        Snapshot(storage, manifest).check_parts()
        step("commit:checked")
        _put_manifest(storage, manifest, document)
        step("commit:done")
    return manifest


def _put_manifest(storage: Storage, manifest: Manifest, document: bytes) -> None:
    path = manifest_path(manifest.snapshot)
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


def _check_document(storage: Storage, manifest: Manifest, document: bytes) -> None:
    """What no reader would open is not committed."""
    where = f"{storage.uri}/{manifest_path(manifest.snapshot)}"
    try:
        Manifest.from_json(document, where)
    except Damaged as error:
        raise SchemaMismatch(error.what, where=error.where) from None
    committed = snapshots(storage)
    if max(committed, default=0) > manifest.snapshot:  # its number may be free: it was taken, then pruned
        raise _conflict(storage, manifest.snapshot)
    if manifest.parent is not None and {manifest.parent, manifest.snapshot}.isdisjoint(committed):
        raise SchemaMismatch(f"Its parent {manifest.parent} is not committed.", where=where)


def _check_files(storage: Storage, manifest: Manifest) -> None:
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
