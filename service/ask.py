"""The commands that ask a finished store. A command parses, calls one function and prints.

What a command needs is imported when it runs: `textcam --help` must not wait for it.
"""

import sys
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.options import AsJson, CsvFile, SnapshotNumber, Store, TrustCode
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
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, or ids or URIs of the store's own.")
    ],
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Class to explain (default: the predicted).")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Words, and groups shown, per image.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the maps over the image here, as PNG.")
    ] = None,
    of_map: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="A map of another tool (.npy, h x w) over one image."),
    ] = None,
    as_json: AsJson = False,
    snapshot: SnapshotNumber = None,
    trust_code: TrustCode = False,
) -> None:
    """Say in words what was looked for in images; draw where.

    Example: textcam explain runs/birds photo.jpg --class heron --out overlays
    """
    from service.originals import Originals
    from service.overlays import stem_of, write_overlays
    from service.printing import explanation_lines, explanation_record, print_json
    from store.reader import Snapshot
    from textcam.query import Query

    opened = Snapshot.open(store, snapshot)
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
            print(f"error: {error}", file=sys.stderr)
            failure = failure or error.exit_code
            continue
        if as_json:
            records.append(explanation_record(found, name, files, top))
        else:
            print("\n".join(explanation_lines(found, name, files, top)))
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
    top: Annotated[int, typer.Option(min=1, help="How many matches.")] = 10,
    as_json: AsJson = False,
    snapshot: SnapshotNumber = None,
    trust_code: TrustCode = False,
) -> None:
    """Find channels, groups, classes, images or texts.

    Those nearest to any words, best first.

    Example: textcam search runs/birds water --in classes
    """
    from dataclasses import asdict

    from service.printing import print_json, print_rows
    from textcam.query import Query

    query = Query.open(store, snapshot, trust_code=trust_code)
    matches = [asdict(one) for one in query.search(text, among=among.value, top=top)]
    if as_json:
        print_json(matches)
    else:
        print_rows(matches, ["id", "similarity", "label"])


def report(
    store: Store,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write the pages into.")],
) -> None:
    """Write a report that opens from disk, without a server.

    A folder of several classifiers' stores becomes one report that shows them side by side.

    Example: textcam report runs/birds report
    """
    from service.pages import write_report
    from store.collection import read_names
    from store.storage import open_storage

    names = read_names(open_storage(store))
    if not names:
        print(write_report(store, folder))
        return
    (label, first), *others = ((name, f"{store.rstrip('/')}/{name}") for name in names)
    print(write_report(first, folder, label=label, compare_with=others))


def info(store: Store, as_json: AsJson = False, snapshot: SnapshotNumber = None) -> None:
    """Say what a store holds: images, models, tables.

    Example: textcam info runs/birds
    """
    from service.printing import info_lines, print_json
    from textcam.query import Query

    told = Query.open(store, snapshot).info()
    if as_json:
        print_json(told)
    else:
        print("\n".join(info_lines(told)))


def sql(
    store: Store,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT over the tables (DuckDB).")],
    as_json: AsJson = False,
    csv: CsvFile = None,
    snapshot: SnapshotNumber = None,
) -> None:
    """Ask the tables anything in SQL, read-only.

    Example: textcam sql runs/birds "SELECT name, accuracy FROM classes ORDER BY accuracy LIMIT 5"
    """
    from service.printing import print_json, print_rows, write_csv
    from textcam.query import Query

    answer = Query.open(store, snapshot).sql(query)
    rows = answer.to_pylist()
    if csv is not None:
        write_csv(rows, csv, answer.column_names)
    if as_json:
        print_json(rows)
    elif csv is None:
        print_rows(rows, answer.column_names)
