"""Drop what no kept snapshot needs: old snapshots' own files, and what ended runs left behind.

Manifests go first, the oldest before the others, then files: whenever a prune is cut short, every snapshot
that is still there is whole. A run on the store and a prune of it keep out of each other's way by two signs:
each puts its own first and then looks for the other's, so at least one of the two sees the other.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from store.errors import ConfigError, Damaged, SnapshotConflict, TextcamError
from store.manifest import Manifest, manifest_path, read_manifest, snapshots
from store.storage import Entry, Storage, concurrently, step

RUNNING = "work/running/"  # one file for each run at work, renewed as it goes
PRUNING = "work/pruning"  # there while a prune is at work, and after one that was killed
RECORDS = "work/records/"
PRUNED = ("parts/", "indexes/", "work/")  # nothing else in the store's folder is touched
GRACE = timedelta(hours=24)
RENEWED = 60.0  # seconds between two renewals of a run's sign


def plan_path(fingerprint: str) -> str:
    """Where the plan of a snapshot is kept: which images there were, and in which shards."""
    return f"work/plans/{fingerprint}.parquet"


@dataclass(frozen=True)
class Pruned:
    """What a prune dropped, or would drop: snapshots, and files (their bytes) beside the manifests.

    ``spared`` files belong to no snapshot but are younger than the grace period.
    """

    kept_snapshots: tuple[int, ...]
    dropped_snapshots: tuple[int, ...]
    dropped_files: int
    dropped_bytes: int
    spared_files: int
    dry_run: bool


# --- a run at work ------------------------------------------------------------------------------------------


@contextmanager
def at_work(storage: Storage, name: str) -> Iterator[Callable[[], None]]:
    """Keep prunes away while a run is at work; yields what renews the sign, to be called as work goes on.

    ``name`` is the same for the same run, so that a run that was killed and is run again takes over its sign.
    Raises SnapshotConflict while a prune is at work.
    """
    path, renewed = f"{RUNNING}{name}", time.monotonic()
    storage.put(path, b"")

    def renew() -> None:
        nonlocal renewed
        if time.monotonic() - renewed > RENEWED:
            storage.put(path, b"")
            renewed = time.monotonic()

    try:
        if storage.exists(PRUNING):
            raise SnapshotConflict(
                "This store is being pruned.",
                where=storage.uri,
                fix="Wait for the prune to end; if it was killed, run it again.",
            )
        yield renew
    finally:
        with suppress(TextcamError):  # the run's own error, or its success, matters more
            storage.delete(path)


# --- a prune ------------------------------------------------------------------------------------------------


def prune(storage: Storage, keep: int = 1, *, dry_run: bool = False, grace: timedelta = GRACE) -> Pruned:
    """Keep the newest ``keep`` snapshots, and drop the others and all files that none of the kept needs.

    Files that no snapshot ever named (of a run that did not end) are dropped when they are older than
    ``grace``. Raises ConfigError for a ``keep`` below 1, StoreNotFound without a snapshot, SnapshotConflict
    while a run is at work (its sign is younger than ``grace``), Damaged where a kept manifest is; then
    nothing was dropped.
    """
    if keep < 1:
        raise ConfigError(f"{keep} snapshots cannot be kept.", where="keep", fix="Keep at least 1.")
    read_manifest(storage)  # there must be one, and it must be sound
    if dry_run:
        _refuse_beside_a_run(storage, grace)
        return _drop(storage, keep, grace, dry_run=True)
    storage.put(PRUNING, b"")
    try:
        _refuse_beside_a_run(storage, grace)
        return _drop(storage, keep, grace, dry_run=False)
    finally:
        with suppress(TextcamError):
            storage.delete(PRUNING)


def _refuse_beside_a_run(storage: Storage, grace: timedelta) -> None:
    for entry in storage.scan(RUNNING):
        if _is_young(entry, grace):
            raise SnapshotConflict(
                "A run is at work on this store, or was killed not long ago; nothing was dropped.",
                where=f"{storage.uri}/{entry.path}",
                fix="Let it end or run it again; if there is none, prune with --grace 0.",
            )


def _is_young(entry: Entry, grace: timedelta) -> bool:
    return entry.modified > time.time() - grace.total_seconds()


def _drop(storage: Storage, keep: int, grace: timedelta, *, dry_run: bool) -> Pruned:
    numbers = snapshots(storage)
    dropped, kept = numbers[:-keep], numbers[-keep:]
    manifests = {number: read_manifest(storage, number) for number in kept}
    manifests |= {number: made for number in dropped if (made := _readable(storage, number))}
    entries = {one.path: one for prefix in PRUNED for one in storage.scan(prefix) if one.path != PRUNING}
    records = _records(storage, [path for path in entries if path.startswith(RECORDS)])
    needed = _needed([manifests[number] for number in kept], records)
    once_needed = _needed(manifests.values(), records)
    candidates = sorted(entries.keys() - needed)
    spared = [one for one in candidates if one not in once_needed and _is_young(entries[one], grace)]
    doomed = sorted({*candidates} - {*spared})
    if not dry_run:
        for path in [*map(manifest_path, dropped), *doomed]:
            step("prune:next")
            storage.delete(path)
    return Pruned(
        kept_snapshots=tuple(kept),
        dropped_snapshots=tuple(dropped),
        dropped_files=len(doomed),
        dropped_bytes=sum(entries[path].size for path in doomed),
        spared_files=len(spared),
        dry_run=dry_run,
    )


def _readable(storage: Storage, number: int) -> Manifest | None:
    """A manifest that is to go; a damaged one names nothing."""
    try:
        return read_manifest(storage, number)
    except Damaged:
        return None


def _records(storage: Storage, paths: list[str]) -> dict[str, list[str]]:
    """The files that each record of a run names, by the record's own path."""

    def files_of(path: str) -> list[str]:
        try:
            return [str(one["path"]) for one in json.loads(storage.read(path))["files"]]
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            return []  # no record; to be dropped like any file that nobody needs

    return dict(zip(paths, concurrently(files_of, paths), strict=True))


def _needed(manifests: Iterable[Manifest], records: Mapping[str, list[str]]) -> set[str]:
    """Files that these snapshots name, and those of the runs that made them.

    A record is needed if the snapshots name all its parts, or, where it has none, if a needed record shares
    a work file with it. With the records a later run goes on from here without doing this work again.
    """
    named: set[str] = set()
    for manifest in manifests:
        named |= {*manifest.paths(), plan_path(manifest.fingerprints.get("plan", ""))}
    needed, waiting = set(named), dict(records)
    while True:
        found = [path for path, files in waiting.items() if _is_needed(files, named, needed)]
        if not found:
            return needed
        for path in found:
            needed |= {path, *waiting.pop(path)}


def _is_needed(files: list[str], named: set[str], needed: set[str]) -> bool:
    parts = {path for path in files if path.startswith("parts/")}
    return parts <= named if parts else not needed.isdisjoint(files)
