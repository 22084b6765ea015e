"""What people said about findings: a log of small files, one a mark, in ``marks/`` of the store.

A mark names a class and a text by their names, not by ids of a snapshot, so it holds for every snapshot,
older and later ones. Files are numbered, written only where there is none of the number yet, and never
changed: two people at once both get theirs in, and the later of two marks of the same pair counts. A mark is
taken back by another one that says so. A prune leaves them alone, and ``verify`` checks each against the hash
that it carries.
"""

import json
from dataclasses import asdict, dataclass

from store.errors import ConfigError, Damaged, SnapshotConflict
from store.manifest import sha256
from store.storage import Storage, concurrently

FOLDER = "marks/"
CORE, SPURIOUS, UNCLEAR = "core", "spurious", "unclear"
SAID = (CORE, SPURIOUS, UNCLEAR)
REMOVED = "removed"
_ATTEMPTS = 100


@dataclass(frozen=True)
class Mark:
    """What somebody said about a class going by a text: ``said`` is core, spurious or unclear, or removed
    where an earlier mark of the pair is taken back.
    """

    class_name: str
    text: str
    said: str
    note: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        """What the mark is about: class and text."""
        return self.class_name, self.text


def add_mark(storage: Storage, mark: Mark) -> str:
    """Write a mark as the newest one; the path of its file.

    Raises ConfigError for a word that is none of ``SAID``, SnapshotConflict if others were faster a hundred
    times.
    """
    if mark.said not in (*SAID, REMOVED):
        raise ConfigError(f"A finding cannot be marked {mark.said!r}.", fix=f"Allowed: {', '.join(SAID)}.")
    data = _encoded(mark)
    number = max((_number(path) for path in _paths(storage)), default=0)
    for next_number in range(number + 1, number + 1 + _ATTEMPTS):
        path = f"{FOLDER}{next_number:08d}.json"
        try:
            storage.put(path, data, if_absent=True)
        except SnapshotConflict:
            continue
        return path
    raise SnapshotConflict(
        "Too many others mark findings of this store.", where=storage.uri, fix="Try again."
    )


def marks(storage: Storage) -> dict[tuple[str, str], Mark]:
    """The newest mark of every pair of class and text, unless that one was taken back. Raises Damaged for a
    file that was altered.
    """
    read = concurrently(lambda path: _decoded(storage.read(path), f"{storage.uri}/{path}"), _paths(storage))
    newest = {mark.pair: mark for mark in read}
    return {pair: mark for pair, mark in newest.items() if mark.said != REMOVED}


def damaged_marks(storage: Storage) -> list[Damaged]:
    """One error for each mark's file that was altered."""
    found = []
    for path in _paths(storage):
        try:
            _decoded(storage.read(path), path)
        except Damaged as error:
            found.append(error)
    return found


def _paths(storage: Storage) -> list[str]:
    """By rising number."""
    return [path for path in storage.list(FOLDER) if _number(path)]


def _number(path: str) -> int:
    name = path.removeprefix(FOLDER).removesuffix(".json")
    return int(name) if len(name) == 8 and name.isascii() and name.isdigit() else 0


def _encoded(mark: Mark) -> bytes:
    body = asdict(mark)
    return _canonical({**body, "sha256": sha256(_canonical(body))})


def _canonical(body: dict[str, str]) -> bytes:
    return (json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def _decoded(data: bytes, where: str) -> Mark:
    try:
        body = json.loads(data)
        digest = body.pop("sha256")
        mark = Mark(**body)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(
            "A mark's file cannot be understood.", where=where, fix="Remove it, mark anew."
        ) from None
    if digest != sha256(_canonical(body)) or mark.said not in (*SAID, REMOVED):
        raise Damaged(
            "A mark's file is not the one that was written.", where=where, fix="Remove it, mark anew."
        )
    return mark
