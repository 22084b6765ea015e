"""One written store and one written report, shared by the tests of the pages."""

from pathlib import Path

import pytest

from service.pages import write_report
from tests.service.world import write_world


@pytest.fixture(scope="session")
def written_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def written_report(written_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report over two stores."""
    other = write_world(tmp_path_factory.mktemp("other"), findings=(), errors=())
    out = tmp_path_factory.mktemp("report")
    return write_report(written_store, out, compare_with=[("clean & calm", other)], label="biased").parent
