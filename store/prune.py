"""Drop what no kept snapshot needs: old snapshots' own files, and what ended runs left behind.

Manifests go first, the oldest before the others, then files: whenever a prune is cut short, every snapshot
that is still there is whole. A reader of a dropped one gets its rows or hears that it was pruned. Runs,
commits and other prunes are kept out of the way by signs; the whole order of acts stands in ``signs``.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from store.errors import ConfigError, Damaged, StoreNotFound
from store.manifest import Manifest, manifest_path, read_manifest, snapshots
from store.signs import PRUNING, RUNNING, pruning, refuse_beside_a_run
from store.storage import Entry, Storage, concurrently, step

RECORDS = "work/records/"
PRUNED = ("parts/", "indexes/", "work/")  # nothing else in the store's folder is touched
GRACE = timedelta(hours=24)
BATCH = 1000  # files that are deleted together, as object stores take them


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


def prune(
    storage: Storage,
    keep: int = 1,
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
    even_beside_a_run: bool = False,
) -> Pruned:
    """Keep the newest ``keep`` snapshots, and drop the others and all files that none of the kept needs.

    Files that no snapshot ever named (of a run that did not end) are dropped when they are older than
    ``grace``. Raises ConfigError for a ``keep`` below 1, StoreNotFound without a snapshot, Damaged where a
    kept manifest is, and SnapshotConflict while a run is at work; then nothing was dropped.
    ``even_beside_a_run`` goes ahead then (but not beside a commit): the run does again what it loses.
    """
    if keep < 1:
        raise ConfigError(f"{keep} snapshots cannot be kept.", where="keep", fix="Keep at least 1.")
    read_manifest(storage)  # there must be one, and it must be sound
    if dry_run:
        refuse_beside_a_run(storage, None, even_beside_a_run=even_beside_a_run)
        return _drop(storage, keep, grace, None)
    with pruning(storage, even_beside_a_run=even_beside_a_run) as sign:
        return _drop(storage, keep, grace, sign.check)


def _is_young(entry: Entry, grace: timedelta) -> bool:
    return entry.modified > time.time() - grace.total_seconds()


def _drop(storage: Storage, keep: int, grace: timedelta, check: Callable[[], None] | None) -> Pruned:
    """``check`` is asked before each deletion; without it nothing is deleted."""
    numbers = snapshots(storage)
    dropped, kept = numbers[:-keep], numbers[-keep:]
    manifests = {number: made for number in kept if (made := _unless_gone(storage, number))}
    needed_by = list(manifests.values())
    manifests |= {number: made for number in dropped if (made := _readable(storage, number))}
    entries = {one.path: one for prefix in PRUNED for one in storage.scan(prefix) if not _is_sign(one.path)}
    records = _records(storage, [path for path in entries if path.startswith(RECORDS)])
    needed = _needed(needed_by, records)
    once_needed = _needed(manifests.values(), records)
    candidates = sorted(entries.keys() - needed)
    spared = [one for one in candidates if one not in once_needed and _is_young(entries[one], grace)]
    doomed = sorted({*candidates} - {*spared})
    if check is not None:
        for batch in [*([manifest_path(number)] for number in dropped), *_batches(doomed)]:
            step("prune:next")
            check()
            storage.delete(*batch)
    return Pruned(
        kept_snapshots=tuple(kept),
        dropped_snapshots=tuple(dropped),
        dropped_files=len(doomed),
        dropped_bytes=sum(entries[path].size for path in doomed),
        spared_files=len(spared),
        dry_run=check is None,
    )


def _batches(paths: list[str]) -> Iterable[list[str]]:
    return (paths[first : first + BATCH] for first in range(0, len(paths), BATCH))


def _is_sign(path: str) -> bool:
    return path.startswith((RUNNING, PRUNING))


def _unless_gone(storage: Storage, number: int) -> Manifest | None:
    """A manifest that is to stay; None where another prune keeps fewer."""
    try:
        return read_manifest(storage, number)
    except StoreNotFound:
        return None


def _readable(storage: Storage, number: int) -> Manifest | None:
    """A manifest that is to go; one that is damaged, or gone already, names nothing."""
    try:
        return _unless_gone(storage, number)
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
