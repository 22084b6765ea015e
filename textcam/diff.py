"""What changed between two stores, or two snapshots of one: two checkpoints of a model, or a set that grew.

Classes are compared by name, words by text and findings by id, so stores of different models and text banks
can be compared. Images are streamed and held as a few numbers each; files that both snapshots have are not
read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from store.reader import Snapshot
from store.schema import stable_id
from textcam.answers import Word
from textcam.audit import Finding
from textcam.catalogue import Catalogue
from textcam.records import findings_of

WORDS = 5  # words of a class that are shown
NAMES = 5  # images that are named
LEAST_MOVE = 0.01  # of a class's evidence: less is not called a change of words


@dataclass(frozen=True)
class Side:
    """One of the two: where it is and how much it holds."""

    store: str
    snapshot: int
    images: int
    errors: int
    findings: int


@dataclass(frozen=True)
class Change:
    """A setting or fingerprint and its values; None where it was not set."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class ImageChanges:
    """Counts of images, with the URIs of the first few. ``changed`` images have other content under the same
    URI, ``repredicted`` ones another predicted class (by name) with the same content.
    """

    added: int
    removed: int
    changed: int
    repredicted: int
    added_names: tuple[str, ...]
    removed_names: tuple[str, ...]
    changed_names: tuple[str, ...]
    repredicted_names: tuple[str, ...]


@dataclass(frozen=True)
class ClassChange:
    """A class in both; accuracy is None without labels, all is None where the class was not there.

    ``moved`` is the part of the class's evidence that went to other words, 0 to 1: half the sum of the
    differences of the shares (total variation distance). Words are the first few by share.
    """

    name: str
    n_before: int | None
    n_after: int | None
    accuracy_before: float | None
    accuracy_after: float | None
    moved: float | None
    words_before: tuple[Word, ...]
    words_after: tuple[Word, ...]


@dataclass(frozen=True)
class FindingChange:
    """A finding of one side or both; what a side does not have is None."""

    class_name: str
    text: str
    before: Finding | None
    after: Finding | None


@dataclass(frozen=True)
class StoreDiff:
    """All that changed. ``classes`` are those that differ in anything, the most moved first; findings by
    rank.
    """

    before: Side
    after: Side
    fingerprints: tuple[Change, ...]
    settings: tuple[Change, ...]
    images: ImageChanges
    classes: tuple[ClassChange, ...]
    findings_came: tuple[FindingChange, ...]
    findings_went: tuple[FindingChange, ...]
    verdicts_changed: tuple[FindingChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing changed."""
        images = self.images
        counted = (images.added, images.removed, images.changed, images.repredicted)
        found = (self.findings_came, self.findings_went, self.verdicts_changed)
        return not (any(counted) or self.fingerprints or self.settings or self.classes or any(found))


def diff(a: Snapshot, b: Snapshot) -> StoreDiff:
    """What is different in ``b``. Raises Damaged where a file that is read is."""
    first, second = _Contents(a), _Contents(b)
    came, went, changed = _findings(first, second)
    return StoreDiff(
        before=_side(a),
        after=_side(b),
        fingerprints=tuple(_changes(a.manifest.fingerprints, b.manifest.fingerprints)),
        settings=tuple(_changes(_flat(a.manifest.config), _flat(b.manifest.config))),
        images=_images(first, second),
        classes=_classes(first, second),
        findings_came=came,
        findings_went=went,
        verdicts_changed=changed,
    )


class _Contents:
    """The small tables of one side."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.catalogue = Catalogue(snapshot, "whole", centre=False)
        self.names = self.catalogue.classes.names
        self.findings = {one.finding_id: one for one in findings_of(snapshot.table("findings"))}

    def words(self, class_id: int) -> list[Word]:
        """A class's texts by falling share."""
        rows = [row for row in self.catalogue.class_texts.get(class_id, []) if row["share"] > 0]
        return list(
            self.catalogue.texts.words([row["text_id"] for row in rows], share=[row["share"] for row in rows])
        )


def _side(snapshot: Snapshot) -> Side:
    counts = (snapshot.count(name) for name in ("images", "errors", "findings"))
    return Side(snapshot.storage.uri, snapshot.manifest.snapshot, *counts)


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name), after.get(name))


# --- images -----------------------------------------------------------------------------------------------


def _images(first: _Contents, second: _Contents) -> ImageChanges:
    """Compare images by id, content and predicted class, each held as three numbers.

    What is in a file that both snapshots have did not change; class ids mean the same there, since such
    snapshots are of one model.
    """
    a, b = first.snapshot, second.snapshot
    shared = {part.sha256 for part in a.parts("images")} & {part.sha256 for part in b.parts("images")}
    names = {name: at for at, name in enumerate(dict.fromkeys([*first.names, *second.names]))}
    old, new = _read(first, shared, names), _read(second, shared, names)
    both, at_old, at_new = np.intersect1d(old["id"], new["id"], assume_unique=True, return_indices=True)
    other = old["content"][at_old] != new["content"][at_new]
    turned = ~other & (old["predicted"][at_old] != new["predicted"][at_new])
    added = np.setdiff1d(new["id"], both, assume_unique=True)
    removed = np.setdiff1d(old["id"], both, assume_unique=True)
    changed, repredicted = both[other], both[turned]
    return ImageChanges(
        added=len(added),
        removed=len(removed),
        changed=len(changed),
        repredicted=len(repredicted),
        added_names=_first_names(b, shared, added),
        removed_names=_first_names(a, shared, removed),
        changed_names=_first_names(b, shared, changed),
        repredicted_names=_first_names(b, shared, repredicted),
    )


