"""The commands that ask a finished store. A command parses, calls one function and prints.

What a command needs is imported when it runs: `textcam --help` must not wait for it.
"""

import sys
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.options import AnswerFile, AsCsv, AsJson, AsLines, Store, Stores, TrustCode
from service.output import os_errors, say, say_error
from service.places import ask_each, section
from store.errors import ConfigError, TextcamError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from textcam.query import Explanation, Query


class Among(StrEnum):
    """What `search` looks through."""

    channels = "channels"
    groups = "groups"
    classes = "classes"
    images = "images"
    texts = "texts"


def explain(
    store: Store,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Image files, or ids or URIs of the store's own.")
    ],
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Class to explain (default: the predicted).")
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Words, and groups shown, per image.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Write the maps over the image here, as PNG."),
    ] = None,
    of_map: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="A map of another tool (.npy, h x w) over one image."),
    ] = None,
    as_json: AsJson = False,
    as_lines: AsLines = False,
    trust_code: TrustCode = False,
) -> None:
    """Say in words what was looked for in images; draw where.

    Example: textcam explain runs/birds photo.jpg --class heron -o overlays
    """
    from service.originals import Originals
    from service.overlays import stem_of, write_overlays
    from service.printing import explanation_lines, explanation_record
    from service.rows import json_of, print_json
    from textcam.query import Query

    opened = store.open()
    originals = cache(lambda: Originals(opened.manifest.config))  # made if an original is needed
    query = Query(opened, lambda uri: originals()(uri), trust_code=trust_code)
    if class_name is not None:
        query.class_id(class_name)  # a wrong name is one error, not one for each image
    given = None if of_map is None else _map_of(of_map, images)
    records, failure, taken = [], 0, set[str]()
    for name in images:
        try:
            found = _explain_one(query, name, class_name, top, maps=out is not None, of_map=given)
            files = [] if out is None else write_overlays(found, stem_of(name, taken), out, top)
        except TextcamError as error:  # one bad image does not cost its neighbours their answers
            say_error(error)
            failure = failure or error.exit_code
            continue
        if as_json:
            records.append(explanation_record(found, name, files, top))
        elif as_lines:
            say(json_of(explanation_record(found, name, files, top), None))
        else:
            say(*explanation_lines(found, name, files, top))
    if as_json:
        print_json(records)
    if failure:
        raise SystemExit(failure)


def _explain_one(
    query: "Query",
    name: str,
    class_name: str | None,
    top: int,
    *,
    maps: bool,
    of_map: "NDArray[Any] | None" = None,
) -> "Explanation":
    """``name`` is an image file, or else the id or URI of an image of the store."""
    image = name if Path(name).is_file() else query.image_id(name)
    if of_map is not None:
        return query.explain_map(of_map, image, class_name, top)
    return query.explain_image(image, class_name, top, maps=maps)


def _map_of(file: Path, images: list[str]) -> "NDArray[Any]":
    """The array of a .npy file; ConfigError if it cannot be read, or is meant for several images."""
    import numpy as np

    if len(images) != 1:
        raise ConfigError(f"One map, and {len(images)} images.", where="--map", fix="Name one image.")
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The map cannot be read: {error}.", where=file, fix="Save it with numpy.save, as floats (h, w)."
        ) from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise ConfigError("The file holds no array of numbers.", where=file, fix="Save one with numpy.save.")
    return found


def search(
    store: Store,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Any words.")],
    among: Annotated[Among, typer.Option("--in", help="What to search.")] = Among.channels,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many matches.")] = 10,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    out: AnswerFile = None,
    trust_code: TrustCode = False,
) -> None:
    """Find channels, groups, classes, images or texts.

    Those nearest to any words, best first.

    Example: textcam search runs/birds water --in classes
    """
    from dataclasses import asdict

    from service.rows import Form, print_records

    query = store.query(trust_code=trust_code)
    matches = [asdict(one) for one in query.search(text, among=among.value, top=top)]
    form = Form.of(as_json=as_json, as_csv=as_csv)
    print_records(matches, form, ["id", "similarity", "label"], out)


def report(
    store: Stores,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write the pages into.")],
    as_json: AsJson = False,
) -> None:
    """Write a report that opens from disk, without a server.

    A folder of several classifiers' stores becomes one report that shows them side by side. DIR is new, or
    empty, or holds an earlier report, of which nothing stays.

    Example: textcam report runs/birds -o report
    """
    from service.pages import write_report
    from service.rows import print_json

    (label, first), *others = ((name, one.open()) for name, one in store.stores().items())
    index = write_report(first, out, label=label or None, compare_with=others)
    if as_json:
        print_json({"index": index})
    else:
        say(str(index))


def info(store: Stores, as_json: AsJson = False) -> None:
    """Say what a store holds: images, models, tables.

    Example: textcam info runs/birds
    """
    from service.printing import info_lines
    from service.rows import print_json

    told = ask_each(store, lambda one: one.query().info())
    if as_json:
        print_json(told[""] if told.one else told)
    else:
        for name, facts in told.items():
            with section(name):
                say(*info_lines(facts))
    if told.code:
        raise SystemExit(told.code)


def sql(
    store: Store,
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", help="One SELECT over the tables (DuckDB); - reads it from stdin."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", metavar="FILE", help="Read the query from FILE.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Stop the query after so long.")
    ] = 600,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.001, metavar="GIB", help="Memory that it may use (default: half of what there is)."
        ),
    ] = None,
    as_json: AsJson = False,
    as_lines: AsLines = False,
    as_csv: AsCsv = False,
    out: AnswerFile = None,
) -> None:
    """Ask the tables anything in SQL, read-only.

    Rows are printed as they come. Of columns of one name the later ones get numbers: class_id, class_id_1.

    Example: textcam sql runs/birds "SELECT name, accuracy FROM classes ORDER BY accuracy LIMIT 5"
    """
    from service.rows import Form, print_batches
    from store.sql import MEMORY, SqlSource

    text = _query_text(query, file)
    source = SqlSource(store.open())
    allowed = MEMORY if memory is None else f"{memory * 1024:.0f} MiB"
    with source.stream(text, seconds=seconds, memory=allowed) as answer:
        form = Form.of(as_json=as_json, as_csv=as_csv, as_lines=as_lines)
        print_batches(answer.schema, answer.batches, form, out)


def _query_text(query: str | None, file: Path | None) -> str:
    if file is None and query is None:
        raise ConfigError(
            "There is no query.", where="QUERY", fix="Write one, or - to read it from stdin, or -f FILE."
        )
    try:
        if query == "-":
            return sys.stdin.read()
        if file is None:
            return query or ""
        with os_errors("The query cannot be read", file):
            return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"The query is no UTF-8 text: {error}.", where=file or "stdin") from None
