"""How answers read: a run's summary, and the lines and records of an explanation, a finding, a store.

Only plain text: what is printed is the same on a terminal and in a pipe. Rows are printed by ``rows``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.output import say
from service.places import section
from service.rows import print_json
from service.wording import FindingRow, in_doubt, number, percent

if TYPE_CHECKING:
    from textcam.answers import Explanation, GroupWords, Word
    from textcam.audit import Finding
    from textcam.query import Query

SHOWN = 8  # entries of a list in a summary


def print_summary(summary: Any, as_json: bool) -> None:
    """A run's plan or outcome, one line a field."""
    if as_json:
        print_json(summary)
        return
    told = [(field.name, getattr(summary, field.name)) for field in fields(summary)]
    width = max(len(name) for name, _ in told)
    for name, value in told:
        say(f"{name.replace('_', ' '):<{width}}  {_amount(name, value)}")


def print_named(summaries: Mapping[str, Any], as_json: bool) -> None:
    """Plans or outcomes by name; the name "" is that of the only one."""
    if "" in summaries:
        print_summary(summaries[""], as_json)
    elif as_json:
        print_json({name: asdict(one) for name, one in summaries.items()})
    else:
        for name, one in summaries.items():
            with section(name):
                print_summary(one, as_json)


def _amount(name: str, value: Any) -> str:
    if name.endswith("bytes") and isinstance(value, int | float):
        return byte_count(value)
    if name.endswith("seconds") and isinstance(value, int | float):
        return duration(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_amount(key, one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        more = [f"{number(len(value) - SHOWN)} more (--json has them)"] if len(value) > SHOWN else []
        return ", ".join([*(str(one) for one in value[:SHOWN]), *more]) or "none"
    return str(value)


def byte_count(size: float) -> str:
    """Bytes for reading: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration(seconds: float) -> str:
    """Time for reading: 7.3 -> '7.3 s', 4000 -> '1 h 07 min'."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


# --- explanations -----------------------------------------------------------------------------------------


def explanation_lines(found: "Explanation", name: str, files: Sequence[Path], top: int) -> list[str]:
    """One explained image: the class, its words, its strongest groups, and the pictures that were written."""
    logit = "" if found.logit is None else f" (logit {found.logit:.2f})"
    said = _said(found.words, sure=found.confidence)
    lines = [f"{found.uri or name}: {found.class_name}{logit}", f"  {'words':<9}        {said}"]
    for group in found.groups[:top]:
        part = percent(group.share) if group.contribution > 0 else "against"
        said = _said(group.words[:3], amounts=False, sure=group.confidence)
        lines.append(f"  {f'group {group.group_id}':<9} {part:>7}  {said}")
    if found.residual is not None:
        lines.append(f"  {percent(found.residual)} of the map is in no sum of the layer's maps")
    return [*lines, *(f"  wrote {file}" for file in files)]


def _said(words: "Sequence[Word]", *, amounts: bool = True, sure: float | None = None) -> str:
    if not words:
        return "(no words fit)"
    each = (f"{word.text} {word.coefficient:.2f}" if amounts else word.text for word in words)
    return in_doubt(", ".join(each), sure)


def explanation_record(found: "Explanation", name: str, files: Sequence[Path], top: int) -> dict[str, Any]:
    """The same for JSON; maps stay in their files."""
    return {
        "image": found.uri or name,
        "image_id": found.image_id,
        "class_id": found.class_id,
        "class_name": found.class_name,
        "logit": found.logit,
        "confidence": found.confidence,
        "words": [_word_record(word) for word in found.words],
        "groups": [_group_record(group) for group in found.groups[:top]],
        "files": files,
        **({} if found.residual is None else {"residual": found.residual}),
    }


def _group_record(group: "GroupWords") -> dict[str, Any]:
    return {**asdict(group), "words": [_word_record(word) for word in group.words]}


def _word_record(word: "Word") -> dict[str, Any]:
    return {name: value for name, value in asdict(word).items() if value is not None}


# --- findings ---------------------------------------------------------------------------------------------


def finding_row(query: "Query", finding: "Finding") -> FindingRow:
    """A finding with the names of its class and text, and its mark."""
    pair = query.audit.pair(finding)
    return FindingRow(finding, *pair, query.audit.marks.get(pair))


def finding_record(row: FindingRow) -> dict[str, Any]:
    """A finding for JSON and CSV: the table's columns, the names, and the sentence."""
    named: dict[str, Any] = {"class_name": row.class_name, "text": row.text, "sentence": row.sentence}
    named |= {"mark": row.mark.said if row.mark else None, "note": row.mark.note if row.mark else None}
    return {**asdict(row.finding), **named}


def finding_line(row: FindingRow) -> str:
    """A finding as a person reads it."""
    return f"{row.finding.rank:>3}. {row.sentence}"


def model_lines(query: "Query", title: str, *, words: int = 3, findings: int = 5) -> list[str]:
    """A whole store in short: what each class is seen by, and its first findings."""
    described = [query.describe_class(class_id) for class_id in range(query.classes)]
    width = max(len(one.name) for one in described)
    lines = [f"{title} sees"]
    for one in described:
        said = ", ".join(f"{word.text} {percent(word.share)}" for word in one.words[:words])
        said = in_doubt(said, one.confidence) if said else "(no words fit)"
        lines.append(f"  {one.name:<{width}}  by {said}")
    rows = [finding_row(query, finding) for finding in query.findings()[:findings]]
    return [*lines, "and its findings are", *(map(finding_line, rows) if rows else ["  none"])]


def info_lines(told: Mapping[str, Any]) -> list[str]:
    """What ``Query.info`` tells, for reading."""
    tables, config, dims = told["tables"], told["config"], told["dims"]
    rows = {name: table["rows"] for name, table in tables.items()}
    lines = [
        f"store       {told['store']}",
        f"snapshot    {told['snapshot']} (format {told['format_version']})",
        f"images      {number(rows.get('images', 0))}, not used: {number(rows.get('errors', 0))}",
        f"classifier  {_model(config, 'classifier')}: {number(dims['channels'])} channels in "
        f"{number(rows.get('groups', 0))} groups, {number(rows.get('classes', 0))} classes",
        f"encoder     {_model(config, 'encoder')}: {number(dims['embedding'])} numbers, "
        f"{number(rows.get('texts', 0))} texts",
        f"findings    {number(rows.get('findings', 0))}",
        f"size        {byte_count(sum(table['bytes'] for table in tables.values()))}",
    ]
    width = max(len(name) for name in tables) if tables else 0
    return lines + [
        f"  {name:<{width}}  {number(table['rows']):>12} rows  {byte_count(table['bytes']):>10}"
        for name, table in tables.items()
    ]


def _model(config: Mapping[str, Any], name: str) -> str:
    section = config.get(name, {})
    weights = section.get("weights")
    return section.get("model", "unknown") + (f" ({weights})" if weights else "")
