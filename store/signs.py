"""Who is at work on a store: a small file for each run, each commit and each prune, renewed while it lives.

Object stores have no locks. What keeps a prune from taking away what a run builds on is an order of acts:

1. A **run** puts a sign of its own, then looks for signs of prunes; where there is one, it takes its own away
   and is refused. Only then does it look at what is in the store.
2. A **prune** puts a sign of its own, then looks for signs of runs; where there is one, it takes its own away
   and is refused. Only then does it look at what is in the store. Each looks after it was seen, so of two
   that begin together at least one sees the other (both may be refused, and none goes wrong).
3. Everybody takes away only the sign that he put: its name has a random token. So several prunes may work at
   once, and runs wait for the last of them. What each deletes no snapshot that it keeps needs; of all
   snapshots those stay that every one of them keeps.
4. A **commit** is a run of its own, however its files came to be: sign, look for prunes, look whether all
   files are there, put the manifest if there is none. So a run whose sign was lost, or that was held to be
   dead, cannot commit what a prune has taken or is about to take; it is refused and does that part again. A
   prune that was told to go on beside a run still waits for commits.

A sign counts while it lives: it is renewed every minute by a thread, whatever the work does, and holds for an
hour after. One whose process has ended on this same machine counts no longer. The age of another's sign is
taken from one's own, by the storage's clock. A prune that could not renew its sign for as long stops.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

from store.errors import SnapshotConflict, TextcamError
from store.storage import Entry, Storage

RUNNING, PRUNING = "work/running/", "work/prunes/"
RUN, COMMIT, PRUNE = "run", "commit", "prune"  # what the name of a sign begins with
RENEWED = 60.0  # seconds between two renewals
SILENT = timedelta(hours=1)  # without a renewal for so long, whoever put it is held to be dead


class Sign:
    """One's own sign. ``path`` is its file."""

    def __init__(self, storage: Storage, path: str) -> None:
        self.path, self._storage = path, storage
        self._put_at, self._ended = time.time(), Event()
        self._thread = Thread(target=self._keep, name=path, daemon=True)

    def put(self) -> None:
        """Raise it, or renew it."""
        self._storage.put(self.path, json.dumps(_myself()).encode())
        self._put_at = time.time()

    def check(self) -> None:
        """Raise SnapshotConflict if others may hold it to be dead: the machine slept, or was cut off."""
        if time.time() - self._put_at > SILENT.total_seconds() / 2:
            raise SnapshotConflict(
                "The prune was cut off from the store for too long, and stopped.",
                where=f"{self._storage.uri}/{self.path}",
                fix="Prune again.",
            )

    @contextmanager
    def up(self) -> Iterator[None]:
        """Up and renewed until the block ends, whichever way."""
        try:
            self.put()
            self._thread.start()
            yield
        finally:
            self._ended.set()
            if self._thread.is_alive():
                self._thread.join()  # a late renewal would put it anew
            with suppress(TextcamError):  # the block's own error, or its success, matters more
                self._storage.delete(self.path)

    def _keep(self) -> None:
        while not self._ended.wait(RENEWED):
            with suppress(TextcamError):
                self.put()


@contextmanager
def at_work(storage: Storage, kind: str = RUN) -> Iterator[None]:
    """Keep prunes away while a run (or a commit) is at work. Raises SnapshotConflict while a prune is."""
    sign = Sign(storage, _new_path(RUNNING, kind))
    with sign.up():
        if others := living(storage, PRUNING, sign):
            raise SnapshotConflict(
                f"This store is being pruned ({_whose(storage, others[0])}).",
                where=f"{storage.uri}/{others[0]}",
                fix="Wait for it to end and run the same command again. One that was killed on another "
                "machine is waited for an hour.",
            )
        sweep(storage, sign)
        yield


@contextmanager
def pruning(storage: Storage, *, even_beside_a_run: bool = False) -> Iterator[Sign]:
    """Keep runs away while a prune is at work. Raises SnapshotConflict while a run is."""
    sign = Sign(storage, _new_path(PRUNING, PRUNE))
    with sign.up():
        refuse_beside_a_run(storage, sign, even_beside_a_run=even_beside_a_run)
        sweep(storage, sign)
        yield sign


def refuse_beside_a_run(storage: Storage, sign: Sign | None, *, even_beside_a_run: bool = False) -> None:
    """Raise SnapshotConflict while a run is at work; with ``even_beside_a_run``, only while one commits."""
    for path in living(storage, RUNNING, sign):
        if not even_beside_a_run or path.startswith(f"{RUNNING}{COMMIT}-"):
            raise SnapshotConflict(
                f"A run is at work on this store, or was killed not long ago ({_whose(storage, path)}); "
                "nothing was dropped.",
                where=f"{storage.uri}/{path}",
                fix="Let it end. If it was killed on another machine, wait an hour or prune with "
                "--even-beside-a-run.",
            )


def living(storage: Storage, folder: str, own: Sign | None) -> list[str]:
    """Paths of the signs in a folder that count, but for one's own."""
    return [path for path, counts in _signs(storage, folder, own).items() if counts]


def sweep(storage: Storage, own: Sign) -> None:
    """Take away signs that do not count any more."""
    for folder in (RUNNING, PRUNING):
        storage.delete(*(path for path, counts in _signs(storage, folder, own).items() if not counts))


def _signs(storage: Storage, folder: str, own: Sign | None) -> dict[str, bool]:
    """For each sign but one's own, whether it counts."""
    listed = [one for one in storage.scan(folder) if own is None or one.path != own.path]
    now = _now(storage, own) if listed else 0.0
    return {one.path: _counts(storage, one, now) for one in listed}


def _now(storage: Storage, own: Sign | None) -> float:
    """The time by the storage's clock, from one's own sign, put a moment ago; else by this machine's."""
    return next((one.modified for one in storage.scan(own.path)), time.time()) if own else time.time()


def _counts(storage: Storage, sign: Entry, now: float) -> bool:
    if sign.modified < now - SILENT.total_seconds():
        return False
    told = _told(storage, sign.path)
    if told is None:
        return False
    here = _machine()
    return not (here and told.get("machine") == here and _since(told.get("process")) != told.get("since"))


def _told(storage: Storage, path: str) -> dict[str, Any] | None:
    """What a sign says of who put it; None where it is gone."""
    try:
        told = json.loads(storage.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _whose(storage: Storage, path: str) -> str:
    told = _told(storage, path) or {}
    return f"process {told.get('process', '?')} on {told.get('host', 'an unknown machine')}"


def _new_path(folder: str, kind: str) -> str:
    return f"{folder}{kind}-{secrets.token_hex(8)}"


def _myself() -> dict[str, Any]:
    process = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "process": process,
        "since": _since(process),
    }


def _machine() -> str:
    """This boot of this machine and its numbering of processes; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (not a path: "pid:[4026531836]")
    except OSError:
        return ""


def _since(process: Any) -> str:
    """When a process of this machine began, in its own clock's ticks; empty where there is none."""
    try:
        fields = Path(f"/proc/{int(process)}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, ValueError, TypeError, IndexError):
        return ""
