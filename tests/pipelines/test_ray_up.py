"""A cluster as ``ray up`` makes it: three machines reached by SSH, a run, one machine lost on the way."""

import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.run import precompute
from store.verify import verify
from tests.pipelines import machines, worlds

REASON = machines.cannot()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(REASON is not None, reason=f"{REASON}")
def test_ray_up_a_run_and_a_lost_machine_give_the_store_of_one_machine(tmp_path: Path) -> None:
    worlds.write_cues(tmp_path / "images")
    lost, log = tmp_path / "lost", tmp_path / "log"
    waits = {"model": "python:tests.pipelines.models:waiting_cue_classifier", "options": {"until": str(lost)}}
    settings = {"shard_size": 3, "batch_size": 3}
    lost.touch()
    alone = precompute(worlds.cue_config(tmp_path, "alone", classifier=waits, run=settings))
    lost.unlink()
    ray_run = {"executor": "ray", "address": "auto", "workers": 2, "cpus_per_worker": 1, "events": str(log)}
    config = worlds.cue_config(tmp_path, "cluster", classifier=waits, run={**settings, **ray_run})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with (tmp_path / "output").open("wb") as output:
        command = machines.inside("tests.pipelines.ray_up", str(tmp_path))
        code = subprocess.run(command, cwd=machines.ROOT, stdout=output, stderr=output).returncode
    print((tmp_path / "output").read_text(errors="replace"))
    assert code == 0
    assert lost.exists()
    assert '"event": "lost"' in log.read_text()
    assert alone.findings >= 4
    assert worlds.files(tmp_path / "cluster") == worlds.files(tmp_path / "alone")
    assert verify(tmp_path / "cluster") == []
