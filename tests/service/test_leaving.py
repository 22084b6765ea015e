"""How the command `textcam` ends: with its exit code, all that it said, and no interpreter taken down."""

import subprocess
import sys
from pathlib import Path

import pytest

AT_EXIT = "import atexit, sys\natexit.register(lambda: print('registered work is done'))\n"
TORN_DOWN = "class Last:\n    def __del__(self):\n        print('torn down')\nsys.last = Last()\n"


def left(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = ["textcam", *map(str, arguments)]
    code = f"{AT_EXIT}{TORN_DOWN}from service.cli import entry\nsys.argv = {words}\nentry()\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_all_is_said_and_the_interpreter_is_not_taken_down(written_store: Path) -> None:
    done = left("info", written_store, "--json")
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert done.stdout.endswith("}\nregistered work is done\n")
    assert done.stderr == ""


def test_a_failure_keeps_its_exit_code(tmp_path: Path) -> None:
    nowhere = left("audit", tmp_path / "nowhere")
    assert nowhere.returncode == 2
    assert nowhere.stderr.startswith("error: No committed store here.")
    assert left("audit").returncode == 2


def test_output_that_nobody_takes_is_a_failure(written_store: Path) -> None:
    words = ["textcam", "info", str(written_store)]
    code = f"import sys\nfrom service.cli import entry\nsys.argv = {words}\nentry()"
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", code], stdout=full, timeout=60).returncode == 3


def test_a_mistake_of_ours_shows_itself() -> None:
    code = "import service.cli as cli\ncli.main = lambda: 1 / 0\ncli.entry()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


MANY = "SELECT range, 'text ' || range AS text FROM range(200000)"


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"], ["--json-lines"]], ids=str)
def test_a_long_answer_onto_a_full_disk_leaves_with_3(written_store: Path, form: list[str]) -> None:
    words = ["textcam", "sql", str(written_store), MANY, *form]
    code = f"import sys\nfrom service.cli import entry\nsys.argv = {words}\nentry()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (
        3,
        "error: The answer cannot be printed: No space left on device.\n",
    )


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"], ["--json-lines"]], ids=str)
def test_a_reader_that_has_enough_ends_it_quietly(written_store: Path, form: list[str]) -> None:
    words = ["textcam", "sql", str(written_store), MANY, *form]
    code = f"import sys\nfrom service.cli import entry\nsys.argv = {words}\nentry()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (1, "")
    process.stderr.close()
