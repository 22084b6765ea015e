"""What every benchmark of the store shares: one act in one process, the machine, the table, the file."""

import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("numpy", "pyarrow", "duckdb", "faiss-cpu")
GIB = 1 << 30


@dataclass(frozen=True)
class Cost:
    """What an act took: seconds on the clock, seconds of all cores, most resident bytes of its process."""

    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Measure:
    """One line of a result. ``low`` and ``high`` bound ``value`` where it was sampled.

    ``goal`` is what was promised beforehand, ``baseline`` what the plainest other way would need.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    better: str = "lower"
    baseline: float | None = None


def peak_bytes() -> int:
    """Most bytes that this process ever held in memory, libraries included.

    Linux's own mark of the address space: ``ru_maxrss`` would carry over from the parent.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/self/status has no VmHWM.")


def measured(act: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """``act(*arguments)`` here, and what it cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = act(*arguments)
    return outcome, Cost(time.perf_counter() - wall, time.process_time() - cpu, peak_bytes())


def in_own_process(act: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """As ``measured`` in a new process, so that its peak is its own. Raises what the act raised."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        outcome: tuple[Any, Cost] = pool.apply(measured, (act, *arguments))
    return outcome


def interval(samples: Sequence[float], statistic: Callable[..., Any]) -> tuple[float, float, float]:
    """The statistic of the samples, and the bounds of 95 in 100 bootstrap resamples: value, low, high."""
    values = np.asarray(samples, float)
    drawn = np.random.default_rng(0).integers(0, len(values), (500, len(values)))
    low, high = np.quantile(statistic(values[drawn], axis=1), (0.025, 0.975))
    return float(statistic(values, axis=0)), float(low), float(high)


def machine() -> dict[str, Any]:
    """Where it was measured; nothing that names the computer."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "openmp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def publish(name: str, measures: Sequence[Measure], where: dict[str, Any], write: bool) -> None:
    """Print the table; with ``write`` also keep it as ``results/<name>.json``."""
    columns = ("value", "low", "high", "goal", "baseline")
    width = max(len(one.name) for one in measures)
    print(f"{'':{width}}" + "".join(f"{column:>15}" for column in columns))
    for one in measures:
        cells = (getattr(one, column) for column in columns)
        print(f"{one.name:{width}}" + "".join(f"{_number(cell):>15}" for cell in cells))
    sys.stdout.flush()
    if write:
        keep(name, measures, where)


def keep(name: str, measures: Sequence[Measure], where: dict[str, Any]) -> None:
    """Write ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": where, "measures": [asdict(one) for one in measures]}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1, default=float) + "\n")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
