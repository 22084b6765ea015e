"""How the audit is printed and written: findings, slices, the data's own associations, a corrected head."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from service.output import new_file, os_errors, say
from service.places import Answers
from service.printing import finding_line, finding_record, finding_row
from service.rows import Aligned, Form, print_json, print_lines, print_records, write_csv
from service.wording import number, percent
from textcam.audit import Finding
from textcam.slices import SLICES
from textcam.tensor_file import tensor_bytes

if TYPE_CHECKING:
    from textcam.association import Association, Double
    from textcam.matching import Matched
    from textcam.query import Query
    from textcam.suppress import GroupAccuracy, Suppressed

_SHOWN_DOUBLES = 10


_FINDING_COLUMNS = [
    *(field.name for field in fields(Finding)),
    "class_name",
    "text",
    "sentence",
    "mark",
    "note",
]


class Told(NamedTuple):
    """Findings of a store: their rows for JSON and CSV, and the line of each."""

    records: list[dict[str, Any]]
    lines: list[str]


def told_findings(query: "Query", top: int, *, matched: bool) -> Told:
    """The first ``top`` findings."""
    found = query.findings()[:top]
    rows = [finding_row(query, finding) for finding in found]
    told = Told([finding_record(row) for row in rows], [finding_line(row) for row in rows])
    if matched and rows:
        for place, one in enumerate(query.audit.matched(found)):
            told.records[place]["matched"] = one._asdict()
            told.lines[place] += f" {_matched_words(one)}"
    return told


def print_findings(answers: Answers[Told], form: Form, out: Path | None) -> None:
    """Findings of a store, or of each store of a folder by its name: as sentences, JSON or CSV."""
    if form is Form.json:
        records = {name: told.records for name, told in answers.items()}
        print_json(records[""] if answers.one else records, out)
    elif form is Form.csv:
        named = [
            {**({} if answers.one else {"store": name}), **record}
            for name, told in answers.items()
            for record in told.records
        ]
        print_records(named, form, _FINDING_COLUMNS, out)
    else:
        print_lines((line for name, told in answers.items() for line in _titled(name, told.lines)), out)


def _titled(name: str, lines: Sequence[str]) -> list[str]:
    """The name of a store of several, its lines, and an empty one."""
    said = list(lines) or ["no findings"]
    return [name, *said, ""] if name else said


def _matched_words(one: "Matched") -> str:
    if one.effect is None or one.low is None or one.high is None:
        return f"Matched for the rest: {one.outcome}."
    effect, low, high = (round(100 * value) for value in (one.effect, one.low, one.high))
    return f"Matched for the rest {effect} points [{low}, {high}]."


# --- slices ---------------------------------------------------------------------------------------------


def write_slices(query: "Query", found: "Sequence[Finding]", folder: Path, kind: str) -> list[dict[str, Any]]:
    """``slices`` and ``label_suspects`` in ``folder``, as ``csv`` or ``parquet``; file and rows of each.

    Slices are written shard by shard: memory does not grow with their number. Raises StorageUnavailable, or
    StorageFull.
    """
    suspects = query.audit.label_suspects()
    written = []
    for name, schema, batches in (
        ("slices", SLICES, query.audit.slice_batches(found)),
        ("label_suspects", suspects.schema, suspects.to_batches()),
    ):
        path, what = folder / f"{name}.{kind}", "The slices cannot be written"
        with os_errors(what, folder):
            folder.mkdir(parents=True, exist_ok=True)
        with new_file(path, what) as file:
            rows = (write_csv if kind == "csv" else _write_parquet)(file, schema, batches)
        written.append({"file": path, "rows": rows})
    return written


def _write_parquet(file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """The number of rows."""
    rows = 0
    with pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


# --- the data alone -------------------------------------------------------------------------------------


def print_data(query: "Query", top: int, near: float, form: Form, out: Path | None) -> None:
    """Associations of classes and texts in the images, and double images."""
    every = [_association_record(query, one) for one in query.audit.associations()[:top]]
    if form is Form.csv:
        print_records(every, form, ["class_name", "text"], out)
        return
    doubles = query.audit.doubles(near)
    if form is Form.json:
        print_json({"associations": every, "doubles": [asdict(one) for one in doubles]}, out)
    else:
        lines = [_association_line(one) for one in every] or ["nothing goes together"]
        print_lines([*lines, *_double_lines(query, doubles)], out)


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
    text. Raises StorageUnavailable, or StorageFull."""
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
    with new_file(path, "The head cannot be written") as file:
        file.write(data)


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
    say(f"on {number(made.held_out)} images held out (head made on {number(made.fitted)}):")
    say(f"  accuracy     {percent(made.accuracy_before)} -> {percent(made.accuracy_after)}")
    say(f"  worst group  {percent(made.worst_before)} -> {percent(made.worst_after)}")
    shown = [{**row, "before": percent(row["before"]), "after": percent(row["after"])} for row in groups]
    columns = ["group", "n", "before", "after"]
    say(*Aligned(columns).lines([[row[name] for name in columns] for row in shown]))
    if made.unbalanced:
        say(f"classes with a text in all or none of their images (nothing to weigh): {made.unbalanced}")
    say(f"wrote {out}")


def _group_name(query: "Query", finding: "Finding", one: "GroupAccuracy") -> str:
    class_name, text = query.audit.pair(finding)
    own = class_name if one.of_class else f"not {class_name}"
    return f"{own}, {'with' if one.with_text else 'without'} {text}"
