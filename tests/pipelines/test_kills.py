"""Workers and drivers killed at random moments: what is committed is what an undisturbed run commits.

A few kills here; `benchmarks.kills` does a hundred.
"""

from pathlib import Path

import pytest

from tests.pipelines import kills, worlds


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_kills_change_nothing(tmp_path: Path) -> None:
    worlds.write_cues(tmp_path / "images", 600)
    expected = kills.undisturbed(tmp_path, "whole")
    killed = kills.disturbed(tmp_path, "store", seed=0, workers=4, drivers=1)
    assert killed.total > 0
    assert killed.calls > sum(killed.drivers.values())
    assert kills.hashes(tmp_path / "store") == expected
