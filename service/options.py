"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[str, typer.Argument(metavar="STORE", help="Folder or s3:// URI of a store.")]
ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML configuration (`textcam init` writes one).")
]
SnapshotNumber = Annotated[
    int | None, typer.Option("--snapshot", metavar="N", help="An older snapshot (default: the newest).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Run code that the store names for its models (python: and the like)."),
]
CsvFile = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write CSV to FILE.")]