_ROW = np.dtype([("id", np.int64), ("content", np.int64), ("predicted", np.int64)])


def _read(side: _Contents, shared: set[str], names: Mapping[str, int]) -> NDArray[Any]:
    """(n,) rows of ids, contents and predictions, of the files that are not shared."""
    snapshot, columns = side.snapshot, ["image_id", "content_hash", "prediction"]
    number = np.array([names[name] for name in side.names], np.int64)
    pieces = [np.empty(0, _ROW)]
    for batch in _unshared(snapshot, shared, columns):
        piece = np.empty(len(batch), _ROW)
        piece["id"] = batch.column("image_id").to_numpy()
        piece["content"] = [stable_id(one) for one in batch.column("content_hash").to_pylist()]
        piece["predicted"] = number[batch.column("prediction").to_numpy()]
        pieces.append(piece)
    return np.concatenate(pieces)


def _unshared(snapshot: Snapshot, shared: set[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    for part in snapshot.parts("images"):
        if part.sha256 not in shared:
            yield from snapshot.open_part(part).iter_batches(8192, columns=columns)


def _first_names(snapshot: Snapshot, shared: set[str], ids: NDArray[np.int64]) -> tuple[str, ...]:
    """URIs of the first few by id (ids are hashes: a random draw)."""
    chosen = pa.array(np.sort(ids)[:NAMES])
    found: dict[int, str] = {}
    for batch in _unshared(snapshot, shared, ["image_id", "uri"]) if len(chosen) else ():
        mine = batch.filter(pc.is_in(batch.column("image_id"), value_set=chosen)).to_pydict()
        found |= dict(zip(mine["image_id"], mine["uri"], strict=True))
    return tuple(found[one] for one in sorted(found))


# --- classes ----------------------------------------------------------------------------------------------


def _classes(first: _Contents, second: _Contents) -> tuple[ClassChange, ...]:
    names = dict.fromkeys([*first.names, *second.names])
    made = [one for name in names if (one := _class(name, first, second)) is not None]
    return tuple(sorted(made, key=lambda one: -(1.0 if one.moved is None else one.moved)))


def _class(name: str, first: _Contents, second: _Contents) -> ClassChange | None:
    """A class that differs; None where it does not. Of classes with the same name the first counts."""
    counts: list[int | None] = []
    accuracies: list[float | None] = []
    words: list[list[Word]] = []
    for side in (first, second):
        at, classes = side.names.index(name) if name in side.names else -1, side.catalogue.classes
        counts.append(classes.n_images[at] if at >= 0 else None)
        accuracies.append(classes.accuracy[at] if at >= 0 else None)
        words.append(side.words(at) if at >= 0 else [])
    moved = None if None in counts else moved_share(*words)
    same = counts[0] == counts[1] and accuracies[0] == accuracies[1]
    if same and moved is not None and moved < LEAST_MOVE:
        return None
    before, after = (tuple(one[:WORDS]) for one in words)
    return ClassChange(name, counts[0], counts[1], accuracies[0], accuracies[1], moved, before, after)


def moved_share(before: Sequence[Word], after: Sequence[Word]) -> float:
    """The part of the evidence that went from one text to another, 0 to 1 (ours): total variation distance.

    A class without words on one side only has moved whole.
    """
    shares = [{word.text: word.share or 0.0 for word in words} for words in (before, after)]
    if not before or not after:
        return float(bool(before) != bool(after))
    texts = shares[0].keys() | shares[1].keys()
    return sum(abs(shares[0].get(text, 0.0) - shares[1].get(text, 0.0)) for text in sorted(texts)) / 2


# --- findings ---------------------------------------------------------------------------------------------

_Found = tuple[tuple[FindingChange, ...], tuple[FindingChange, ...], tuple[FindingChange, ...]]


def _findings(first: _Contents, second: _Contents) -> _Found:
    """Those that came, by rank after; that went, by rank before; and whose verdict changed, by rank after."""
    came = [one for one in second.findings if one not in first.findings]
    went = [one for one in first.findings if one not in second.findings]
    changed = [
        one
        for one, finding in second.findings.items()
        if one in first.findings and first.findings[one].verdict != finding.verdict
    ]
    return (
        tuple(_finding(one, first, second) for one in _by_rank(second, came)),
        tuple(_finding(one, first, second) for one in _by_rank(first, went)),
        tuple(_finding(one, first, second) for one in _by_rank(second, changed)),
    )


def _by_rank(side: _Contents, ids: Iterable[int]) -> list[int]:
    return sorted(ids, key=lambda one: side.findings[one].rank)


def _finding(finding_id: int, first: _Contents, second: _Contents) -> FindingChange:
    before, after = first.findings.get(finding_id), second.findings.get(finding_id)
    side, one = (second, after) if after is not None else (first, first.findings[finding_id])
    text = side.catalogue.texts.words([one.text_id])[0].text
    return FindingChange(side.names[one.class_id], text, before, after)
