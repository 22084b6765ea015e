"""The command line: `textcam COMMAND`. Data on stdout, progress and errors on stderr.

Commands that ask a finished store are in ``ask``; here are those that make, check and set up. What a
command needs is imported when it runs: `textcam --help` must not wait for it.
"""

import atexit
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from service import ask, audits, upkeep
from service.options import AsJson, Command, ConfigFile
from service.output import FULL, leave_by, new_file, say, say_error
from store.errors import ConfigError, TextcamError

app = typer.Typer(
    help="Says in words what a vision classifier looked for, for every image, class and channel.",
    epilog="Start with: textcam demo. Exit codes: 0 done, 1 failed, 2 wrong request, 3 disk full, 130 "
    "stopped.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: a named error becomes a message and an exit code; anything else is a bug and shows
    itself.
    """
    try:
        app(prog_name="textcam")
    except TextcamError as error:
        say_error(error)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        say(f"error: The answer cannot be printed: {error.strerror}.", err=True)
        raise SystemExit(leave_by(error)) from None


def entry() -> NoReturn:
    """The command `textcam`: ``main``, and out without taking the interpreter down.

    Arrow's threads let go of what they read from a Python file a moment after it was asked for. One that does
    so while the interpreter is taken down aborts the process, after all went well (one call in twenty).
    """
    code: int | str | None = 0
    try:
        main()
    except SystemExit as left:
        code = left.code
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError as error:  # nobody reads on, or no space where it goes
        code = code or leave_by(error)
    os._exit(code if isinstance(code, int) else int(code is not None))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"textcam {version('textcam')}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """What can be asked of `textcam` itself."""


# --- making a store ---------------------------------------------------------------------------------------


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where everything goes.")] = Path(
        "demo-out"
    ),
    as_json: AsJson = False,
) -> None:
    """See it work on rendered scenes: no download, no GPU.

    Renders images, explains a clean and a biased classifier, audits both and writes a report.

    Example: textcam demo -o /tmp/demo
    """
    from demo.run import main as run_demo
    from service.printing import model_lines
    from service.progress import ProgressDisplay
    from service.rows import print_json
    from textcam.query import Query

    with ProgressDisplay() as display:
        made = run_demo(out, display.named)
    if as_json:
        print_json(made)
        return
    for model in ("clean", "biased"):
        say(*model_lines(Query.open(made.stores[model]), f"The {model} model"))
    say(f"{made.images} images explained in {made.seconds:.0f} s. Open the report: {made.report}")
    biased = made.stores["biased"]
    say(f"next: textcam audit {biased}", f"      textcam search {biased} watermark --in classes")


@app.command(cls=Command)
def init(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where to write it.")] = Path(
        "textcam.yaml"
    ),
    images: Annotated[str, typer.Option(metavar="URI", help="Folder or URI of the images.")] = "/data/images",
    store: Annotated[str, typer.Option(metavar="URI", help="Where the store will be.")] = "textcam-store",
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented configuration to start from.

    Example: textcam init -o birds.yaml --images /data/birds --store runs/birds
    """
    from service.rows import print_json
    from service.starter import starter_config

    if out.exists() and not force:
        raise ConfigError("The file is already there.", where=out, fix="Name another file, or add --force.")
    with new_file(out, "The configuration cannot be written") as file:
        file.write(starter_config(images, store).encode())
    if as_json:
        print_json({"file": out})
    else:
        say(f"wrote {out}", f"next: textcam plan {out}")


@app.command(cls=Command)
def plan(config: ConfigFile, as_json: AsJson = False) -> None:
    """Say what a run would do and how long it would take.

    Example: textcam plan birds.yaml
    """
    from pipelines.config_file import load_configs
    from pipelines.estimate import plan as plan_run
    from pipelines.estimate import seconds_together
    from service.printing import duration, print_named

    plans = {name: plan_run(one) for name, one in load_configs(config).items()}
    print_named(plans, as_json)
    if not as_json:
        if "" not in plans:
            say(f"together  {duration(seconds_together(list(plans.values())))}: each image is decoded once")
        say(f"next: textcam precompute {config}")


@app.command(cls=Command)
def precompute(config: ConfigFile, as_json: AsJson = False) -> None:
    """Run a configuration: images and models in, store out.

    With a list of `classifiers`, each gets a store of its own below `store`, and images are decoded once for
    all. Run it again to go on where it stopped; what is finished is not done twice.

    Example: textcam precompute birds.yaml
    """
    from pipelines.config_file import load_configs
    from pipelines.run import precompute as precompute_one
    from pipelines.together import precompute_together
    from service.printing import print_named
    from service.progress import ProgressDisplay

    configs = load_configs(config)
    try:
        with ProgressDisplay() as display:
            if "" in configs:
                made = {"": precompute_one(configs[""], display)}
            else:
                made = precompute_together(configs, display.named)
    except KeyboardInterrupt:
        say(f"stopped; what is finished is kept. To go on: textcam precompute {config}", err=True)
        raise SystemExit(130) from None
    print_named(made, as_json)
    if not as_json:
        say(*next_after([one.store for one in configs.values()]))


def next_after(stores: list[str]) -> list[str]:
    """What to do with finished stores."""
    folder = stores[0].rpartition("/")[0] if len(stores) > 1 else stores[0]
    lines = [f"textcam audit {store}" for store in stores]
    lines += [f"textcam compare {stores[0]} {stores[1]}"] if len(stores) > 1 else []
    lines.append(f"textcam report {folder} -o report")
    return [f"{'next:' if number == 0 else '':<5} {line}" for number, line in enumerate(lines)]


for command in (
    *(upkeep.add, ask.explain, ask.search),
    *(audits.audit, audits.data, audits.slices, audits.mark, audits.marks, audits.unmark, audits.suppress),
    *(ask.report, ask.info, ask.sql, upkeep.diff, upkeep.compare, upkeep.verify, upkeep.prune),
):
    app.command(cls=Command)(command)


# --- this machine -----------------------------------------------------------------------------------------


@app.command(cls=Command)
def doctor(
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="STORE", help="Where a store would go: folder or address.")
    ] = ".",
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions, memory, GPU, disk.

    Each check says ok, or why not; exit code 1 if nothing can work here. In the place of a store a file is
    written, read and removed: that shows whether the credentials of a bucket work.

    Example: textcam doctor -o s3://bucket/runs
    """
    from dataclasses import asdict

    from service.doctor import check_machine
    from service.rows import print_json

    checks = check_machine(out)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            say(f"{'ok' if check.ok else '--'}  {check.name:<{width}}  {check.told}")
    if any(check.needed and not check.ok for check in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    entry()
