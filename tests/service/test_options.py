"""All commands are walked: one style of names, and no option that is taken and ignored.

Every option changes something that can be seen, and of every two options together each still does, or the
two are refused by name. What a command does is seen by its exit code, its output and the files it leaves.
"""

import ast
import inspect
import re
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer

from service.cli import app
from service.options import MOVED
from store.marks import Mark, add_mark
from store.storage import open_storage
from store.writer import commit
from tests.service.entry_point import Run
from tests.store.worlds import TinyWorld, tiny_manifest, tiny_store

PAIR = "circle:a meadow"
QUERY = "SELECT name, class_id FROM classes ORDER BY class_id"
# command -> its words, and for each option the words that give it
WALKED: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "init": (
        [],
        {"out": ["-o", "x"], "images": ["--images", "x"], "store": ["--store", "x"], "as_json": ["--json"]},
    ),
    "search": (
        ["s", "red"],
        {
            "among": ["--in", "texts"],
            "top": ["--top", "2"],
            "as_json": ["--json"],
            "as_csv": ["--csv"],
            "out": ["-o", "x"],
        },
    ),
    "audit": (
        ["s"],
        {
            "top": ["--top", "1"],
            "matched": ["--matched"],
            "as_json": ["--json"],
            "as_csv": ["--csv"],
            "out": ["-o", "x"],
        },
    ),
    "data": (
        ["s"],
        {
            "near": ["--near", "0"],
            "as_json": ["--json"],
            "as_csv": ["--csv"],
            "out": ["-o", "x"],
        },
    ),
    "slices": (
        ["s", "-o", "slices"],
        {"names": [PAIR], "top": ["--top", "1"], "as_csv": ["--csv"], "as_json": ["--json"]},
    ),
    "mark": (["s", PAIR, "core"], {"note": ["--note", "x"], "as_json": ["--json"]}),
    "marks": (["s"], {"as_json": ["--json"], "as_csv": ["--csv"], "out": ["-o", "x"]}),
    "unmark": (["s", "star:snow"], {"as_json": ["--json"]}),
    "suppress": (
        ["s", PAIR, "-o", "head"],
        {
            "method": ["--method", "project"],
            "prefix": ["--prefix", "fc"],
            "as_json": ["--json"],
        },
    ),
    "info": (["s"], {"as_json": ["--json"]}),
    "sql": (
        ["s", QUERY],
        {
            "as_json": ["--json"],
            "as_lines": ["--json-lines"],
            "as_csv": ["--csv"],
            "out": ["-o", "x"],
        },
    ),
    "diff": (["s", "t"], {"top": ["--top", "1"], "as_json": ["--json"]}),
    "compare": (["s", "t"], {"top": ["--top", "1"], "as_json": ["--json"]}),
    "verify": (["s"], {"as_json": ["--json"]}),
    "prune": (
        ["s"],
        {"keep": ["--keep", "2"], "dry_run": ["--dry-run"], "grace": ["--grace", "0"], "as_json": ["--json"]},
    ),
}
# options that need a run, models, a clock, a whole machine, or images of which some go together
ELSEWHERE = {
    "demo": {"out", "as_json"},
    "init": {"force"},
    "plan": {"as_json"},
    "precompute": {"as_json"},
    "add": {"images", "layout", "labels", "config", "as_json", "trust_code"},
    "explain": {"class_name", "top", "out", "of_map", "as_json", "as_lines", "trust_code"},
    "search": {"trust_code"},
    "report": {"out", "as_json"},
    "slices": {"out"},
    "suppress": {
        "out",
        "lose",
    },  # in this store the best head costs nothing: test_audit_heads has one that does
    "data": {"top"},
    "sql": {"file", "seconds", "memory"},
    "prune": {"even_beside_a_run"},
    "doctor": {"out", "as_json"},
}
# pairs of which the first has nothing left to change, and rightly so
NOTHING_LEFT = {
    ("diff", "top", "as_json"),  # JSON has all of it
    ("compare", "top", "as_json"),
}


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_option_is_walked_here_or_elsewhere() -> None:
    for name, command in commands().items():
        walked = {*WALKED.get(name, ([], {}))[1]}
        options = {one.name for one in command.params if one.param_type_name == "option"}
        assert options <= walked | ELSEWHERE.get(name, set()), name


def test_every_parameter_is_read() -> None:
    for name, command in commands().items():
        body = ast.parse(dedent(inspect.getsource(inspect.unwrap(command.callback))))
        read = {
            node.id
            for node in ast.walk(body)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        assert {one.name for one in command.params} <= read, name


def test_names_have_one_style() -> None:
    for name, command in commands().items():
        for one in command.params:
            if one.metavar is not None:
                assert re.fullmatch("[A-Z]+", one.metavar), (name, one.name)
            elif one.param_type_name == "argument":
                raise AssertionError(f"{name} {one.name} has no name of its own")
            if one.name == "out":
                assert one.opts == ["-o", "--out"], name
            if one.param_type_name == "argument" and one.metavar in ("STORE", "OTHER"):
                assert any(said in one.help for said in ("s3://", "tore")), name


def test_every_command_that_answers_has_json() -> None:
    for name, command in commands().items():
        assert any("--json" in one.opts for one in command.params), name


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_fits_a_terminal(textcam: Run, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], *([name] for name in commands())):
        said = textcam(*words, flag)
        assert said.code == 0
        assert max(map(len, said.out.splitlines())) <= 80, words
        assert "<" not in said.out.split("Options:")[0], words  # types of Python


def test_the_version_is_told(textcam: Run) -> None:
    said = textcam("--version")
    assert said.code == 0
    assert re.fullmatch(r"textcam \d+\.\d+\.\d+\n", said.out)


def test_what_moved_says_where_it_is_now(textcam: Run) -> None:
    for (command, option), now in MOVED.items():
        said = textcam(command, "somewhere", option, "x")
        assert (said.code, said.out) == (2, "")
        assert f"There is no {option} any more; it is now: {now}" in said.err


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in: two stores, one with two snapshots, marks and work to prune."""
    folder = tmp_path_factory.mktemp("ground")
    for name in ("s", "t"):
        tiny_store(folder / name, TinyWorld(images=97 if name == "s" else 60))
    storage = open_storage(folder / "s")
    commit(storage, replace(tiny_manifest(storage, TinyWorld(images=97), 1, None), snapshot=2, parent=1))
    storage.put("work/left", b"x")
    add_mark(storage, Mark("star", "snow", "core"))
    return folder


@pytest.mark.parametrize("command", WALKED)
def test_no_option_is_taken_and_ignored(
    textcam: Run, ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words, options = WALKED[command]

    def seen(*given: str) -> tuple[object, ...]:
        """What can be seen of the command with these options; the code alone where it is refused."""
        work = tmp_path / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(ground, work)
        monkeypatch.chdir(work)
        said = textcam(command, *words, *(word for name in given for word in options[name]))
        files = {str(file): file.read_bytes() for file in Path().rglob("*") if file.is_file()}
        return ("refused",) if said.code == 2 else (said.code, said.out, said.err, sorted(files.items()))

    none, alone = seen(), {name: seen(name) for name in options}
    for name in options:
        assert alone[name] != none, f"{command} {name} changes nothing"
    for one, other in combinations(options, 2):
        both = seen(one, other)
        if both == ("refused",):
            continue
        assert both != alone[one] or (command, other, one) in NOTHING_LEFT, f"{command}: {other} beside {one}"
        assert both != alone[other] or (command, one, other) in NOTHING_LEFT, (
            f"{command}: {one} beside {other}"
        )
