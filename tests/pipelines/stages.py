"""Stages and benches for the executors' tests: at module level, because they cross process borders."""

import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pipelines.working import Working
from store.errors import ConfigError, StorageUnavailable


class Counter:
    """A bench that knows its process."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)


def make_counter(folder: str) -> Counter:
    return Counter(folder)


def square(bench: Counter, item: int) -> int:
    return item * item


def odd_ones_fail(bench: Counter, item: int) -> int:
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item


def forbidden(bench: Counter, item: int) -> int:
    raise ConfigError("no such thing", where="key", fix="remove it")


def away_once(bench: Counter, item: int) -> int:
    """Storage that is away at the first attempt."""
    mark = bench.folder / f"tried-{item}"
    if not mark.exists():
        mark.touch()
        raise StorageUnavailable("away", where="bucket")
    return item


def kills_worker_once(bench: Counter, item: int) -> int:
    mark = bench.folder / f"died-{item}"
    if item == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def always_kills(bench: Counter, item: int) -> Any:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def process_of(bench: Counter, item: int) -> int:
    return os.getpid()


def counts_up(bench: Counter, item: int) -> Generator[Working, None, str]:
    for number in range(1, item + 1):
        time.sleep(1.0)  # workers in other processes tell once a second
        yield Working(number, 0, {})
    if item < 0:
        raise ValueError("it went wrong on the way")
    return f"counted to {item}"


def never_ends(bench: Counter, item: int) -> int:
    while item == 3:
        time.sleep(0.1)
    return item
