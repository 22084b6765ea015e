"""How the audit is printed and written: findings, slices, the data's own associations, a corrected head."""

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from errno import ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from service.printing import finding_line, finding_record, finding_row, print_json, print_rows, write_csv
from service.wording import number, percent
from store.errors import StorageFull, StorageUnavailable
from textcam.slices import SLICES
from textcam.tensor_file import tensor_bytes

if TYPE_CHECKING:
    from textcam.association import Association, Double
    from textcam.audit import Finding
    from textcam.matching import Matched
    from textcam.query import Query
    from textcam.suppress import GroupAccuracy, Suppressed

_SHOWN_DOUBLES = 10


def print_findings(
    query: "Query", found: "Sequence[Finding]", *, matched: bool, as_json: bool, csv: Path | None
) -> None:
    """Findings as sentences, JSON or CSV."""
    rows = [finding_row(query, finding) for finding in found]
    records, lines = [finding_record(row) for row in rows], [finding_line(row) for row in rows]
    if matched and rows:
        for place, one in enumerate(query.audit.matched(found)):
            records[place]["matched"] = one._asdict()
            lines[place] += f" {_matched_words(one)}"
    if csv is not None:
        write_csv(records, csv)
    if as_json:
        print_json(records)
    elif csv is None:
        print("\n".join(lines) if lines else "no findings")


def _matched_words(one: "Matched") -> str:
    if one.effect is None or one.low is None or one.high is None:
        return f"Matched for the rest: {one.outcome}."
    effect, low, high = (round(100 * value) for value in (one.effect, one.low, one.high))
    return f"Matched for the rest {effect} points [{low}, {high}]."


# --- slices ---------------------------------------------------------------------------------------------


def write_slices(
    query: "Query", found: "Sequence[Finding]", folder: Path, file_format: str, *, as_json: bool
) -> None:
    """``slices`` and ``label_suspects`` in ``folder``, and a line about each (on stderr beside JSON). Slices
    are written shard by shard: memory does not grow with their number. Raises StorageUnavailable, or
    StorageFull."""
    suspects = query.audit.label_suspects()
    for name, schema, batches in (
        ("slices", SLICES, query.audit.slice_batches(found)),
        ("label_suspects", suspects.schema, suspects.to_batches()),
    ):
        path = folder / f"{name}.{file_format}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            rows = _write_batches(path, schema, batches)
        except OSError as error:
            refuse = StorageFull if error.errno == ENOSPC else StorageUnavailable
            raise refuse(f"The slices cannot be written: {error.strerror or error}.", where=path) from None
        print(f"wrote {path}: {number(rows)} rows", file=sys.stderr if as_json else sys.stdout)


def _write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """The number of rows, written as CSV or Parquet by the path's suffix."""
    rows, flat = 0, path.suffix == ".csv"
    with ExitStack() as stack:
        file = stack.enter_context(path.open("wb"))
        columns = _flat(schema.empty_table()).schema if flat else schema
        writer = stack.enter_context((pa_csv.CSVWriter if flat else pq.ParquetWriter)(file, columns))
        for batch in batches:
            table = pa.Table.from_batches([batch], schema)
            writer.write_table(_flat(table) if flat else table)
            rows += batch.num_rows
    return rows


