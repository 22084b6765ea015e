"""A cluster as ``ray up`` makes it: three machines reached by SSH, a run, one machine lost on the way."""

import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.run import precompute
from tests.pipelines import machines, worlds
from tests.pipelines.test_nodes import SLOW

REASON = machines.cannot()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(REASON is not None, reason=f"{REASON}")
def test_ray_up_a_run_and_a_lost_machine_give_the_store_of_one_machine(tmp_path: Path) -> None:
    settings = {"shard_size": 3, "batch_size": 3}
    worlds.write_images(tmp_path / "images", 120)
    precompute(worlds.config(tmp_path, "alone", classifier=SLOW, run=settings))
    ray_run = {"executor": "ray", "address": "auto", "workers": 2, "cpus_per_worker": 1}
    run = {**settings, **ray_run, "events": str(tmp_path / "log")}
    raw = worlds.raw_config(tmp_path, "cluster", classifier=SLOW, run=run)
    raw |= {"images": {"uri": str(tmp_path / "images")}, "store": str(tmp_path / "cluster")}
    raw |= {"texts": {"bank": str(tmp_path / "texts.csv")}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    with (tmp_path / "output").open("wb") as output:
        command = machines.inside("tests.pipelines.ray_up", str(tmp_path))
        code = subprocess.run(
            command, cwd=machines.ROOT, stdout=output, stderr=output, timeout=800
        ).returncode
    said = (tmp_path / "output").read_text(errors="replace")
    print(said)
    assert code == 0
    assert '"event": "lost"' in (tmp_path / "log").read_text()
    assert worlds.files(tmp_path / "cluster") == worlds.files(tmp_path / "alone")
