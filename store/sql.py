"""DuckDB over a snapshot's tables: it sees Arrow data sets and no file system at all.

Given file paths instead, DuckDB would allow ``COPY ... TO`` onto those very files, even with external access
off. Half floats are widened to float32 on the way, which DuckDB needs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from store.checked import CheckedFile
from store.errors import LimitReached, QueryError, first_line
from store.schema import tables

if TYPE_CHECKING:
    from store.reader import Snapshot

T = TypeVar("T")
MEMORY = "50%"  # of this machine's, or of its container's; beyond it nothing goes to disk, the query ends
BATCH_ROWS = 8192

_LOCKED = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_SKIPPED = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_EXPLAIN = re.compile(rf"{_SKIPPED}EXPLAIN\b{_SKIPPED}(?:ANALYZE\b|\([^()]*\))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What a query answers. ``schema`` has no name twice; ``batches`` are made as they are asked for."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class SqlSource:
    """A snapshot's tables as Arrow data sets. Made once for a snapshot: each footer is read once."""

    def __init__(self, snapshot: "Snapshot") -> None:
        form = ds.ParquetFileFormat()
        self._files: list[CheckedFile] = []
        self._data_sets: dict[str, ds.Dataset] = {}
        for name, table in tables(snapshot.dims).items():
            files = [
                CheckedFile(snapshot.storage, part, snapshot.manifest.snapshot)
                for part in snapshot.parts(name)
            ]
            fragments = [form.make_fragment(pa.PythonFile(file, mode="r")) for file in files]
            schema = pa.schema([_widened(one) for one in table.schema])
            self._data_sets[name] = ds.FileSystemDataset(fragments, schema, form)
            self._files += files

    def connect(self, memory: str = MEMORY) -> duckdb.DuckDBPyConnection:
        """An in-memory session with one view for each table, an empty one where the snapshot lacks it.

        ``memory``: how much DuckDB may hold, a size ("4 GiB") or a part of the machine's ("50%").
        """
        session = duckdb.connect(":memory:", config={"memory_limit": memory})
        for name, data_set in self._data_sets.items():
            session.register(name, data_set)
        for statement in _LOCKED:
            session.execute(statement)
        return session

    def select(self, query: str) -> pa.Table:
        """The whole answer to one statement that reads (SELECT, PIVOT, EXPLAIN, DESCRIBE, SUMMARIZE ...).

        Of columns of one name the later ones get numbers, as DuckDB names them in a subquery. Raises
        ``QueryError`` for wrong or writing SQL, ``LimitReached`` where it needs too much memory, and
        ``Damaged`` where it meets a damaged file.
        """
        with self.stream(query) as answer:
            return pa.Table.from_batches(answer.batches, answer.schema)

    @contextmanager
    def stream(
        self, query: str, *, seconds: float | None = None, memory: str = MEMORY, batch_rows: int = BATCH_ROWS
    ) -> Iterator[Answer]:
        """The answer in batches, for as long as the context is open: memory does not grow with its rows.

        After ``seconds``, taking the batches included, the query is interrupted: ``LimitReached``. The
        batches raise what ``select`` raises.
        """
        for file in self._files:
            file.damage = None
        with self.connect(memory) as session, ThreadPoolExecutor(1) as worker:
            run = partial(_interruptible, session, worker, None if seconds is None else monotonic() + seconds)
            with self._named_errors(query, seconds):
                reader = run(partial(_reader, session, query, batch_rows))
            schema = _named_once(reader.schema)
            yield Answer(
                schema, self._batches(partial(run, partial(next, reader, None)), schema, query, seconds)
            )

    def _batches(
        self,
        following: Callable[[], pa.RecordBatch | None],
        schema: pa.Schema,
        query: str,
        seconds: float | None,
    ) -> Iterator[pa.RecordBatch]:
        while True:
            with self._named_errors(query, seconds):
                batch = following()
            if batch is None:
                return
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    @contextmanager
    def _named_errors(self, query: str, seconds: float | None) -> Iterator[None]:
        """Errors of DuckDB, and those that Arrow makes of them when batches are taken."""
        where = query.strip()
        try:
            yield
        except _Late:
            what = f"The query took longer than {seconds:g} seconds and was stopped."
            fix = "Ask for fewer rows or columns, or allow more time (--seconds)."
            raise LimitReached(what, where=where, fix=fix) from None
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            for kind, what, damaged, fix in (file.damage for file in self._files if file.damage):
                raise kind(what, where=damaged, fix=fix) from None
            if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in str(error):
                what = f"The query needs more memory than it may have: {first_line(error)}"
                fix = "Ask for fewer rows or columns, sort less, or allow more memory (--memory)."
                raise LimitReached(what, where=where, fix=fix) from None
            raise QueryError(f"DuckDB refused the query: {error}", where=where) from None


class _Late(Exception):  # noqa: N818 (the name says what happened)
    """The time of a query is over."""


def _interruptible(
    session: duckdb.DuckDBPyConnection,
    worker: ThreadPoolExecutor,
    deadline: float | None,
    work: Callable[[], T],
) -> T:
    """What ``work`` returns, done in the worker: from this thread DuckDB would hear neither the clock nor
    Ctrl-C. Raises ``_Late`` after the deadline.
    """
    future = worker.submit(work)
    try:
        wait([future], None if deadline is None else max(0.0, deadline - monotonic()))
        if not future.done():
            raise _Late
    finally:
        while not future.done():
            session.interrupt()  # again, until it is heard: what has not begun yet does not hear it
            wait([future], 0.05)
    return future.result()


def _reader(session: duckdb.DuckDBPyConnection, query: str, batch_rows: int) -> pa.RecordBatchReader:
    if not _reads(session, query):
        what = "Only one statement that reads is allowed."
        raise QueryError(what, where=query.strip(), fix="Write one SELECT.")
    return session.sql(query).to_arrow_reader(batch_rows)


def _reads(session: duckdb.DuckDBPyConnection, query: str) -> bool:
    """Whether this is one statement that reads and nothing else."""
    statements = session.extract_statements(query)
    if len(statements) != 1:
        return False
    kind = statements[0].type
    if kind == duckdb.StatementType.SELECT:
        return True
    # EXPLAIN ANALYZE executes what it explains, so that must be allowed by itself.
    if explained := _EXPLAIN.match(query):
        return _reads(session, query[explained.end() :])
    # PIVOT without a list of values is two statements to DuckDB: it makes a type for itself. What can stand
    # in a subquery only reads.
    return kind == duckdb.StatementType.MULTI and _reads_as_subquery(session, query)


def _reads_as_subquery(session: duckdb.DuckDBPyConnection, query: str) -> bool:
    try:
        return len(session.extract_statements(f"SELECT * FROM (\n{query.strip().rstrip(';')}\n)")) == 1
    except duckdb.Error:
        return False


def _named_once(schema: pa.Schema) -> pa.Schema:
    """Equal names told apart as DuckDB does in a subquery: ``id``, ``id_1``, ``id_2``."""
    names = _unique(schema.names)
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def _unique(names: Sequence[str]) -> list[str]:
    taken, made = {*names}, list[str]()
    for name in names:
        number, free = 1, name
        while free in made or (free != name and free in taken):
            free, number = f"{name}_{number}", number + 1
        made.append(free)
    return made


def _widened(column: pa.Field) -> pa.Field:
    if pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float16():
        inner = pa.field("item", pa.float32(), nullable=False)
        return column.with_type(pa.list_(inner, column.type.list_size))
    return column
