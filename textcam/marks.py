"""How marks change what is shown: what people called the class itself sinks to the end of the findings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from store.marks import CORE, Mark
from textcam.audit import Finding

Pair = tuple[str, str]


def with_marks(
    findings: Sequence[Finding], pairs: Sequence[Pair], marks: Mapping[Pair, Mark]
) -> list[Finding]:
    """Findings by rank, those marked as core last, ranked anew from 1; ``pairs`` are their (class name,
    text)."""
    core = [pair in marks and marks[pair].said == CORE for pair in pairs]
    order = sorted(range(len(findings)), key=lambda at: (core[at], findings[at].rank))
    return [replace(findings[at], rank=rank) for rank, at in enumerate(order, start=1)]
