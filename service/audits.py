"""The commands of the audit: read findings, their images and the data; mark them; correct the head. A command
parses, calls one function, prints.

What a command needs is imported when it runs: `textcam --help` must not wait for it.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.options import AsJson, CsvFile, SnapshotNumber, Store

Names = Annotated[
    list[str], typer.Argument(metavar="FINDING...", help="Findings, as CLASS:TEXT or by their ranks.")
]


class FileFormat(StrEnum):
    """What slices are written as."""

    parquet = "parquet"
    csv = "csv"


class How(StrEnum):
    """How a head is corrected; see ``textcam.suppress``."""

    refit = "refit"
    project = "project"


class Said(StrEnum):
    """What a finding can be marked as."""

    core = "core"
    spurious = "spurious"
    unclear = "unclear"


def audit(
    store: Store,
    top: Annotated[int, typer.Option(min=1, help="How many findings.")] = 20,
    matched: Annotated[
        bool, typer.Option("--matched", help="Also compare accuracies matched for all other concepts.")
    ] = False,
    slices: Annotated[
        Path | None,
        typer.Option("--slices", metavar="DIR", help="Write the images behind the findings into DIR."),
    ] = None,
    file_format: Annotated[FileFormat, typer.Option("--format", help="Of the slices.")] = FileFormat.parquet,
    data: Annotated[
        bool, typer.Option("--data", help="Audit the images alone: what goes together, and doubles.")
    ] = False,
    near: Annotated[
        float, typer.Option(min=0, max=1, help="With --data: cosine from which images are near doubles.")
    ] = 0.99,
    as_json: AsJson = False,
    csv: CsvFile = None,
    snapshot: SnapshotNumber = None,
) -> None:
    """Print the findings: what classes go by, ranked.

    A finding is evidence of a class that is not the class itself, a background or a watermark, say.

    Example: textcam audit runs/birds --top 10 --csv findings.csv
    """
    from service.audit_printing import print_data, print_findings, write_slices
    from textcam.query import Query

    query = Query.open(store, snapshot)
    if data:
        print_data(query, top, near, as_json, csv)
        return
    found = query.findings()[:top]
    print_findings(query, found, matched=matched, as_json=as_json, csv=csv)
    if slices is not None:
        write_slices(query, found, slices, file_format.value, as_json=as_json)


def mark(
    store: Store,
    name: Annotated[str, typer.Argument(metavar="FINDING", help="A finding, as CLASS:TEXT or by its rank.")],
    said: Annotated[Said, typer.Argument(help="What it is.")],
    note: Annotated[str, typer.Option(help="Why, in a few words.")] = "",
) -> None:
    """Say whether a finding is the class itself or a shortcut.

    It is kept with the store and shown with the finding, in later snapshots too. What is marked as core sinks
    to the end of the findings; marking again overrides.

    Example: textcam mark runs/birds heron:water spurious --note "all photos are from one lake"
    """
    from textcam.query import Query

    query = Query.open(store)
    made = query.audit.mark(query.audit.finding(name), said.value, note)
    print(f"marked {made.class_name}:{made.text} as {made.said}")


def suppress(
    store: Store,
    names: Names,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the head goes (.safetensors).")],
    method: Annotated[How, typer.Option(help="Fit the head anew, or project the texts out.")] = How.refit,
    lose: Annotated[
        float, typer.Option(min=0, max=100, help="Points of average accuracy that a refit may lose.")
    ] = 1.0,
    prefix: Annotated[
        str, typer.Option(metavar="NAME", help='Name of the layer in your model, e.g. "fc": key "fc.weight".')
    ] = "",
    as_json: AsJson = False,
    snapshot: SnapshotNumber = None,
) -> None:
    """Write a last layer without these shortcuts.

    Reports accuracy and the worst group before and after on images that were held out.

    Example: textcam suppress runs/birds heron:water 3 --out head.safetensors --prefix fc
    """
    from service.audit_printing import print_suppressed, write_head
    from textcam.query import Query

    query = Query.open(store, snapshot)
    found = [query.audit.finding(name) for name in names]
    made = query.audit.suppress(found, method.value, lose / 100)
    write_head(query, found, made, out, prefix)
    print_suppressed(query, found, made, out, as_json)
