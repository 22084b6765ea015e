"""What rows a table may hold: its columns and types, the order of its keys, and each value within its bounds.

The writer refuses all else, and the proof of a snapshot looks again.
"""

from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.errors import SchemaMismatch
from store.schema import KINDS, SIDES, SUBJECTS, VERDICTS, Table

NO_ID = -1  # findings: no group; maps: no group but the whole map
MAY_BE_NONE = {("maps", "group_id"), ("findings", "group_id")}
_WORDS = {
    ("texts", "kind"): KINDS,
    ("examples", "side"): SIDES,
    ("findings", "verdict"): VERDICTS,
    ("confidences", "subject"): SUBJECTS,
}
_NOT_EMPTY = ("uri", "content_hash", "text")
_FRACTION = (0.0, 1.0)
# The same name means the same in every table, inside lists as well: (least, most or None).
BOUNDS: dict[str, tuple[float, float | None]] = {
    **dict.fromkeys(
        (
            *("image_id", "channel", "class_id", "text_id", "group_id", "finding_id", "id"),
            *("label", "prediction", "text_ids", "group_ids", "channels"),
        ),
        (0, None),
    ),
    **dict.fromkeys(("rank", "shard", "n", "n_images", "n_with", "n_without", "proof_n", "scale"), (0, None)),
    **dict.fromkeys(("width", "height"), (1, None)),
    **dict.fromkeys(
        (
            *("confidence", "accuracy", "accuracy_with", "accuracy_without"),
            *("active_fraction", "flip_rate", "q_value"),
        ),
        _FRACTION,
    ),
}


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
    """Raise ``SchemaMismatch`` for missing, NaN, infinite or empty values, those out of their bounds, unknown
    words and text that is not UTF-8.
    """
    at = f"{where}, column {column.name}"
    if values.null_count and not column.nullable:
        raise SchemaMismatch(f"{values.null_count} values are missing.", where=at)
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise SchemaMismatch(f"Not values of {column.type}: {error}.", where=at) from None
    inner = values
    if pa.types.is_nested(column.type):
        inner = pc.list_flatten(values)
        if inner.null_count:
            raise SchemaMismatch(f"{inner.null_count} values inside the lists are missing.", where=at)
    if pa.types.is_floating(inner.type) and not _all_finite(inner):
        raise SchemaMismatch(
            "NaN or infinite values.", where=at, fix="Half floats end at 65504; scale or clip."
        )
    _check_bounds(table, column, inner, at)
    if column.name in _NOT_EMPTY and pc.any(pc.equal(values, "")).as_py():
        raise SchemaMismatch("An empty text.", where=at)
    words = _WORDS.get((table.name, column.name))
    if words and not pc.all(pc.is_in(values, pa.array(words))).as_py() and len(values):
        raise SchemaMismatch(f"Values other than {', '.join(words)}.", where=at)


def _check_bounds(table: Table, column: pa.Field, values: pa.ChunkedArray, at: str) -> None:
    least, most = BOUNDS.get(column.name, (None, None))
    if (table.name, column.name) in MAY_BE_NONE:
        least = NO_ID
    if least is None:
        return
    found = pc.min_max(values).as_py()
    if found["min"] is not None and (found["min"] < least or (most is not None and found["max"] > most)):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise SchemaMismatch(f"Values from {found['min']} to {found['max']}; allowed is {allowed}.", where=at)


def _all_finite(values: pa.ChunkedArray) -> bool:
    """In chunks of NumPy: pyarrow has no half-float kernels."""
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
