"""Random kills of a run's workers and drivers, and what its store is in the end: for a test and a benchmark.

A kill counts only where it took work: of a worker, when the run's own log says that a unit was lost with it;
of a decoder, with a request in hand; of a driver, between its first unit and its end. Each killed driver has
a successor at once, while what the dead one started may still be there.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torchvision import transforms

from pipelines.config import Config
from pipelines.run import precompute
from store.verify import verify
from tests.pipelines import worlds
from tests.pipelines.models import GoesByCues, cue_transform

SHARD = 20
RUN = {"executor": "ray", "workers": 3, "cpus_per_worker": 0.25, "shard_size": SHARD, "batch_size": SHARD}
RUN |= {"decoders": 1, "cpus_per_decoder": 0.25}
PATIENT = {"model": "python:tests.pipelines.kills:patient_classifier"}
CALLS, PATIENCE = 30, 300.0  # calls of one run; seconds after which a call counts as hanging
DRIVER = """
import sys
from pathlib import Path
from tests.pipelines import kills
kills.precompute(kills.config(Path(sys.argv[1]), sys.argv[2], **kills.RUN, events=sys.argv[3]))
"""


class Patient(GoesByCues):
    """The small network, which takes a moment for each batch: so that a kill finds it at work."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) logits."""
        time.sleep(0.1)
        return super().forward(x)


def patient_classifier() -> tuple[Patient, transforms.Compose]:
    """What the configuration names."""
    return Patient(), cue_transform()


@dataclass
class Killed:
    """Kills that took work, by stage of the run, and how many calls of the command it took to end."""

    workers: dict[str, int] = field(default_factory=dict)
    drivers: dict[str, int] = field(default_factory=dict)
    decoders: int = 0
    calls: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Kills of workers and drivers."""
        return sum(self.workers.values()) + sum(self.drivers.values())


def config(folder: Path, store: str, **run: object) -> Config:
    """A run over ``folder/images`` with a network that takes a moment for each batch."""
    return worlds.cue_config(folder, store, classifier=PATIENT, run=run)


def undisturbed(folder: Path, store: str) -> dict[str, str]:
    """A run in this process, never disturbed: the hashes of its files."""
    precompute(config(folder, store, shard_size=SHARD, batch_size=SHARD))
    return hashes(folder / store)


def hashes(store: Path) -> dict[str, str]:
    """SHA-256 of each committed file."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in worlds.files(store).items()}


def disturbed(folder: Path, store: str, seed: int, workers: int, drivers: int) -> Killed:
    """A run, called again until it ends well; at most so many of its workers and drivers are killed.

    Raises AssertionError for a call that hangs, and where the store is not sound in the end.
    """
    rng, killed, started = random.Random(seed), Killed(), time.monotonic()
    lost: Counter[str] = Counter()
    shot: Counter[str] = Counter()
    while killed.calls < CALLS:
        log = folder / f"{store}-{killed.calls}.jsonl"
        killed.calls += 1
        ended, decoders = _call(folder, store, log, rng, workers - lost.total(), shot.total() < drivers)
        killed.decoders += decoders
        lines = events(log)
        lost.update(line["stage"] for line in lines if line["event"] == "lost")
        if ended == 0:
            break
        if ended == -signal.SIGKILL and in_work(lines):
            shot[lines[-1].get("stage", "")] += 1
    killed.workers, killed.drivers = dict(lost), dict(shot)
    killed.seconds = round(time.monotonic() - started, 1)
    assert ended == 0, f"no end after {CALLS} calls"
    assert verify(folder / store) == []
    return killed


def _call(
    folder: Path, store: str, log: Path, rng: random.Random, victims: int, doomed: bool
) -> tuple[int, int]:
    """One call of the command; its exit code, which is minus SIGKILL if it was killed, and how many decoders
    were killed."""
    command = [sys.executable, "-c", DRIVER, str(folder), store, str(log)]
    said = log.with_suffix(".txt")
    with said.open("w") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as driver:
        begun = time.monotonic()
        doom = rng.uniform(0.2, 12.0) if doomed else float("inf")  # seconds of work
        working, decoders = None, 0
        while driver.poll() is None:
            time.sleep(min(rng.expovariate(1.5), 3.0))
            assert time.monotonic() - begun < PATIENCE, f"a call hangs: {said.read_text()[-2000:]}"
            if working is None and in_work(events(log)):
                working = time.monotonic()
            if working is not None and time.monotonic() - working > doom:
                os.kill(driver.pid, signal.SIGKILL)
            elif working is not None and victims:
                if rng.random() < 0.2:
                    decoders += _kill_one(busy(driver.pid, b"_Decoder.load"), rng)
                else:
                    victims -= _kill_one(busy(driver.pid, b"_Worker.run"), rng)
        return driver.wait(), decoders


def _kill_one(pids: list[int], rng: random.Random) -> bool:
    """Kill one of the processes, if there is any."""
    if not pids:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(pids), signal.SIGKILL)
        return True
    return False


def busy(driver: int, task: bytes) -> list[int]:
    """Those descendants of a process that are doing a task of Ray's, by its name, from /proc."""
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

    return [pid for pid, name in names.items() if task in name and is_below(pid)]


def events(log: Path) -> list[dict]:
    """The whole lines of an event log."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def in_work(lines: list[dict]) -> bool:
    """Whether a run has begun on its first unit, and not ended: two lines are written before."""
    return len(lines) > 2 and lines[-1]["event"] not in ("end", "stopped")