def _flat(rows: pa.Table) -> pa.Table:
    """Lists of words as one text, for CSV."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_list(field.type):
            joined = ["; ".join(one) for one in rows[field.name].to_pylist()]
            rows = rows.set_column(place, field.name, pa.array(joined, pa.string()))
    return rows


# --- the data alone -------------------------------------------------------------------------------------


def print_data(query: "Query", top: int, near: float, as_json: bool, csv: Path | None) -> None:
    """Associations of classes and texts in the images, and double images."""
    every = [_association_record(query, one) for one in query.audit.associations()]
    doubles = query.audit.doubles(near)
    if csv is not None:
        write_csv(every[:top], csv, None if every else ["class_name", "text"])
    if as_json:
        print_json({"associations": every[:top], "doubles": [asdict(one) for one in doubles]})
    elif csv is None:
        print("\n".join(_association_line(one) for one in every[:top]) or "nothing goes together")
        print("\n".join(_double_lines(query, doubles)))


def _association_record(query: "Query", one: "Association") -> dict[str, Any]:
    word = query.word(one.text_id)
    named = {"class_name": query.class_name(one.class_id), "text": word.text, "kind": word.kind}
    return {**named, **asdict(one)}


def _association_line(row: dict[str, Any]) -> str:
    lift = f"{row['lift']:.1f} times as often" if row["lift"] is not None else "never elsewhere"
    q = "q < 0.001" if row["q_value"] < 0.001 else f"q = {row['q_value']:.3f}"
    evidence = f"{percent(row['share'])} of the model's evidence" if row["share"] else "not in the evidence"
    return (
        f'{row["class_name"]}: {percent(row["rate"])} of its images show "{row["text"]}" ({row["kind"]}), '
        f"{percent(row['rate_elsewhere'])} of the others ({lift}; odds ratio {row['odds_ratio']:.3g} "
        f"[{row['odds_low']:.3g}, {row['odds_high']:.3g}], {q}); {evidence}."
    )


def _double_lines(query: "Query", doubles: "Sequence[Double]") -> list[str]:
    same = sum(one.similarity is None for one in doubles)
    classes, splits = sum(one.across_classes for one in doubles), sum(one.across_splits for one in doubles)
    lines = [
        f"double images: {number(same)} of the same content, {number(len(doubles) - same)} nearly the same; "
        f"{number(classes)} across classes, {number(splits)} across splits"
    ]
    for one in doubles[:_SHOWN_DOUBLES]:
        how = "same content" if one.similarity is None else f"cosine {one.similarity:.3f}"
        crossed = [
            name for name, is_so in (("classes", one.across_classes), ("splits", one.across_splits)) if is_so
        ]
        across = f", across {' and '.join(crossed)}" if crossed else ""
        lines.append(f"  {one.uri}  {one.other_uri}  ({how}{across})")
    return lines


# --- a corrected head -----------------------------------------------------------------------------------


def write_head(
    query: "Query", found: "Sequence[Finding]", made: "Suppressed", path: Path, prefix: str
) -> None:
    """The head as safetensors: ``weight`` (C, K) and ``bias`` (C,), under ``prefix``, with what was done as
    text. Raises StorageUnavailable."""
    manifest = query.snapshot.manifest
    metadata = {
        "made_by": "textcam suppress",
        "method": made.method,
        "findings": json.dumps([":".join(query.audit.pair(one)) for one in found], ensure_ascii=False),
        "snapshot": str(manifest.snapshot),
        "classifier": manifest.fingerprints.get("classifier", ""),
        "held_out": json.dumps(
            {
                "images": made.held_out,
                "accuracy": [made.accuracy_before, made.accuracy_after],
                "worst_group": [made.worst_before, made.worst_after],
            }
        ),
    }
    before = f"{prefix}." if prefix else ""
    data = tensor_bytes({f"{before}weight": made.weights, f"{before}bias": made.bias}, metadata)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StorageUnavailable(f"The head cannot be written: {error.strerror}.", where=path) from None


def print_suppressed(
    query: "Query", found: "Sequence[Finding]", made: "Suppressed", out: Path, as_json: bool
) -> None:
    """What the corrected head does to held-out images."""
    groups: list[dict[str, Any]] = [
        {
            "group": _group_name(query, found[one.finding], one),
            "n": one.n,
            "before": one.before,
            "after": one.after,
        }
        for one in made.groups
    ]
    if as_json:
        plain = {key: value for key, value in asdict(made).items() if key not in ("weights", "bias")}
        print_json({**plain, "groups": groups, "file": out})
        return
    print(f"on {number(made.held_out)} images held out (head made on {number(made.fitted)}):")
    print(f"  accuracy     {percent(made.accuracy_before)} -> {percent(made.accuracy_after)}")
    print(f"  worst group  {percent(made.worst_before)} -> {percent(made.worst_after)}")
    shown = [{**row, "before": percent(row["before"]), "after": percent(row["after"])} for row in groups]
    print_rows(shown, ["group", "n", "before", "after"])
    if made.unbalanced:
        print(f"classes with a text in all or none of their images (nothing to weigh): {made.unbalanced}")
    print(f"wrote {out}")


def _group_name(query: "Query", finding: "Finding", one: "GroupAccuracy") -> str:
    class_name, text = query.audit.pair(finding)
    own = class_name if one.of_class else f"not {class_name}"
    return f"{own}, {'with' if one.with_text else 'without'} {text}"
