"""The commands of the audit: read findings, their images and the data; mark them; correct the head. A command
parses, calls one function, prints.

What a command needs is imported when it runs: `textcam --help` must not wait for it.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.options import AnswerFile, AsCsv, AsJson, Store, Stores, WholeStore
from service.output import say
from service.places import ask_each

Name = Annotated[str, typer.Argument(metavar="FINDING", help="A finding, as CLASS:TEXT or by its rank.")]
_KEPT_WITH_STORE = "Marks are of the whole store, not of one of its snapshots."


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
    store: Stores,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many findings.")] = 20,
    matched: Annotated[
        bool, typer.Option("--matched", help="Also compare accuracies matched for all other concepts.")
    ] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    out: AnswerFile = None,
) -> None:
    """Print the findings: what classes go by, ranked.

    A finding is evidence of a class that is not the class itself, a background or a watermark, say.

    Example: textcam audit runs/birds --top 10 --csv -o findings.csv
    """
    from service.audit_printing import print_findings, told_findings
    from service.rows import Form

    told = ask_each(store, lambda one: told_findings(one.query(), top, matched=matched))
    print_findings(told, Form.of(as_json=as_json, as_csv=as_csv), out)
    if told.code:
        raise SystemExit(told.code)


def data(
    store: Store,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many pairs of class and text.")] = 20,
    near: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="COSINE", help="From which cosine images are near doubles."),
    ] = 0.99,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    out: AnswerFile = None,
) -> None:
    """Audit the images alone: what goes together, doubles.

    Classes and texts that go together, whatever the model makes of it, and images that are there twice. CSV
    has the pairs of class and text.

    Example: textcam data runs/birds --near 0.95
    """
    from service.audit_printing import print_data
    from service.rows import Form

    print_data(store.query(), top, near, Form.of(as_json=as_json, as_csv=as_csv), out)


def slices(
    store: Store,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where the two tables go.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="FINDING", help="Findings, as CLASS:TEXT or by their ranks."),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many findings, where none is named.")
    ] = 20,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV (default: Parquet).")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the images behind the findings, by your URIs.

    The table slices has a row for each finding and image that follows, breaks or fails by it;
    label_suspects has the images whose label is in doubt.

    Example: textcam slices runs/birds heron:water -o slices --csv
    """
    from service.audit_printing import write_slices
    from service.rows import print_json

    query = store.query()
    found = [query.audit.finding(name) for name in names] if names else query.findings()[:top]
    written = write_slices(query, found, out, "csv" if as_csv else "parquet")
    if as_json:
        print_json(written)
    else:
        say(*(f"wrote {one['file']}: {one['rows']} rows" for one in written))


def mark(
    store: WholeStore,
    name: Name,
    said: Annotated[Said, typer.Argument(metavar="MARK", help="What it is: core, spurious or unclear.")],
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why, in a few words.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say whether a finding is the class itself or a shortcut.

    It is kept with the store and shown with the finding, in later snapshots too. What is marked as core sinks
    to the end of the findings; marking again overrides, `textcam unmark` takes it back.

    Example: textcam mark runs/birds heron:water spurious --note "all photos are from one lake"
    """
    from service.rows import print_json
    from textcam.query import Query

    query = Query.open(store.whole(_KEPT_WITH_STORE))
    made = query.audit.mark(query.audit.finding(name), said.value, note)
    if as_json:
        print_json(made)
    else:
        say(f"marked {made.class_name}:{made.text} as {made.said}")


def marks(store: WholeStore, as_json: AsJson = False, as_csv: AsCsv = False, out: AnswerFile = None) -> None:
    """List what people said about findings.

    Example: textcam marks runs/birds
    """
    from dataclasses import asdict

    from service.rows import Form, print_lines, print_records
    from store.marks import marks as read_marks
    from store.storage import open_storage

    found = read_marks(open_storage(store.whole(_KEPT_WITH_STORE)))
    columns = ["class_name", "text", "said", "note"]
    records = [asdict(found[pair]) for pair in sorted(found)]
    form = Form.of(as_json=as_json, as_csv=as_csv)
    if form is Form.table and not records:
        print_lines(["no marks"], out)
    else:
        print_records(records, form, columns, out)


def unmark(store: WholeStore, name: Name, as_json: AsJson = False) -> None:
    """Take back what was said about a finding.

    Example: textcam unmark runs/birds heron:water
    """
    from service.rows import print_json
    from textcam.query import Query

    made = Query.open(store.whole(_KEPT_WITH_STORE)).audit.unmark(name)
    if as_json:
        print_json(made)
    else:
        say(f"{made.class_name}:{made.text} is not marked any more")


def suppress(
    store: Store,
    names: Annotated[
        list[str], typer.Argument(metavar="FINDING", help="Findings, as CLASS:TEXT or by their ranks.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="Where the head goes (.safetensors).")
    ],
    method: Annotated[How, typer.Option(help="Fit the head anew, or project the texts out.")] = How.refit,
    lose: Annotated[
        float,
        typer.Option(
            min=0, max=100, metavar="POINTS", help="Points of average accuracy that a refit may lose."
        ),
    ] = 1.0,
    prefix: Annotated[
        str, typer.Option(metavar="NAME", help='Name of the layer in your model, e.g. "fc": key "fc.weight".')
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write a last layer without these shortcuts.

    Reports accuracy and the worst group before and after on images that were held out.

    Example: textcam suppress runs/birds heron:water 3 -o head.safetensors --prefix fc
    """
    from service.audit_printing import print_suppressed, write_head

    query = store.query()
    found = [query.audit.finding(name) for name in names]
    made = query.audit.suppress(found, method.value, lose / 100)
    write_head(query, found, made, out, prefix)
    print_suppressed(query, found, made, out, as_json)
