"""A user's own ``store.py``, ``service.py``, ``pipelines.py`` or ``demo`` beside the script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("store", "service", "pipelines", "demo")
USES_US = "from textcam.query import Query\nfrom store.errors import StoreNotFound\nprint(Query.__name__)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One with a module of each of our names, and a package ``demo``."""
    for name in NAMES[:3]:
        (tmp_path / f"{name}.py").write_text("MINE = 'mine'\nprint('loaded', __name__)\n")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").write_text("MINE = 'mine'\nprint('loaded', __name__)\n")
    (tmp_path / "demo" / "own.py").touch()
    return tmp_path


def python(
    folder: Path, *arguments: str, path: tuple[Path, ...] = (ROOT,)
) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def script(folder: Path, text: str) -> "subprocess.CompletedProcess[str]":
    (folder / "script.py").write_text(text)
    return python(folder, "script.py")


def test_a_script_beside_them_uses_ours(folder: Path) -> None:
    said = script(folder, USES_US)
    assert (said.returncode, said.stdout) == (0, "Query\n"), said.stderr


def test_so_does_a_line_of_python(folder: Path) -> None:
    said = python(folder, "-c", USES_US)
    assert (said.returncode, said.stdout) == (0, "Query\n"), said.stderr


def test_and_a_script_that_runs_a_precompute(folder: Path) -> None:
    (folder / "pipelines.py").unlink()
    said = script(folder, "from pipelines.run import precompute\nprint(precompute.__name__)\n")
    assert (said.returncode, said.stdout) == (0, "precompute\n"), said.stderr


@pytest.mark.parametrize("how", [("-m", "textcam"), ("-c", "from textcam.__main__ import entry; entry()")])
def test_the_command_works_among_them_even_if_they_come_first(folder: Path, how: tuple[str, str]) -> None:
    said = python(folder, *how, "info", "nowhere", path=(folder, ROOT))
    assert said.returncode == 2
    assert "nowhere" in said.stderr
    assert "loaded" not in said.stdout
    assert "Traceback" not in said.stderr


def test_what_only_theirs_has_is_answered_by_who_hides_whom(folder: Path) -> None:
    begin = "import textcam\n"
    for ask in ("from store import MINE", "import store\nstore.MINE", "import store.own"):
        said = script(folder, f"{begin}{ask}\n")
        assert said.returncode == 1
        last = said.stderr.strip().splitlines()[-1]
        assert f"'store' is a package of textcam here ({ROOT / 'store'})" in last
        assert f"hides {folder / 'store.py'}. Rename the latter." in last


def test_theirs_loaded_first_is_named(folder: Path) -> None:
    said = script(folder, "import store\nimport textcam\n")
    assert said.returncode == 1
    last = said.stderr.strip().splitlines()[-1]
    assert last == (
        f"ImportError: textcam needs its own package 'store' ({ROOT / 'store'}), "
        f"but {folder / 'store.py'} is loaded under that name. Rename the latter."
    )


def test_names_that_are_not_needed_stay_theirs(folder: Path) -> None:
    uses = "".join(f"import {name}\nprint({name}.MINE)\n" for name in NAMES[1:])
    said = script(folder, f"from textcam.query import Query\n{uses}import demo.own\n")
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == [
        "loaded",
        "service",
        "mine",
        "loaded",
        "pipelines",
        "mine",
        "loaded",
        "demo",
        "mine",
    ]


def test_whoever_looks_through_all_modules_is_not_disturbed(folder: Path) -> None:
    """As ``pickle`` does for an object that does not say its module."""
    said = script(
        folder, "import textcam, sys\nprint(sum(hasattr(one, 'MINE') for one in sys.modules.values()))\n"
    )
    assert (said.returncode, said.stdout) == (0, "0\n"), said.stderr


def test_without_theirs_a_missing_name_is_missing_as_ever(tmp_path: Path) -> None:
    said = script(
        tmp_path,
        "import textcam, store\nfrom store import schema\nprint(hasattr(store, 'MINE'), schema.__name__)\n"
        "try:\n    import store.own\nexcept ModuleNotFoundError as error:\n    print(error)\n"
        "try:\n    from store import MINE\nexcept ImportError as error:\n    print(type(error).__name__)\n",
    )
    assert said.stdout.splitlines() == ["False store.schema", "No module named 'store.own'", "ImportError"], (
        said.stderr
    )


@pytest.mark.parametrize("where", [ROOT, ROOT / "docs"])
def test_we_do_not_hide_ourselves(where: Path) -> None:
    said = python(where, "-c", "import textcam, store\nstore.MINE")
    assert said.stderr.splitlines()[-1] == "AttributeError: module 'store' has no attribute 'MINE'"


def test_a_model_of_the_users_in_a_file_of_our_name_is_refused_with_the_reason(folder: Path) -> None:
    said = script(
        folder,
        "from textcam.user_code import call_user_function\n"
        "try:\n    call_user_function('python:store:build', {})\n"
        "except Exception as error:\n    print(error)\n",
    )
    assert f"hides {folder / 'store.py'}" in said.stdout
