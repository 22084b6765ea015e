"""Arguments and options that several commands share, and what holds for all commands."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from service.output import say
from service.places import Place

_STORE = "Folder, or s3://, gs:// or az:// address of a store"
Store = Annotated[
    Place,
    typer.Argument(parser=Place.of, metavar="STORE", help=f"{_STORE}; STORE@N: its snapshot N."),
]
WholeStore = Annotated[Place, typer.Argument(parser=Place.of, metavar="STORE", help=f"{_STORE}.")]
Stores = Annotated[
    Place,
    typer.Argument(
        parser=Place.of, metavar="STORE", help=f"{_STORE} (STORE@N: its snapshot N), or a folder of stores."
    ),
]
ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML configuration (`textcam init` writes one).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Run code that the store names for its models (python: and the like)."),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
AsLines = Annotated[bool, typer.Option("--json-lines", help="Print a JSON object a line.")]
AnswerFile = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the answer to FILE.")
]

# Of these no two at a time: one would be ignored.
ONE_OF = (("as_json", "as_csv", "as_lines"), ("query", "file"), ("names", "top"), ("near", "as_csv"))
# An option, and what it would be ignored without: another one with one of these values.
NEEDS = {"lose": ("method", ("refit",))}
# What was asked for otherwise once, and how it is asked for now.
MOVED = {
    ("audit", "--data"): "textcam data STORE",
    ("audit", "--slices"): "textcam slices STORE -o DIR",
    ("add", "--format"): "--layout",
    ("doctor", "--dir"): "-o",
    ("diff", "--snapshot-a"): "STORE@N",
    ("diff", "--snapshot-b"): "STORE@N",
}
for _name in ("explain", "search", "audit", "suppress", "info", "sql", "verify"):
    MOVED[_name, "--snapshot"] = "STORE@N"


class Command(TyperCommand):
    """Refuses options that would be ignored beside others, and leaves with 130 when it is stopped."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Refuse options of before, saying what they are now."""
        for arg in args[: args.index("--") if "--" in args else None]:
            option = arg.split("=")[0]
            if now := MOVED.get((self.name or "", option)):
                context.fail(f"There is no {option} any more; it is now: {now}")
        return super().parse_args(context, args)

    def invoke(self, context: Any) -> Any:
        """Check, then run."""
        given = [
            one.name
            for one in self.params
            if one.name
            and (source := context.get_parameter_source(one.name))
            and source.name == "COMMANDLINE"
        ]
        for together in ONE_OF:
            both = [name for name in given if name in together]
            if len(both) > 1:
                first, second = (self._called(name) for name in both[:2])
                context.fail(f"{first} and {second} exclude each other.")
        for name, (other, values) in NEEDS.items():
            if name in given and context.params.get(other) not in values:
                needed = f"{self._called(other)} {' or '.join(values)}"
                context.fail(f"{self._called(name)} is only for {needed}.")
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            say("stopped", err=True)
            raise typer.Exit(130) from None

    def format_options(self, context: Any, formatter: Any) -> None:
        """Arguments by their names, without the types that typer adds, then options."""
        for title in ("Arguments", "Options"):
            kind = title.lower().removesuffix("s")
            told = [
                (record[0].split(" <")[0] if kind == "argument" else record[0], record[1])
                for one in self.get_params(context)
                if one.param_type_name == kind and (record := one.get_help_record(context))
            ]
            if told:
                with formatter.section(title):
                    formatter.write_dl(told)

    def _called(self, name: str) -> str:
        """An option as it is written; an argument by its metavar."""
        one = next(one for one in self.params if one.name == name)
        return str(one.opts[-1]) if one.param_type_name == "option" else str(one.metavar)
