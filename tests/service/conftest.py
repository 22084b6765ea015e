"""The command line as tests call it; a written store and a written report, shared by the tests of pages."""

import sys
from pathlib import Path

import pytest

from service.cli import main
from service.pages import write_report
from tests.service.entry_point import Run, Said
from tests.service.world import write_world


@pytest.fixture
def textcam(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the entry point with these arguments."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["textcam", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Said(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def written_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def written_report(written_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report over two stores."""
    other = write_world(tmp_path_factory.mktemp("other"), findings=(), errors=())
    out = tmp_path_factory.mktemp("report")
    return write_report(written_store, out, compare_with=[("clean & calm", other)], label="biased").parent
