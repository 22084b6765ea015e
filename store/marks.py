"""What people said about findings: a log of small files, one a mark, in ``marks/`` of the store.

A mark names a class and a text by their names, not by ids of a snapshot, so it holds for every snapshot,
older and later ones. Files are numbered, written only where there is none of the number yet, and never
changed: two people at once both get theirs in, and the later of two marks of the same pair counts. A mark is
taken back by another one that says so. A prune leaves them alone, and ``verify`` checks each against the hash
that it carries.
"""

from dataclasses import asdict, dataclass
from typing import Annotated

from annotated_types import Predicate

from store.documents import STRICT, numbered, numbers, parse, seal, unseal
from store.errors import ConfigError, Damaged, SnapshotConflict
from store.storage import Storage, concurrently

FOLDER = "marks/"
CORE, SPURIOUS, UNCLEAR = "core", "spurious", "unclear"
SAID = (CORE, SPURIOUS, UNCLEAR)
REMOVED = "removed"
_ATTEMPTS = 100


def is_said(word: str) -> bool:
    """Whether it is a word that a mark can say."""
    return word in (*SAID, REMOVED)


@dataclass(frozen=True)
class Mark:
    """What somebody said about a class going by a text: ``said`` is core, spurious or unclear, or removed
    where an earlier mark of the pair is taken back.
    """

    __pydantic_config__ = STRICT
    class_name: str
    text: str
    said: Annotated[str, Predicate(is_said)]
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
    if not is_said(mark.said):
        raise ConfigError(f"A finding cannot be marked {mark.said!r}.", fix=f"Allowed: {', '.join(SAID)}.")
    data = seal(asdict(mark))
    number = max(numbers(storage, FOLDER), default=0)
    for next_number in range(number + 1, number + 1 + _ATTEMPTS):
        path = numbered(FOLDER, next_number)
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
    return [numbered(FOLDER, number) for number in numbers(storage, FOLDER)]


def _decoded(data: bytes, where: str) -> Mark:
    what, fix = "A mark's file is not the one that was written.", "Remove it, mark anew."
    mark = parse(Mark, unseal(data, what, where, fix), "A mark's file", where, fix)
    if seal(asdict(mark)) != data:
        raise Damaged(what, where=where, fix=fix)
    return mark
