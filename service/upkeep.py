"""The commands that keep a store: add images, compare, prune. A command parses, calls one function, prints.

What a command needs is imported when it runs: `textcam --help` must not wait for it.
"""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.options import AsJson, Stores, TrustCode, WholeStore
from service.output import say
from service.places import Place, ask_each


class Layout(StrEnum):
    """How images lie: `images.format` of a configuration."""

    folder = "folder"
    webdataset = "webdataset"
    parquet = "parquet"
    csv = "csv"


class Labels(StrEnum):
    """Whether labels are taken from the source, as in `images.labels`."""

    auto = "auto"
    none = "none"


def add(
    store: WholeStore,
    images: Annotated[str, typer.Option("--images", metavar="URI", help="Folder, list or URI.")],
    layout: Annotated[Layout, typer.Option("--layout", help="How they lie there.")] = Layout.folder,
    labels: Annotated[Labels, typer.Option(help="Whether folders or columns say the class.")] = Labels.auto,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="CONFIG", help="Take how to run (its section run) from this file."),
    ] = None,
    as_json: AsJson = False,
    trust_code: TrustCode = False,
) -> None:
    """Add images to a store, as a new snapshot.

    What was done for the old images is kept, and they need not be there any more; words and findings are of
    all images. Images that the store has already are passed over.

    Example: textcam add runs/birds --images /data/birds-2025
    """
    from pipelines.config import ImagesSection, RunSection
    from pipelines.config_file import load_config
    from pipelines.grow import add as add_images
    from service.printing import print_summary
    from service.progress import ProgressDisplay

    whole = store.whole("Images are added to the newest snapshot.")
    section = ImagesSection(uri=images, format=layout.value, labels=labels.value)
    run = RunSection() if config is None else load_config(config).run
    try:
        with ProgressDisplay() as display:
            summary = add_images(whole, section, run, display, trust_code=trust_code)
    except KeyboardInterrupt:
        say("stopped; what is finished is kept. To go on, run the same command again.", err=True)
        raise SystemExit(130) from None
    print_summary(summary, as_json)
    if not as_json and summary.new:
        say(f"next: textcam diff {store}@{summary.snapshot - 1} {store}")
    elif not as_json:
        say("nothing new: all of these images are in the store already")


_EITHER = "A store, or its snapshot N as STORE@N."


def diff(
    a: Annotated[Place, typer.Argument(parser=Place.of, metavar="STORE", help=_EITHER)],
    b: Annotated[Place, typer.Argument(parser=Place.of, metavar="OTHER", help="The same store, or another.")],
    top: Annotated[
        int, typer.Option(min=1, metavar="N", help="Classes, and findings of each kind, shown.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two stores or snapshots.

    Images, models, settings, accuracy and words of classes, findings: of two checkpoints of a model, say, or
    of a store before and after images were added.

    Example: textcam diff runs/birds@1 runs/birds
    """
    from service.changes import diff_lines
    from service.rows import print_json
    from textcam.diff import diff as compare

    found = compare(a.open(), b.open())
    if as_json:
        print_json(found)
    else:
        say(*diff_lines(found, top))


def compare(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="STORE", help="Two stores; or a folder of stores, and two names in it."),
    ],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Rows shown of each kind.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Say what two classifiers have in common.

    Channels that look for the same thing, concepts that only one of them has, classes and images that both
    explain alike. Both stores must have been made with the same encoder and texts.

    Example: textcam compare runs/birds resnet50 vit
    """
    from service.compared import comparison_lines
    from service.rows import print_json
    from store.collection import pair
    from textcam.compare import compare as compared

    a, b = map(Place.of, pair(stores))
    found = compared(a.open(), b.open())
    if as_json:
        print_json(found)
    else:
        say(*comparison_lines(found, top))


def verify(store: Stores, as_json: AsJson = False) -> None:
    """Check every file of a store; exit code 1 if one is bad.

    Example: textcam verify runs/birds
    """
    from dataclasses import asdict

    from service.places import section
    from service.rows import print_json
    from store.verify import verify as verify_store

    problems = ask_each(store, lambda one: verify_store(one.uri, one.snapshot))
    if as_json:
        found = {name: [asdict(problem) for problem in some] for name, some in problems.items()}
        print_json(found[""] if problems.one else found)
    else:
        for name, some in problems.items():
            with section(name):
                say(*(f"{problem.kind}: {problem.where}: {problem.what}" for problem in some))
                say(f"problems: {len(some)}" if some else "ok")
    if code := problems.code or int(any(problems.values())):
        raise SystemExit(code)


def prune(
    store: Stores,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="How many snapshots to keep.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="How long ended runs' files are kept.")
    ] = 24,
    even_beside_a_run: Annotated[
        bool, typer.Option("--even-beside-a-run", help="Although a run seems to be at work on the store.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Drop old snapshots and files that nothing needs.

    The newest snapshots are kept, with all that a later run needs to go on from them. Nothing is dropped
    while a run is at work on the store, unless you say so: it does again what it loses.

    Example: textcam prune runs/birds --keep 2 --dry-run
    """
    from service.printing import print_named
    from store.prune import Pruned
    from store.prune import prune as prune_store
    from store.storage import open_storage

    def drop(one: Place) -> Pruned:
        uri = one.whole("A store is pruned, not one of its snapshots.")
        return prune_store(
            open_storage(uri),
            keep,
            dry_run=dry_run,
            grace=timedelta(hours=grace),
            even_beside_a_run=even_beside_a_run,
        )

    done = ask_each(store, drop)
    print_named(done, as_json)
    if done.code:
        raise SystemExit(done.code)
