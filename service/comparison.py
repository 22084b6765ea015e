"""Several stores side by side, class by class: one probe set under two models, or two under one model."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.contents import ClassRow, Contents
from service.wording import VERDICTS, FindingRow, number, percent

FIRST = 5  # words of a class that are compared by eye
FINDINGS = 6  # of each store


@dataclass(frozen=True)
class Compared:
    """A store of the comparison, with the key that links to it carry."""

    key: str
    contents: Contents

    @property
    def label(self) -> str:
        """What the store is called."""
        return self.contents.label


@dataclass(frozen=True)
class ClassCell:
    """A class in one store, None where it has no such class, and those of its first words that differ."""

    key: str
    label: str
    row: ClassRow | None
    differing: frozenset[str]


@dataclass(frozen=True)
class ClassComparison:
    """A class in all stores. ``most`` is the largest share, the common scale of their bars."""

    name: str
    difference: float
    most: float
    cells: tuple[ClassCell, ...]


@dataclass(frozen=True)
class FindingCell:
    """A finding in one store; where it is none, the share of the word if it is one of the class's words."""

    key: str
    row: FindingRow | None
    share: float | None


@dataclass(frozen=True)
class FindingComparison:
    """A class and a word that are a finding in at least one store, and what they are in each."""

    class_name: str
    text: str
    kind: str
    cells: tuple[FindingCell, ...]


@dataclass(frozen=True)
class ComparisonPage:
    """The first findings of each store, by rank, and all classes, those whose words differ most first."""

    labels: tuple[Compared, ...]
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    findings: tuple[FindingComparison, ...]
    rows: tuple[ClassComparison, ...]
    first: int


def comparison(stores: Sequence[Compared]) -> ComparisonPage:
    """Put stores side by side; classes are matched by name."""
    by_name = [{row.name: row for row in one.contents.classes.values()} for one in stores]
    names = dict.fromkeys(name for rows in by_name for name in rows)
    made = [_compare(name, stores, [rows.get(name) for rows in by_name]) for name in names]
    made.sort(key=lambda one: -one.difference)
    facts = [
        ("Images", tuple(number(one.contents.counts["images"]) for one in stores)),
        ("Accuracy", tuple(percent(one.contents.accuracy) for one in stores)),
    ]
    for verdict in VERDICTS:
        counts = [sum(row.finding.verdict == verdict for row in one.contents.findings) for one in stores]
        facts.append((f"Findings, {VERDICTS[verdict].label}", tuple(number(count) for count in counts)))
    return ComparisonPage(tuple(stores), tuple(facts), _findings(stores, by_name), tuple(made), FIRST)


def words_difference(first: ClassRow, second: ClassRow) -> float:
    """How far two classes' words are apart, in [0, 1] (ours).

    Half the summed difference of the listed words' shares, made to add up to one (total variation distance).
    """
    shares = []
    for row in (first, second):
        whole = sum(word.value for word in row.words)
        shares.append({word.text: word.value / whole for word in row.words} if whole > 0 else {})
    if not all(shares):
        return float(shares[0] != shares[1])
    texts = sorted(shares[0].keys() | shares[1].keys())
    return sum(abs(shares[0].get(text, 0.0) - shares[1].get(text, 0.0)) for text in texts) / 2


def _compare(name: str, stores: Sequence[Compared], rows: Sequence[ClassRow | None]) -> ClassComparison:
    known = [row for row in rows if row is not None]
    firsts = [frozenset(word.text for word in row.words[:FIRST]) if row else frozenset() for row in rows]
    common = frozenset.intersection(*firsts)
    cells = [
        ClassCell(store.key, store.label, row, first - common)
        for store, row, first in zip(stores, rows, firsts, strict=True)
    ]
    pairs = [(a, b) for i, a in enumerate(known) for b in known[i + 1 :]]
    difference = max((words_difference(a, b) for a, b in pairs), default=0.0)
    most = max((word.value for row in known for word in row.words), default=0.0)
    return ClassComparison(name, difference, most, tuple(cells))


def _findings(
    stores: Sequence[Compared], by_name: Sequence[dict[str, ClassRow]]
) -> tuple[FindingComparison, ...]:
    found = [{(row.class_name, row.text): row for row in one.contents.findings} for one in stores]
    first = dict.fromkeys(pair for rows in found for pair in list(rows)[:FINDINGS])  # by store, then by rank
    made = []
    for class_name, text in first:
        cells = []
        for store, rows, classes in zip(stores, found, by_name, strict=True):
            words = classes[class_name].words if class_name in classes else ()
            share = next((word.value for word in words if word.text == text), None)
            cells.append(FindingCell(store.key, rows.get((class_name, text)), share))
        kind = next(cell.row.finding.kind for cell in cells if cell.row)
        made.append(FindingComparison(class_name, text, kind, tuple(cells)))
    return tuple(made)
