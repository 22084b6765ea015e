"""The Makefile and the script of the checks, run on folders and programs made for it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_clean_removes_what_make_made_and_no_folder_that_was_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".venv", "demo-out", "data", "with space"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for out in ("data", "with space"):
        subprocess.run(["make", "clean", f"OUT={out}"], cwd=tmp_path, check=True, capture_output=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "data", "with space"]
        assert (tmp_path / "data" / "file").exists()


def checks(tmp_path: Path, **programs: str) -> "subprocess.CompletedProcess[str]":
    """``.ci/run`` where only these programs are, each a line of shell, and make."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    for name, line in {"make": "echo make $@ in $PWD", **programs}.items():
        program = tmp_path / "bin" / name.replace("_", "-")
        program.write_text(f"#!{shutil.which('bash')}\n{line}\n")
        program.chmod(0o755)
    return subprocess.run(
        [str(shutil.which("bash")), str(tmp_path / ".ci" / "run")],
        env={**os.environ, "PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
    )


def test_the_checks_say_why_chromium_could_not_be_installed_and_go_on(tmp_path: Path) -> None:
    fails = '[ "$1" = update ] || { echo "E: Unable to locate package chromium" >&2; exit 100; }'
    said = checks(tmp_path, apt_get=fails, id="echo 0")
    assert (said.returncode, said.stdout) == (0, f"make check in {tmp_path}\n")
    assert said.stderr.splitlines() == [
        "E: Unable to locate package chromium",
        "chromium could not be installed (see above): page rendering tests will skip",
    ]


def test_the_checks_say_that_nobody_may_install_chromium(tmp_path: Path) -> None:
    said = checks(tmp_path, apt_get="exit 1", id="echo 1000")
    assert (said.returncode, said.stdout) == (0, f"make check in {tmp_path}\n")
    assert "page rendering tests will skip" in said.stderr


def test_the_checks_are_quiet_where_chromium_is_there_or_comes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    there = checks(tmp_path / "one", chromium="true", apt_get="exit 1", id="echo 0")
    comes = checks(tmp_path / "two", apt_get="echo Setting up chromium", id="echo 0")
    assert [(said.returncode, said.stderr) for said in (there, comes)] == [(0, ""), (0, "")]


def test_checks_that_fail_fail(tmp_path: Path) -> None:
    assert checks(tmp_path, chromium="true", make="exit 3").returncode == 3
