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
from service.options import AsJson, ConfigFile, SnapshotNumber, Store
from store.errors import ConfigError, TextcamError

app = typer.Typer(
    help="Says in words what a vision classifier looked for, for every image, class and channel.",
    epilog="Start with: textcam demo. Exit codes: 0 done, 1 failed, 2 wrong request, 3 disk full.",
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
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


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
    except OSError:  # nobody reads on, or no space where it goes
        code = code or 1
    os._exit(code if isinstance(code, int) else int(code is not None))


# --- making a store ---------------------------------------------------------------------------------------


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes.")] = Path(
        "demo-out"
    ),
) -> None:
    """See it work on rendered scenes: no download, no GPU.

    Renders images, explains a clean and a biased classifier, audits both and writes a report.

    Example: textcam demo --out /tmp/demo
    """
    from demo.run import main as run_demo
    from service.printing import model_lines
    from service.progress import ProgressDisplay
    from textcam.query import Query

    with ProgressDisplay() as display:
        made = run_demo(out, display.named)
    for model in ("clean", "biased"):
        print("\n".join(model_lines(Query.open(made.stores[model]), f"The {model} model")))
    print(f"{made.images} images explained in {made.seconds:.0f} s. Open the report: {made.report}")
    biased = made.stores["biased"]
    print(f"next: textcam audit {biased}\n      textcam search {biased} watermark --in classes")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("textcam.yaml"),
    images: Annotated[str, typer.Option(metavar="URI", help="Folder or URI of the images.")] = "/data/images",
    store: Annotated[str, typer.Option(metavar="URI", help="Where the store will be.")] = "textcam-store",
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write a commented configuration to start from.

    Example: textcam init birds.yaml --images /data/birds --store runs/birds
    """
    from service.starter import starter_config

    if file.exists() and not force:
        raise ConfigError("The file is already there.", where=file, fix="Name another file, or add --force.")
    try:
        file.write_text(starter_config(images, store), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The configuration cannot be written: {error.strerror}.", where=file) from None
    print(f"wrote {file}\nnext: textcam plan {file}")


@app.command()
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
            print(f"together  {duration(seconds_together(list(plans.values())))}: each image is decoded once")
        print(f"next: textcam precompute {config}")


@app.command()
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
        print(f"stopped; what is finished is kept. To go on: textcam precompute {config}", file=sys.stderr)
        raise SystemExit(130) from None
    print_named(made, as_json)
    if not as_json:
        print("\n".join(next_after([one.store for one in configs.values()])))


def next_after(stores: list[str]) -> list[str]:
    """What to do with finished stores."""
    folder = stores[0].rpartition("/")[0] if len(stores) > 1 else stores[0]
    lines = [f"textcam audit {store}" for store in stores]
    lines += [f"textcam compare {stores[0]} {stores[1]}"] if len(stores) > 1 else []
    lines.append(f"textcam report {folder} report")
    return [f"{'next:' if number == 0 else '':<5} {line}" for number, line in enumerate(lines)]


app.command()(upkeep.add)


# --- asking a store ---------------------------------------------------------------------------------------

for command in (ask.explain, ask.search, audits.audit):
    app.command()(command)
app.command()(audits.mark)
app.command()(audits.suppress)
app.command()(ask.report)
app.command()(ask.info)
app.command()(ask.sql)
app.command()(upkeep.diff)
app.command()(upkeep.compare)


# --- checking ---------------------------------------------------------------------------------------------


@app.command()
def verify(store: Store, as_json: AsJson = False, snapshot: SnapshotNumber = None) -> None:
    """Check every file of a store; exit code 1 if one is bad.

    Example: textcam verify runs/birds
    """
    from dataclasses import asdict

    from service.printing import print_json
    from store.verify import verify as verify_store

    problems = verify_store(store, snapshot)
    if as_json:
        print_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            print(f"{problem.kind}: {problem.where}: {problem.what}")
        print(f"problems: {len(problems)}" if problems else "ok")
    if problems:
        raise SystemExit(1)


app.command()(upkeep.prune)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where a store would go.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions, memory, GPU, disk.

    Each check says ok, or why not; exit code 1 if nothing can work here.

    Example: textcam doctor --dir /data/runs
    """
    from dataclasses import asdict

    from service.doctor import check_machine
    from service.printing import print_json

    checks = check_machine(folder)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{'ok' if check.ok else '--'}  {check.name:<{width}}  {check.told}")
    if any(check.needed and not check.ok for check in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    entry()
