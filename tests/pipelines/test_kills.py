"""Workers and drivers killed at random moments: what is committed is what an undisturbed run commits."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.run import precompute
from tests.pipelines import worlds

IMAGES, KILLS = 2000, int(os.environ.get("TEXTCAM_KILLS", "100"))
RUN = {"executor": "ray", "workers": 2, "cpus_per_worker": 0.5, "shard_size": 20, "max_attempts": 3}
DRIVER = """
import sys
from pathlib import Path
from pipelines.run import precompute
from tests.pipelines import test_kills, worlds
precompute(worlds.config(Path(sys.argv[1]), sys.argv[2], run=test_kills.RUN))
"""


def write_many(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("red", "green", "blue")[number % 3] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (18, 17, 3), np.uint8)).save(path)


def workers_of(driver: int) -> list[int]:
    """Ray's workers among the descendants of a process, from /proc."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[pid] = (folder / "cmdline").read_bytes()

    def is_below(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [pid for pid, name in names.items() if b"_Worker" in name and is_below(pid)]


def disturb(driver: subprocess.Popen[bytes], rng: random.Random, most: int) -> tuple[int, int]:
    """Kill workers of a run at random, and the run itself in the end or never; workers and drivers killed."""
    workers, planned, doomed = 0, rng.randrange(1, 6), rng.random() < 0.5
    while driver.poll() is None and workers + doomed < most:
        time.sleep(rng.uniform(0.05, 0.6))
        alive = workers_of(driver.pid)
        if not alive:
            continue
        if workers == planned and doomed:
            time.sleep(rng.uniform(0.0, 3.0))  # in any stage of the run
            if driver.poll() is None:
                os.kill(driver.pid, signal.SIGKILL)
                driver.wait()
                return workers, 1
            break
        if workers == planned:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(alive), signal.SIGKILL)
            workers += 1
    return workers, 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_random_kills_change_nothing(tmp_path: Path) -> None:
    write_many(tmp_path / "images", IMAGES)
    whole = worlds.config(tmp_path, "whole", run={"shard_size": RUN["shard_size"]})
    assert precompute(whole).images == IMAGES
    expected = worlds.files(tmp_path / "whole")
    rng, killed, stores = random.Random(0), np.zeros(2, int), 0
    while killed.sum() < KILLS:
        name = f"store-{stores}"
        for _ in range(50):
            command = [sys.executable, "-c", DRIVER, str(tmp_path), name]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
                killed += disturb(driver, rng, KILLS - int(killed.sum()))
                if driver.wait() == 0:
                    break
        assert worlds.files(tmp_path / name) == expected
        stores += 1
        told = f"{killed[0]} workers and {killed[1]} drivers killed over {stores} runs of {IMAGES} images"
        print(told, flush=True)
    assert killed.min() > 0
