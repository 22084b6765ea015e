"""Open a committed snapshot and read it: tables, batches, a few rows, matrices, the index, SQL.

Needs neither torch nor ray. Every byte is checked against the manifest before it is used (see ``checked``),
and a snapshot stays readable and the same while later ones are committed.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store.checked import CheckedFile, damaged
from store.errors import QueryError, SchemaMismatch
from store.lookup import Places, rows_at, rows_with
from store.manifest import Manifest, PartRecord, read_manifest
from store.schema import Dims, Table, tables
from store.storage import Storage, concurrently, open_storage

if TYPE_CHECKING:
    import duckdb

    from store.sql import SqlSource
    from store.vectors import VectorIndex


class Snapshot:
    """One snapshot of a store. ``Snapshot(storage, manifest)`` also reads one that is not committed yet."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self.storage, self.manifest = storage, manifest
        self._tables = tables(manifest.dims)
        self._parts = {name: manifest.of(name) for name in self._tables}
        self._footers: dict[str, pq.FileMetaData] = {}
        self._places: dict[str, Places] = {}
        self._source: SqlSource | None = None

    @classmethod
    def open(cls, uri: str | Path, snapshot: int | None = None) -> "Snapshot":
        """The latest snapshot, or the one with this number.

        Raises ``StoreNotFound``, ``FormatTooNew`` or, for a manifest that was altered, ``Damaged``.
        """
        storage = open_storage(uri)
        return cls(storage, read_manifest(storage, snapshot))

    @property
    def dims(self) -> Dims:
        """Sizes that the models fix."""
        return self.manifest.dims

    @property
    def tables(self) -> list[str]:
        """Names of the tables that this snapshot has."""
        return [name for name in self._tables if self.has(name)]

    def has(self, table: str) -> bool:
        """Whether the snapshot has this table; a table without rows counts as one."""
        return bool(self.parts(table))

    def parts(self, table: str) -> list[PartRecord]:
        """The files of a table, by path; none where the snapshot does not have it."""
        return self._parts[self._table(table).name]

    def count(self, table: str) -> int:
        """Rows of a table, from the manifest."""
        return sum(part.rows for part in self.parts(table))

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, sorted by key across parts. An empty table where the snapshot does not have it."""
        schema = self._schema(name, columns)
        key = self._table(name).key
        wanted = list(dict.fromkeys([*schema.names, *key])) if len(self.parts(name)) > 1 else schema.names
        read = concurrently(lambda part: self.open_part(part).read(columns=wanted), self.parts(name))
        if not read:
            return schema.empty_table()
        whole = read[0] if len(read) == 1 else self._by_key(name, pa.concat_tables(read))
        return _typed(whole.select(schema.names), schema)

    def batches(
        self, name: str, columns: Sequence[str] | None = None, batch_rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """All rows, streamed: part by part, each part by key. Memory does not grow with the table."""
        schema = self._schema(name, columns)
        for part in self.parts(name):
            file = self.open_part(part)
            for group in range(file.num_row_groups):  # one at a time: the whole part would be read ahead
                for batch in file.iter_batches(batch_rows, row_groups=[group], columns=schema.names):
                    yield _typed(batch.select(schema.names), schema)

    def rows(
        self, name: str, column: str, values: Iterable[Any], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows whose ``column`` is among ``values``, by key. Reads only row groups that may hold one."""
        schema = self._schema(name, columns)
        key = self._table(name).key
        wanted = list(dict.fromkeys([*schema.names, *key]))
        sought = self._sought(name, column, values)
        parts = self.parts(name)
        found: list[pa.Table | None]
        if (column,) == key and len(parts) > 1 and pa.types.is_integer(sought.type):
            places = self._places_of(name).find(sought.to_numpy())
            found = concurrently(
                lambda one: rows_at(self.open_part(parts[one[0]]), one[1], wanted), list(places.items())
            )
        else:
            found = concurrently(lambda part: rows_with(self.open_part(part), column, sought, wanted), parts)
        empty = self._schema(name, wanted).empty_table()
        whole = pa.concat_tables([empty, *(one.cast(empty.schema) for one in found if one is not None)])
        return self._by_key(name, whole).select(schema.names)

    def matrix(self, name: str, column: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """A vector column as (ids (n,), vectors (n, d)) by ascending id (first key column).

        All of it in memory: for the bulk tables prefer ``batches``.
        """
        id_column = self._table(name).key[0]
        kind = self._schema(name, [column]).field(0).type
        if not pa.types.is_fixed_size_list(kind):
            raise QueryError(f"Column {column} of {name} does not hold vectors.", where=self.storage.uri)
        rows = sum(self.open_part(part).metadata.num_rows for part in self.parts(name))
        ids = np.empty(rows, np.int64)
        vectors = np.empty((len(ids), kind.list_size), np.float32)
        at = 0
        for batch in self.batches(name, [id_column, column]):
            ids[at : at + len(batch)] = batch.column(0).to_numpy()
            vectors[at : at + len(batch)] = as_matrix(batch.column(1))
            at += len(batch)
        if np.all(ids[:-1] <= ids[1:]):
            return ids, vectors
        order = np.argsort(ids, kind="stable")
        return ids[order], vectors[order]

    def index(self, table: str) -> "VectorIndex":
        """The table's vector index, after a check that it was built from exactly this table."""
        from store.index import load_index

        return load_index(self, table)

    def connect(self) -> "duckdb.DuckDBPyConnection":
        """A DuckDB session over all tables, without a way to files, extensions or settings."""
        return self._sql().connect()

    def sql(self, query: str) -> pa.Table:
        """One SELECT over the tables. ``QueryError`` for anything else, ``Damaged`` where it meets damage."""
        return self._sql().select(query)

    def _sql(self) -> "SqlSource":
        if self._source is None:
            from store.sql import SqlSource

            self._source = SqlSource(self)
        return self._source

    def open_part(self, part: PartRecord) -> pq.ParquetFile:
        """One checked file. ``SchemaMismatch`` where its columns are not the table's or it has other rows
        than its record, ``Damaged`` where it is no Parquet file.
        """
        source = pa.PythonFile(CheckedFile(self.storage, part, self.manifest.snapshot), mode="r")
        try:
            file = pq.ParquetFile(source, metadata=self._footers.get(part.path), pre_buffer=True)
        except (pa.ArrowException, OSError) as error:
            raise damaged(self.storage, part.path, f"it is no Parquet file: {error}") from None
        if not file.schema_arrow.equals(self._table(part.table).schema):
            raise SchemaMismatch(f"Its columns are not those of {part.table}.", where=part.path)
        if file.metadata.num_rows != part.rows:
            what = f"It has {file.metadata.num_rows} rows; the manifest says {part.rows}."
            raise SchemaMismatch(what, where=part.path)
        self._footers[part.path] = file.metadata
        return file

    def check_parts(self) -> None:
        """Raise ``SchemaMismatch`` where a part has other rows than its record, or a key is in two parts.

        Reads footers, and the key columns of tables in several parts.
        """
        for name in self.tables:
            parts = self.parts(name)
            concurrently(self.open_part, parts)
            if len(parts) > 1 and (twice := repeated_keys(self.table(name, self._table(name).key))):
                raise SchemaMismatch(f"{twice} keys of {name} are in more than one part.", where=name)

    def _places_of(self, name: str) -> Places:
        """Where each key is, read once. Threads that come together may both read it, to the same end."""
        if name not in self._places:
            key = self._table(name).key[0]
            read = concurrently(lambda part: self.open_part(part).read(columns=[key]), self.parts(name))
            self._places[name] = Places.of([one.column(0).to_numpy().astype(np.int64) for one in read])
        return self._places[name]

    def _sought(self, name: str, column: str, values: Iterable[Any]) -> pa.Array:
        kind = self._schema(name, [column]).field(0).type
        try:
            return pa.array(list(values), type=kind).drop_null().unique()
        except (pa.ArrowException, TypeError, OverflowError) as error:
            what = f"Not values of {name}.{column} ({kind}): {error}"
            raise QueryError(what, where=self.storage.uri) from None

    def _by_key(self, name: str, rows: pa.Table) -> pa.Table:
        key = self._table(name).key
        return rows.take(pc.sort_indices(rows.select(key), [(column, "ascending") for column in key]))

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            raise QueryError(f"No table {name!r}.", fix=f"Tables: {', '.join(self._tables)}")
        return self._tables[name]

    def _schema(self, name: str, columns: Sequence[str] | None) -> pa.Schema:
        schema = self._table(name).schema
        unknown = [column for column in columns or () if column not in schema.names]
        if unknown:
            raise QueryError(
                f"No column {unknown[0]!r} in {name}.", fix=f"Columns: {', '.join(schema.names)}"
            )
        return schema if columns is None else pa.schema([schema.field(column) for column in columns])


def read_part(storage: Storage, part: PartRecord, columns: Sequence[str] | None = None) -> pa.Table:
    """One part, checked, whether or not a snapshot names it yet (a run reads its own)."""
    file = pq.ParquetFile(pa.PythonFile(CheckedFile(storage, part), mode="r"), pre_buffer=True)
    return file.read(columns=None if columns is None else list(columns))


def _typed(rows: Any, schema: pa.Schema) -> Any:
    """Rows with exactly this schema. Arrow refuses to cast missing vectors even to their own type."""
    return rows if rows.schema.equals(schema) else rows.cast(schema)


with np.errstate(invalid="ignore"):  # signalling NaN
    _HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def as_matrix(vectors: pa.Array) -> NDArray[np.float32]:
    """A FixedSizeList array of n vectors as (n, d) float32."""
    values = vectors.flatten().to_numpy(zero_copy_only=False)
    if values.dtype == np.float16:  # looked up: twice as fast as numpy's own conversion, the same bits
        rows: NDArray[np.float32] = _HALVES[values.view(np.uint16)]
    else:
        rows = np.asarray(values, np.float32)
    return rows.reshape(len(vectors), vectors.type.list_size)


def repeated_keys(keys: pa.Table) -> int:
    """How many rows of a sorted table of keys equal the row before them."""
    if keys.num_rows < 2:
        return 0
    same = pa.array([True] * (keys.num_rows - 1))
    for column in (column.combine_chunks() for column in keys.columns):
        same = pc.and_(same, pc.equal(column.slice(0, len(column) - 1), column.slice(1)))
    return int(pc.sum(same).as_py() or 0)
