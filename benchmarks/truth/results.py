"""Where results are kept: every part replaces its own lines of results/truth.json and its own tables of
docs/truth.md, so that parts can be run again one by one, two at once, or after an interruption.
"""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.measure import RESULTS, Measure, keep, machine
from benchmarks.truth.page import Rows, refresh_page
from benchmarks.truth.shortcuts import cache
from benchmarks.truth.tables import tables

NAME = "truth"


def keep_parts(parts: Sequence[str], measures: Sequence[Measure]) -> None:
    """Lines of other parts stay as they are; the page follows."""
    with _alone():
        others = [one for one in kept() if one.name.split(" | ")[0] not in parts]
        every = sorted([*others, *measures], key=lambda one: one.name.split(" | ")[0])  # stable
        keep(NAME, every, machine())
        refresh_page(tables(rows_of(every)))


def kept() -> list[Measure]:
    """What stands in the file; nothing where there is none."""
    path = RESULTS / f"{NAME}.json"
    if not path.exists():
        return []
    return [Measure(**one) for one in json.loads(path.read_text())["measures"]]


def rows_of(measures: Sequence[Measure]) -> Rows:
    """Value, low and high by part, entrant and measure."""
    found: Rows = {}
    for one in measures:
        part, entrant, name = one.name.split(" | ", 2)
        low = one.value if one.low is None else one.low
        high = one.value if one.high is None else one.high
        found.setdefault(part, {}).setdefault(entrant, {})[name] = one.value, low, high
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """Two processes that write parts take turns."""
    with (cache() / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    refresh_page(tables(rows_of(kept())))
