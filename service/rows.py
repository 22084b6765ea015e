"""Rows of answers in every form that they are printed in: an aligned table, JSON, JSON lines, CSV.

Rows come and go in batches: memory does not grow with their number.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from rich.cells import cell_len

from service.output import destination, json_text, say, shown

_LIST_SHOWN = 4  # first numbers of a vector that a table shows
_CSV_KNOWS = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_temporal,
    pa.types.is_null,
)


class Form(StrEnum):
    """How rows are written."""

    table = "table"
    json = "json"
    lines = "lines"
    csv = "csv"

    @classmethod
    def of(cls, *, as_json: bool = False, as_csv: bool = False, as_lines: bool = False) -> "Form":
        """What the options say, of which at most one is given."""
        return cls.json if as_json else cls.csv if as_csv else cls.lines if as_lines else cls.table


def plain(value: Any) -> Any:
    """As JSON knows it: no NaN, no infinity, ids as integers, everything unknown as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [plain(one) for one in value]
    return str(value)


def json_of(value: Any, spaces: int | None = 1) -> str:
    """One JSON document; on one line without ``spaces``."""
    return json_text(json.dumps(plain(value), ensure_ascii=False, indent=spaces, allow_nan=False))


def print_json(value: Any, out: Path | None = None) -> None:
    """One JSON document, on stdout or into a file."""
    with destination(out) as file:
        file.write(f"{json_of(value)}\n".encode())


def print_lines(lines: Iterable[str], out: Path | None = None) -> None:
    """Lines, on stdout or into a file; names in them cannot command the terminal that shows them."""
    if out is None:
        for line in lines:
            say(line)
        return
    with destination(out) as file:
        file.writelines(f"{shown(line)}\n".encode() for line in lines)


def print_records(
    records: Sequence[Mapping[str, Any]], form: Form, columns: Sequence[str], out: Path | None = None
) -> None:
    """Rows at hand. ``columns``: those of a table, and the header of CSV where there are no rows."""
    if form is Form.json:
        print_json(records, out)
    elif form is Form.table:
        print_lines(Aligned(columns).lines([[one[name] for name in columns] for one in records]), out)
    else:
        names = list(records[0]) if records else columns
        values = [pa.array([_flat(plain(one[name])) for one in records]) for name in names]
        table = pa.Table.from_arrays(values, names=list(names))
        print_batches(table.schema, table.to_batches(), form, out)


def print_batches(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], form: Form, out: Path | None = None
) -> None:
    """Rows as they come; each is written before the next batch is asked for."""
    if form is Form.csv:
        with destination(out) as file:
            write_csv(file, schema, batches)
        return
    if form is Form.table:
        aligned = Aligned(schema.names)
        print_lines((line for rows in _rows(schema, batches) for line in aligned.lines(rows)), out)
        return
    with destination(out) as file:
        objects = (
            dict(zip(schema.names, row, strict=True)) for rows in _rows(schema, batches) for row in rows
        )
        if form is Form.lines:
            file.writelines(f"{json_of(one, None)}\n".encode() for one in objects)
        else:
            file.writelines(_json_list(objects))


def _rows(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[list[tuple[Any, ...]]]:
    """Plain rows by place, batch by batch; at least one batch, which may be empty."""
    empty = True
    for batch in batches:
        empty = False
        yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    if empty:
        yield []


def _json_list(objects: Iterable[Any]) -> Iterator[bytes]:
    """The bytes of ``json_of`` of the list, one object at a time."""
    opened = False
    for one in objects:
        yield f"{',' if opened else '['}\n{indent(json_of(one), ' ')}".encode()
        opened = True
    yield b"\n]\n" if opened else b"[]\n"


# --- CSV --------------------------------------------------------------------------------------------------


def write_csv(file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Rows as CSV: lists as JSON, nothing for what is not known or no number. The number of rows."""
    known = [
        any(knows(field.type) for knows in _CSV_KNOWS) and not pa.types.is_interval(field.type)
        for field in schema
    ]
    flat = pa.schema(
        [
            field if yes else pa.field(field.name, pa.string())
            for field, yes in zip(schema, known, strict=True)
        ]
    )
    rows = 0
    with pa_csv.CSVWriter(file, flat) as writer:
        for batch in batches:
            columns = [_csv_column(column, yes) for column, yes in zip(batch.columns, known, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=flat))
            rows += batch.num_rows
    return rows


def _csv_column(column: pa.Array, known: bool) -> pa.Array:
    if known and pa.types.is_floating(column.type):
        return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    if known:
        return column
    return pa.array([_text(_flat(plain(one))) for one in column.to_pylist()], pa.string())


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- aligned columns --------------------------------------------------------------------------------------


class Aligned:
    """Rows under their column names; numbers to the right. Widths are those of the rows so far."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self._widths = [0] * len(self.columns)
        self._right: list[bool] | None = None

    def lines(self, rows: Sequence[Sequence[Any]]) -> Iterator[str]:
        """The next rows, with the header before the first."""
        cells = [[_cell(value) for value in row] for row in rows]
        if self._right is None:
            self._right = [
                bool(rows) and all(map(_is_number, column)) for column in zip(*rows, strict=True)
            ] or [False] * len(self.columns)
            cells.insert(0, [shown(name) for name in self.columns])
        self._widths = [
            max([width, *(cell_len(row[at]) for row in cells)]) for at, width in enumerate(self._widths)
        ]
        for row in cells:
            aligned = [
                " " * (width - cell_len(cell)) + cell if to_right else cell + " " * (width - cell_len(cell))
                for cell, width, to_right in zip(row, self._widths, self._right, strict=True)
            ]
            yield "  ".join(aligned).rstrip()


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        beginning = ", ".join(_cell(one) for one in value[:_LIST_SHOWN])
        return f"[{beginning}, ... {len(value)}]" if len(value) > _LIST_SHOWN else f"[{beginning}]"
    return shown(" ".join(str(value).split()))
