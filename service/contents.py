"""What pages read of a store: its small tables, joined by id, and sums over the big ones that are streamed.

Memory: classes, texts, groups and findings whole; of `class_texts` and `explanations` only the best rows and
sums per class. Embeddings and activations are never read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.wording import FindingRow
from store.marks import marks
from store.reader import Snapshot
from textcam.catalogue import Confidences, confidences_of
from textcam.marks import with_marks
from textcam.records import findings_of

WORDS = 12  # words a class page lists
LEAST_PART = 0.01  # of the first word's share: words of less are not listed
GROUPS = 8  # groups a class page lists


Texts = dict[int, tuple[str, str]]  # text and kind by text_id


@dataclass(frozen=True)
class Word:
    """A text with its kind; ``value`` is a share of the evidence or a similarity, as the place says."""

    text_id: int
    text: str
    kind: str
    value: float


@dataclass(frozen=True)
class ClassRow:
    """A class with its words and its groups, both by falling share, and its findings by rank."""

    class_id: int
    name: str
    n_images: int
    accuracy: float | None
    words: tuple[Word, ...]
    groups: tuple["GroupShare", ...]
    findings: tuple[FindingRow, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class GroupRow:
    """A group of channels and its words (``value``: similarity)."""

    group_id: int
    channels: tuple[int, ...]
    words: tuple[Word, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class GroupShare:
    """A group's part of what speaks for a class, over all images explained as that class."""

    group: GroupRow
    share: float


@dataclass
class Contents:
    """One store as the pages see it. ``label`` names it beside other stores."""

    snapshot: Snapshot
    label: str
    texts: Texts
    groups: dict[int, GroupRow]
    classes: dict[int, ClassRow]
    findings: tuple[FindingRow, ...]
    counts: dict[str, int]
    confidences: Confidences

    @classmethod
    def read(cls, snapshot: Snapshot, label: str) -> "Contents":
        """Read and join. Raises what the reader raises (Damaged, FormatTooNew ...)."""
        texts = {
            row["text_id"]: (row["text"], row["kind"])
            for row in _rows(snapshot, "texts", ["text_id", "text", "kind"])
        }
        sure = confidences_of(snapshot)
        groups = {
            row["group_id"]: GroupRow(
                row["group_id"],
                tuple(row["channels"]),
                words_of(texts, row["text_ids"], row["similarities"]),
                sure["group"].get(row["group_id"]),
            )
            for row in _rows(snapshot, "groups", ["group_id", "channels", "text_ids", "similarities"])
        }
        named = _rows(snapshot, "classes", ["class_id", "name", "n_images", "accuracy"])
        findings = _findings(snapshot, texts, {row["class_id"]: row["name"] for row in named})
        found: dict[int, list[FindingRow]] = {}
        for finding in findings:
            found.setdefault(finding.finding.class_id, []).append(finding)
        shares = _class_texts(snapshot, texts)
        group_shares = _class_groups(snapshot, groups)
        classes = {
            row["class_id"]: ClassRow(
                **row,
                words=shares.get(row["class_id"], ()),
                groups=group_shares.get(row["class_id"], ()),
                findings=tuple(found.get(row["class_id"], ())),
                confidence=sure["class"].get(row["class_id"]),
            )
            for row in named
        }
        counts = {name: snapshot.count(name) for name in ("images", "errors", "channels")}
        return cls(snapshot, label, texts, groups, classes, findings, counts, sure)

    @property
    def accuracy(self) -> float | None:
        """Over all images with a label; None without labels."""
        known = [(row.n_images, row.accuracy) for row in self.classes.values() if row.accuracy is not None]
        total = sum(n for n, _ in known)
        return sum(n * accuracy for n, accuracy in known) / total if total else None


def words_of(texts: Texts, text_ids: Iterable[int], values: Iterable[float]) -> tuple[Word, ...]:
    """Text ids and their values as words; an id of -1 (an empty place) is left out."""
    return tuple(
        Word(text_id, *texts.get(text_id, (f"text {text_id}", "other")), value=value)
        for text_id, value in zip(text_ids, values, strict=True)
        if text_id >= 0
    )


def _rows(snapshot: Snapshot, table: str, columns: list[str]) -> list[dict[str, Any]]:
    return snapshot.table(table, columns).to_pylist() if snapshot.has(table) else []


def _findings(snapshot: Snapshot, texts: Texts, class_names: dict[int, str]) -> tuple[FindingRow, ...]:
    if not snapshot.has("findings"):
        return ()
    found, said = findings_of(snapshot.table("findings")), marks(snapshot.storage)
    pairs = [
        (
            class_names.get(finding.class_id, f"class {finding.class_id}"),
            texts.get(finding.text_id, (f"group {finding.group_id}", ""))[0],
        )
        for finding in found
    ]
    named = {finding.finding_id: pair for finding, pair in zip(found, pairs, strict=True)}
    return tuple(
        FindingRow(finding, *named[finding.finding_id], said.get(named[finding.finding_id]))
        for finding in with_marks(found, pairs, said)
    )


def _class_texts(snapshot: Snapshot, texts: Texts) -> dict[int, tuple[Word, ...]]:
    """Per class its first words by falling share."""
    kept: dict[int, list[tuple[float, int]]] = {}
    if not snapshot.has("class_texts"):
        return {}
    for batch in snapshot.batches("class_texts", ["class_id", "text_id", "share"]):
        class_ids, text_ids, shares = (batch.column(index).to_numpy() for index in range(3))
        for class_id in np.unique(class_ids):
            here = (class_ids == class_id) & (shares > 0)
            rows = kept.setdefault(int(class_id), [])
            rows.extend(zip((-shares[here]).tolist(), text_ids[here].tolist(), strict=True))
            rows.sort()
            del rows[WORDS:]
    listed = {
        class_id: [(text_id, -share) for share, text_id in rows if share <= LEAST_PART * rows[0][0]]
        for class_id, rows in kept.items()
    }
    return {
        class_id: words_of(texts, [text_id for text_id, _ in rows], [share for _, share in rows])
        for class_id, rows in listed.items()
    }


def _class_groups(snapshot: Snapshot, groups: dict[int, GroupRow]) -> dict[int, tuple[GroupShare, ...]]:
    """Per class its groups by their part of what speaks for it, summed over the images explained as it."""
    if not snapshot.has("explanations") or not groups:
        return {}
    sums: dict[int, NDArray[np.float64]] = {}
    size = max(groups) + 1
    for batch in snapshot.batches("explanations", ["class_id", "group_ids", "group_contributions"]):
        lists = batch.column(1)
        class_ids = np.repeat(batch.column(0).to_numpy(), lists.value_lengths().to_numpy())
        group_ids = lists.flatten().to_numpy()
        values = batch.column(2).flatten().to_numpy().astype(np.float64)
        for class_id in np.unique(class_ids):
            here = class_ids == class_id
            total = sums.setdefault(int(class_id), np.zeros(size))
            total += np.bincount(group_ids[here], weights=values[here], minlength=size)
    return {class_id: _ranked(total, groups) for class_id, total in sums.items()}


def _ranked(total: NDArray[np.float64], groups: dict[int, GroupRow]) -> tuple[GroupShare, ...]:
    positive = total.clip(min=0)
    whole = positive.sum()
    order = [int(group) for group in np.argsort(-positive, kind="stable")[:GROUPS] if positive[group] > 0]
    return tuple(GroupShare(groups[one], float(positive[one] / whole)) for one in order if one in groups)
