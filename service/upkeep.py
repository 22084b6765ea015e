"""The commands that keep a store: add images, compare, prune. A command parses, calls one function, prints.

What a command needs is imported when it runs: `textcam --help` must not wait for it.
"""

import sys
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.options import AsJson, Store, TrustCode


class Layout(StrEnum):
    """How images lie, as in `images.format` of a configuration."""

    folder = "folder"
    webdataset = "webdataset"
    parquet = "parquet"
    csv = "csv"


class Labels(StrEnum):
    """Whether labels are taken from the source, as in `images.labels`."""

    auto = "auto"
    none = "none"


def add(
    store: Store,
    images: Annotated[str, typer.Option("--images", metavar="URI", help="Folder, list or URI.")],
    layout: Annotated[Layout, typer.Option("--format", help="How they lie there.")] = Layout.folder,
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

    section = ImagesSection(uri=images, format=layout.value, labels=labels.value)
    run = RunSection() if config is None else load_config(config).run
    try:
        with ProgressDisplay() as display:
            summary = add_images(store, section, run, display, trust_code=trust_code)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept. To go on, run the same command again.", file=sys.stderr)
        raise SystemExit(130) from None
    print_summary(summary, as_json)
    if not as_json and summary.new:
        print(f"next: textcam diff {store} {store} --snapshot-a {summary.snapshot - 1}")
    elif not as_json:
        print("nothing new: all of these images are in the store already")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Folder or URI of a store.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same store, or another one.")],
    snapshot_a: Annotated[
        int | None, typer.Option(metavar="N", help="An older snapshot of A (default: the newest).")
    ] = None,
    snapshot_b: Annotated[
        int | None, typer.Option(metavar="N", help="An older snapshot of B (default: the newest).")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes, and findings of each kind, shown.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two stores or snapshots.

    Images, models, settings, accuracy and words of classes, findings: of two checkpoints of a model, say, or
    of a store before and after images were added.

    Example: textcam diff runs/epoch10 runs/epoch20
    """
    from service.changes import diff_lines
    from service.printing import print_json
    from store.reader import Snapshot
    from textcam.diff import diff as compare

    found = compare(Snapshot.open(a, snapshot_a), Snapshot.open(b, snapshot_b))
    if as_json:
        print_json(found)
    else:
        print("\n".join(diff_lines(found, top)))


def compare(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="A B", help="Two stores; or a folder of stores, and two names in it."),
    ],
    top: Annotated[int, typer.Option(min=1, help="Rows shown of each kind.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Say what two classifiers have in common.

    Channels that look for the same thing, concepts that only one of them has, classes and images that both
    explain alike. Both stores must have been made with the same encoder and texts.

    Example: textcam compare runs/birds resnet50 vit
    """
    from service.compared import comparison_lines
    from service.printing import print_json
    from store.collection import pair
    from store.reader import Snapshot
    from textcam.compare import compare as compared

    a, b = pair(stores)
    found = compared(Snapshot.open(a), Snapshot.open(b))
    if as_json:
        print_json(found)
    else:
        print("\n".join(comparison_lines(found, top)))


def prune(
    store: Store,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="How many snapshots to keep.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="How long ended runs' files are kept.")
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Drop old snapshots and files that nothing needs.

    The newest snapshots are kept, with all that a later run needs to go on from them. Nothing is dropped
    while a run is at work on the store.

    Example: textcam prune runs/birds --keep 2 --dry-run
    """
    from service.printing import print_summary
    from store.prune import prune as prune_store
    from store.storage import open_storage

    done = prune_store(open_storage(store), keep, dry_run=dry_run, grace=timedelta(hours=grace))
    print_summary(done, as_json)
