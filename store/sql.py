"""DuckDB over a snapshot's tables: it sees Arrow data sets and no file system at all.

Given file paths instead, DuckDB would allow ``COPY ... TO`` onto those very files, even with external access
off. Half floats are widened to float32 on the way, which DuckDB needs.
"""

from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from store.checked import CheckedFile
from store.errors import QueryError
from store.schema import tables

if TYPE_CHECKING:
    from store.reader import Snapshot

_LOCKED = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


def connect(snapshot: "Snapshot") -> duckdb.DuckDBPyConnection:
    """An in-memory session with one view for each table, an empty one where the snapshot lacks the table."""
    return _session(snapshot, _files(snapshot))


def select(snapshot: "Snapshot", query: str) -> pa.Table:
    """The answer to one SELECT (or EXPLAIN, DESCRIBE, SUMMARIZE ...) as an Arrow table.

    Raises ``QueryError`` for wrong or writing SQL and ``Damaged`` where the query meets a damaged file.
    """
    files = _files(snapshot)
    with _session(snapshot, files) as session:
        try:
            statements = session.extract_statements(query)
            if len(statements) != 1 or statements[0].type not in _READS:
                raise QueryError(
                    "Only one statement that reads is allowed.", where=query.strip(), fix="Write one SELECT."
                )
            return session.sql(query).to_arrow_table()
        except duckdb.Error as error:
            for file in (one for of_table in files.values() for one in of_table):
                if file.damage:  # DuckDB keeps only the words of what its sources raise
                    raise file.damage from None
            raise QueryError(f"DuckDB refused the query: {error}", where=query.strip()) from None


def _files(snapshot: "Snapshot") -> dict[str, list[CheckedFile]]:
    return {
        name: [CheckedFile(snapshot.storage, part) for part in snapshot.parts(name)]
        for name in tables(snapshot.dims)
    }


def _session(snapshot: "Snapshot", files: dict[str, list[CheckedFile]]) -> duckdb.DuckDBPyConnection:
    form = ds.ParquetFileFormat()
    session = duckdb.connect(":memory:")
    for name, table in tables(snapshot.dims).items():
        schema = pa.schema([_widened(one) for one in table.schema])
        fragments = [form.make_fragment(pa.PythonFile(file, mode="r")) for file in files[name]]
        session.register(name, ds.FileSystemDataset(fragments, schema, form))
    for statement in _LOCKED:
        session.execute(statement)
    return session


def _widened(column: pa.Field) -> pa.Field:
    if pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float16():
        inner = pa.field("item", pa.float32(), nullable=False)
        return column.with_type(pa.list_(inner, column.type.list_size))
    return column
