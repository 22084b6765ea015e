"""The tables of docs/truth.md, written from results: what stands between markers is replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "truth.md"
Rows = dict[str, dict[str, dict[str, tuple[float, float, float]]]]
"""Value, low, high by part, entrant and measure."""


@dataclass(frozen=True)
class Table:
    """A table of one part: ``columns`` (heading, measure), ``entrants`` (those that are shown, and as what;
    empty for all), with intervals or without."""

    part: str
    columns: Sequence[tuple[str, str]]
    entrants: Sequence[tuple[str, str]] = ()
    intervals: bool = True

    def lines(self, rows: Rows) -> list[str]:
        """In Markdown; empty where the part was never run."""
        found = rows.get(self.part, {})
        shown = self.entrants or [(name, name) for name in found]
        made = ["| | " + " | ".join(heading for heading, _ in self.columns) + " |"]
        made.append("|---" * (len(self.columns) + 1) + "|")
        for name, title in shown:
            cells = [self._cell(found.get(name, {}).get(measure)) for _, measure in self.columns]
            if any(cells):
                made.append(f"| {title} | " + " | ".join(cells) + " |")
        return made if len(made) > 2 else []

    def _cell(self, triple: tuple[float, float, float] | None) -> str:
        if triple is None:
            return ""
        value, low, high = (number(one) for one in triple)
        return f"{value} [{low}, {high}]" if self.intervals else value


def number(value: float) -> str:
    """Two places, without a leading zero: .96, 1, -.05, 3.10."""
    text = f"{value:.2f}"
    if text in ("1.00", "0.00", "-0.00"):
        return text[-4]
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def replaced(page: str, marker: str, lines: Sequence[str]) -> str:
    """The page with ``lines`` between its markers; as it was where it has none, or there are no lines."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->\n"
    if begin not in page or not lines:
        return page
    before, rest = page.split(begin, 1)
    return before + begin + "".join(f"{line}\n" for line in lines) + end + rest.split(end, 1)[1]


def refresh_page(tables: Mapping[str, Sequence[str]]) -> None:
    """Write ``tables``, lines by marker, into the page."""
    page = PAGE.read_text()
    for marker, lines in tables.items():
        page = replaced(page, marker, lines)
    PAGE.write_text(page)
