"""DuckDB over a snapshot's tables: it sees Arrow data sets and no file system at all.

Given file paths instead, DuckDB would allow ``COPY ... TO`` onto those very files, even with external access
off. Half floats are widened to float32 on the way, which DuckDB needs.
"""

from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from store.checked import CheckedFile
from store.errors import Damaged, QueryError
from store.schema import tables

if TYPE_CHECKING:
    from store.reader import Snapshot

_LOCKED = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


class SqlSource:
    """A snapshot's tables as Arrow data sets. Made once for a snapshot: each footer is read once."""

    def __init__(self, snapshot: "Snapshot") -> None:
        form = ds.ParquetFileFormat()
        self._files: list[CheckedFile] = []
        self._data_sets: dict[str, ds.Dataset] = {}
        for name, table in tables(snapshot.dims).items():
            files = [CheckedFile(snapshot.storage, part) for part in snapshot.parts(name)]
            fragments = [form.make_fragment(pa.PythonFile(file, mode="r")) for file in files]
            schema = pa.schema([_widened(one) for one in table.schema])
            self._data_sets[name] = ds.FileSystemDataset(fragments, schema, form)
            self._files += files

    def connect(self) -> duckdb.DuckDBPyConnection:
        """An in-memory session with one view for each table, an empty one where the snapshot lacks it."""
        session = duckdb.connect(":memory:")
        for name, data_set in self._data_sets.items():
            session.register(name, data_set)
        for statement in _LOCKED:
            session.execute(statement)
        return session

    def select(self, query: str) -> pa.Table:
        """The answer to one SELECT (or EXPLAIN, DESCRIBE, SUMMARIZE ...) as an Arrow table.

        Raises ``QueryError`` for wrong or writing SQL and ``Damaged`` where the query meets a damaged file.
        """
        for file in self._files:
            file.damage = None
        with self.connect() as session:
            try:
                kinds = [statement.type for statement in session.extract_statements(query)]
                if len(kinds) != 1 or kinds[0] not in _READS:
                    what = "Only one statement that reads is allowed."
                    raise QueryError(what, where=query.strip(), fix="Write one SELECT.")
                return session.sql(query).to_arrow_table()
            except duckdb.Error as error:
                for what, where, fix in (file.damage for file in self._files if file.damage):
                    raise Damaged(what, where=where, fix=fix) from None
                raise QueryError(f"DuckDB refused the query: {error}", where=query.strip()) from None


def _widened(column: pa.Field) -> pa.Field:
    if pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float16():
        inner = pa.field("item", pa.float32(), nullable=False)
        return column.with_type(pa.list_(inner, column.type.list_size))
    return column
