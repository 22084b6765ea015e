"""Stages and benches for the executors' tests: at module level, because they cross process borders."""

import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from pipelines import execute
from pipelines.execute import Decoders
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
    execute._NEWS_SECONDS = 0.0  # in this process: all is told
    for number in range(1, item + 1):
        yield Working(number, 0, {})
    if item < 0:
        raise ValueError("it went wrong on the way")
    return f"counted to {item}"


def never_ends(bench: Counter, item: int) -> int:
    while item == 3:
        time.sleep(0.1)
    return item


def stops_beside_one_at_work(bench: Counter, item: int) -> int:
    """0 is at work until it may go on; 1 stops the run once 0 has begun."""
    begun, go_on = bench.folder / "begun", bench.folder / "go on"
    if item == 0:
        begun.touch()
    while not (begun if item else go_on).exists():
        time.sleep(0.05)
    if item == 1:
        raise ConfigError("no such thing")
    return item


def hangs_beside_one_that_speaks(bench: Counter, item: int) -> Generator[Working, None, int]:
    """0 tells that it is at work, 1 never: both until somebody says that 1 was given up, or 0 has waited for
    that for long."""
    begun, given_up, told = bench.folder / "begun", bench.folder / "given up", 0
    if item == 1:
        begun.touch()
    while not given_up.exists() and told < 150:
        time.sleep(0.1)
        if item == 0:
            told += begun.exists()
            yield Working(told, 0, {})
    return item


class Asker:
    """A bench whose worker has decoders."""

    def __init__(self, decoders: Decoders | None = None) -> None:
        self.decoders = decoders


def ask_decoders(bench: Asker, item: int) -> Any:
    """What the decoders say to one request after another, until they are there; and this process."""
    assert bench.decoders is not None
    for _ in range(600):
        answer = bench.decoders.load(item)
        if answer is not None:
            return answer, os.getpid()
        time.sleep(0.1)
    return None


def make_answering(folder: str) -> Callable[[int], Any]:
    """What a decoder does: 3 kills the first that is asked, 4 all of them, 5 is an error."""

    def answer(request: int) -> Any:
        mark = Path(folder) / "died"
        if request == 4 or (request == 3 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if request == 5:
            raise ValueError("no such image")
        return request * 10, os.getpid()

    return answer


def ask_once(bench: Asker, item: int) -> Any:
    """One request, once the decoders are there."""
    ask_decoders(bench, 0)
    assert bench.decoders is not None
    return bench.decoders.load(item), ask_decoders(bench, 1)[0][0]


def cannot_decode() -> Callable[[int], Any]:
    raise ValueError("no weights here")


def slow_square(bench: Asker, item: int) -> int:
    time.sleep(0.5)
    return item * item


def decoder_processes() -> list[int]:
    """Processes of this machine's Ray that decode."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::_Decoder"):
                found.append(int(folder.name))
    return found
