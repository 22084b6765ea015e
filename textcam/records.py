"""Arrays and small dataclasses to Arrow tables and back; the only file that knows both.

Every function takes the ``Table`` that it makes rows for, so that types and sizes come from the schema alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.schema import Table
from textcam.accumulate import ExampleSide
from textcam.audit import Finding
from textcam.shares import TextShares

Array = NDArray[Any]


def make_rows(table: Table, **columns: object) -> pa.Table:
    """Rows from one array or sequence per column, sorted by key.

    A 2-d array fills a column of fixed-size lists; a sequence of 1-d arrays a column of lists.
    """
    arrays = [_column(table.schema.field(name), columns[name]) for name in table.schema.names]
    rows = pa.Table.from_arrays(arrays, schema=table.schema)
    return rows.sort_by([(name, "ascending") for name in table.key]).combine_chunks()


def _column(field: pa.Field, values: Any) -> pa.Array:
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        if values is None:
            raise ValueError(f"column {field.name} has no values")
        mask = None
        if not isinstance(values, np.ndarray):
            mask = pa.array([one is None for one in values])
            values = np.stack([np.zeros(kind.list_size) if one is None else one for one in values])
        flat = np.ascontiguousarray(values).reshape(-1).astype(kind.value_type.to_pandas_dtype())
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind, mask=mask)
    if pa.types.is_list(kind):
        lengths = np.array([0, *(len(one) for one in values)], np.int32)
        flat = np.concatenate([np.asarray(one) for one in values]) if len(values) else np.empty(0)
        flat = flat.astype(kind.value_type.to_pandas_dtype())
        return pa.ListArray.from_arrays(
            pa.array(np.cumsum(lengths, dtype=np.int32)), pa.array(flat), type=kind
        )
    if isinstance(values, np.ndarray):
        return pa.array(values.astype(kind.to_pandas_dtype()), kind)
    return pa.array(list(values), kind)


# --- what a shard writes --------------------------------------------------------------------------------


def image_rows(
    table: Table,
    *,
    image_ids: Array,
    uris: Sequence[str],
    hashes: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    labels: Sequence[int | None],
    predictions: Array,
    confidences: Array,
    shard: int,
) -> pa.Table:
    """Rows of ``images``; ``sizes`` are (width, height) in pixels."""
    return make_rows(
        table,
        image_id=image_ids,
        uri=uris,
        content_hash=hashes,
        width=[width for width, _ in sizes],
        height=[height for _, height in sizes],
        label=labels,
        prediction=predictions,
        confidence=confidences,
        shard=[shard] * len(uris),
    )


def error_rows(table: Table, errors: Sequence[tuple[str, str, str]]) -> pa.Table:
    """Rows of ``errors`` from (uri, stage, reason)."""
    uris, stages, reasons = zip(*errors, strict=True) if errors else ((), (), ())
    return make_rows(table, uri=uris, stage=stages, reason=reasons)


def embedding_rows(table: Table, image_ids: Array, embeddings: Array) -> pa.Table:
    """Rows of ``embeddings`` from (B,) ids and (B, D) float16."""
    return make_rows(table, image_id=image_ids, embedding=embeddings)


def pooled_rows(table: Table, image_ids: Array, pooled: Array) -> pa.Table:
    """Rows of ``activations`` from (B,) ids and (B, K) float16."""
    return make_rows(table, image_id=image_ids, pooled=pooled)


# --- what the whole run writes --------------------------------------------------------------------------


def example_rows(table: Table, sides: Mapping[str, ExampleSide]) -> pa.Table:
    """Rows of ``examples`` from the examples of both sides; empty places are left out."""
    columns: dict[str, list[Array]] = {name: [] for name in ("channel", "rank", "image_id", "activation")}
    names: list[str] = []
    for name, side in sides.items():
        channel, rank = np.nonzero(side.image_ids >= 0)
        columns["channel"].append(channel)
        columns["rank"].append(rank)
        columns["image_id"].append(side.image_ids[channel, rank])
        columns["activation"].append(side.activations[channel, rank])
        names += [name] * len(channel)
    return make_rows(table, side=names, **{name: np.concatenate(pieces) for name, pieces in columns.items()})


# --- findings -------------------------------------------------------------------------------------------


def finding_rows(table: Table, findings: Sequence[Finding]) -> pa.Table:
    """Rows of ``findings``; NaN becomes null."""
    rows = [asdict(finding) for finding in findings]

    def value(name: str, one: Any) -> Any:
        missing = isinstance(one, float) and np.isnan(one) and table.schema.field(name).nullable
        return None if missing else one

    return make_rows(table, **{name: [value(name, row[name]) for row in rows] for name in table.schema.names})


def findings_of(rows: pa.Table) -> list[Finding]:
    """Findings, most suspicious first."""
    names = [field.name for field in fields(Finding)]
    made = [Finding(**{name: row[name] for name in names}) for row in rows.select(names).to_pylist()]
    return sorted(made, key=lambda finding: finding.rank)


def channel_text_rows(table: Table, coefficients: Array, text_ids: Array) -> pa.Table:
    """Rows of ``channel_texts`` from ``coefficients`` (K, T), one for each that is not 0."""
    channel, text = np.nonzero(coefficients)
    return make_rows(table, channel=channel, text_id=text_ids[text], coefficient=coefficients[channel, text])


def class_effect_rows(table: Table, effects: Array, text_ids: Array, most: int = 100) -> pa.Table:
    """Rows of ``class_effects`` from ``effects`` (C, T): of each class the ``most`` largest in size."""
    kept = np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :most]
    class_id, place = np.nonzero(np.take_along_axis(effects, kept, axis=1))
    text = kept[class_id, place]
    return make_rows(table, class_id=class_id, text_id=text_ids[text], effect=effects[class_id, text])


def class_text_rows(table: Table, shares: TextShares, text_ids: Array) -> pa.Table:
    """Rows of ``class_texts``: the texts that were a word of at least one of the class's images."""
    rows = shares.rows()
    return make_rows(
        table,
        class_id=rows.class_id,
        text_id=text_ids[rows.text_index],
        share=rows.share,
        contribution=rows.contribution,
        n=rows.n,
    )


def confidence_rows(table: Table, **of: tuple[Array, Array]) -> pa.Table:
    """Rows of ``confidences`` from ids (n,) and confidences (n,) of each subject."""
    subjects = [subject for subject, (ids, _) in of.items() for _ in range(len(ids))]
    ids, sure = (np.concatenate(columns) for columns in zip(*of.values(), strict=True))
    return make_rows(table, subject=subjects, id=ids, confidence=sure)
