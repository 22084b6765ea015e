"""Random kills of workers and drivers over runs of 2,000 images: is what is committed always the same?

    python -m benchmarks.kills [--kills 100] [--minutes 9] [--folder FOLDER] [--images 2000] [--anew]

Each run has a seed and is kept in the result file, so that a later call goes on with the next one until there
are ``--kills`` that took work (see ``tests.pipelines.kills``). With ``--folder`` the pictures and the
undisturbed store stay for the next call. ``--anew`` forgets the runs of earlier calls.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, Measure, machine, publish
from tests.pipelines import kills, worlds

NAME, WORKERS, DRIVERS = "kills", 12, 3  # kills of a run, at most


def one_run(folder: Path, expected: dict[str, str], seed: int) -> dict[str, Any]:
    """A run disturbed, and whether each of its files has the hash of the undisturbed run's."""
    store = f"store-{seed}"
    found = kills.disturbed(folder, store, seed, WORKERS, DRIVERS)
    made = kills.hashes(folder / store)
    differ = sorted(path for path in made.keys() | expected.keys() if made.get(path) != expected.get(path))
    return {"seed": seed, **asdict(found), "files": len(made), "differ": differ}


def keep(runs: list[dict[str, Any]], images: int) -> None:
    """Print the sums, and write them with the runs."""
    workers, drivers = (sum(sum(one[kind].values()) for one in runs) for kind in ("workers", "drivers"))
    measures = [
        Measure("kills of workers and drivers", workers + drivers, goal=100, better="higher"),
        Measure("kills of workers with a shard in hand", workers, better="higher"),
        Measure("kills of drivers at work", drivers, better="higher"),
        Measure("kills of decoders", sum(one.get("decoders", 0) for one in runs), better="higher"),
        Measure("runs", len(runs), better="higher"),
        Measure("images of a run", images, goal=2000, better="higher"),
        Measure("files compared by SHA-256", sum(one["files"] for one in runs), better="higher"),
        Measure("files that differ", sum(len(one["differ"]) for one in runs), goal=0),
    ]
    where = machine()
    publish(NAME, measures, where, write=True)
    path = RESULTS / f"{NAME}.json"
    document = {**json.loads(path.read_text()), "runs": runs}
    path.write_text(json.dumps(document, indent=1) + "\n")


def so_far(anew: bool) -> list[dict[str, Any]]:
    """The runs of earlier calls."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["runs"] if path.exists() and not anew else []


def main() -> None:
    """Runs until there are enough kills, or no time for another run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--anew", action="store_true")
    options = parser.parse_args()
    begun, longest, runs = time.monotonic(), 0.0, so_far(options.anew)
    with tempfile.TemporaryDirectory() as other:
        folder = options.folder or Path(other)
        if not (folder / "images").exists():
            worlds.write_cues(folder / "images", options.images)
        whole = folder / "undisturbed"
        expected = kills.hashes(whole) if whole.exists() else kills.undisturbed(folder, whole.name)
        while sum(sum(one[kind].values()) for one in runs for kind in ("workers", "drivers")) < options.kills:
            if time.monotonic() - begun + longest > 60 * options.minutes:
                break
            started = time.monotonic()
            runs.append(one_run(folder, expected, max((one["seed"] for one in runs), default=0) + 1))
            longest = max(longest, time.monotonic() - started)
            keep(runs, options.images)


if __name__ == "__main__":
    main()
