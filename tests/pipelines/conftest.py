"""What tests of whole runs share."""

from pathlib import Path

import pytest

from pipelines.run import precompute
from tests.pipelines import worlds


@pytest.fixture(scope="session")
def cues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with cues, and a store of them, "whole", that one process made in eight shards. Its
    images stay as they are; further stores beside it are welcome."""
    folder = tmp_path_factory.mktemp("cues")
    worlds.write_cues(folder / "images")
    precompute(worlds.cue_config(folder, "whole", run={"shard_size": worlds.CUE_SHARD}))
    return folder
