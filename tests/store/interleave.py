"""Several people at work on one store, one storage operation at a time, in an order that a number decides.

Each actor is a thread whose storage waits before every operation until it is given the turn. The turn is
given only when all actors wait or have ended, and a seeded generator picks whose it is; so the same number
gives the same order, and a failure can be played again. How long an actor goes on is drawn for each order,
from a few operations to hundreds: what goes wrong needs one to sleep through all that another does.
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from store.storage import Entry, RangeFile, Storage

Act = Callable[[Storage], Any]


class Turns:
    """Who may go on. ``order`` is what was done, for the message of a failing test."""

    def __init__(self, seed: int, actors: int) -> None:
        self._random = random.Random(seed)
        self._patience = self._random.choice((3, 20, 60, 200))  # operations before another may have the turn
        self._last: int | None = None
        self._changed = threading.Condition()
        self._waiting: dict[int, str] = {}
        self._active, self._next = set(range(actors)), None
        self.order: list[str] = []

    def wait(self, actor: int, what: str) -> None:
        """Until it is this actor's turn. An actor waits for one thing at a time."""
        with self._changed:
            while actor in self._waiting:  # another thread of the same actor
                self._changed.wait()
            self._waiting[actor] = what
            self._give()
            while self._next != actor:
                self._changed.wait()
            self._next = None
            self.order.append(f"{actor} {self._waiting.pop(actor)}")
            self._changed.notify_all()

    def leave(self, actor: int) -> None:
        """This actor has ended."""
        with self._changed:
            self._active.discard(actor)
            self._give()

    def _give(self) -> None:
        if self._next is None and self._active and self._active <= self._waiting.keys():
            if self._last not in self._waiting or self._random.random() * self._patience < 1:
                self._last = self._random.choice(sorted(self._waiting))
            self._next = self._last
            self._changed.notify_all()


class Turned:
    """A storage that waits for its actor's turn before every operation."""

    def __init__(self, inner: Storage, turns: Turns, actor: int) -> None:
        self._inner, self._turns, self._actor = inner, turns, actor

    @property
    def uri(self) -> str:
        return self._inner.uri

    def _wait(self, what: str, *paths: str) -> None:
        self._turns.wait(self._actor, f"{what} {' '.join(paths)}")

    def put(self, path: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> None:
        self._wait("put if absent" if if_absent else "put", path)
        self._inner.put(path, data, if_absent=if_absent)

    def read(self, path: str) -> bytes:
        self._wait("read", path)
        return self._inner.read(path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self._wait("read range of", path)
        return self._inner.read_range(path, start, length)

    def open(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(RangeFile(self, path, self.size(path)), mode="r")

    def exists(self, path: str) -> bool:
        self._wait("exists", path)
        return self._inner.exists(path)

    def size(self, path: str) -> int:
        self._wait("size", path)
        return self._inner.size(path)

    def list(self, prefix: str = "") -> list[str]:
        self._wait("list", prefix)
        return self._inner.list(prefix)

    def scan(self, prefix: str = "", *, follow_links: bool = False) -> Iterator[Entry]:
        self._wait("scan", prefix)
        return iter(list(self._inner.scan(prefix, follow_links=follow_links)))

    def delete(self, *paths: str) -> None:
        for path in paths:  # others may come between: a request with many deletes them one after another
            self._wait("delete", path)
            self._inner.delete(path)


def together(storage: Storage, acts: Sequence[Act], seed: int) -> tuple[list[Any], list[str]]:
    """What each act gave or raised, in their order, and the order of all operations."""
    turns = Turns(seed, len(acts))
    outcomes: list[Any] = [None] * len(acts)

    def play(actor: int, act: Act) -> None:
        try:
            outcomes[actor] = act(Turned(storage, turns, actor))
        except Exception as error:
            outcomes[actor] = error
        finally:
            turns.leave(actor)

    threads = [threading.Thread(target=play, args=pair, daemon=True) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "stuck:\n" + "\n".join(turns.order[-20:])
    return outcomes, turns.order
