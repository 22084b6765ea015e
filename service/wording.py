"""Numbers and verdicts in words. The sentence of a finding itself is ``textcam.proof.sentence``."""

import math
from dataclasses import dataclass

from store.marks import Mark
from textcam.audit import Finding
from textcam.confidence import UNSURE
from textcam.proof import sentence


@dataclass(frozen=True)
class FindingRow:
    """A finding with the names that it refers to, and what somebody said about it, if anybody did."""

    finding: Finding
    class_name: str
    text: str
    mark: Mark | None = None

    @property
    def sentence(self) -> str:
        """The finding as a person reads it."""
        said = sentence(self.finding, self.class_name, self.text)
        return f"{said} {self.marked}" if self.mark else said

    @property
    def marked(self) -> str:
        """What somebody said, as a sentence; "" if nobody did."""
        if self.mark is None:
            return ""
        return f"Marked {self.mark.said}: {self.mark.note}" if self.mark.note else f"Marked {self.mark.said}."


@dataclass(frozen=True)
class Verdict:
    """What a verdict is called on a badge, in one line, and in full."""

    label: str
    short: str
    meaning: str


VERDICTS = {
    "used": Verdict(
        "used",
        "proven: the classifier relies on it",
        "Proven. The evidence was edited away where the encoder sees it, and the classifier gave way clearly "
        "more than when the same place was edited and the evidence kept.",
    ),
    "association": Verdict(
        "association",
        "goes together with the class; not shown to be used",
        "The word and the class go together in these images, but that the classifier uses it is not shown: "
        "no proof was run, or it found too small a difference to matter. It may be a property of the data.",
    ),
    "unproven": Verdict(
        "unproven",
        "a proof was tried and could not tell",
        "A proof was tried and could not tell: too few images, or too wide an interval. A lead, not a fact.",
    ),
}


def number(value: float) -> str:
    """A count in groups of three: 1281167 -> '1 281 167' (no-break spaces)."""
    return f"{value:,.0f}".replace(",", "\u00a0")


def percent(fraction: float | None) -> str:
    """A fraction as percent, with one digit below ten where it matters: .61 -> '61 %', .004 -> '0.4 %'."""
    if fraction is None or not math.isfinite(fraction):
        return "unknown"
    value = 100 * fraction
    digits = 1 if 0 < abs(value) < 9.95 and round(value, 1) != round(value) else 0
    return f"{value:.{digits}f} %"


def signed(value: float) -> str:
    """A contribution to a logit: 3.24 -> '+3.2', -.5 -> '−0.5'."""
    return f"{value:+.1f}".replace("-", "−")


def in_doubt(words: str, confidence: float | None) -> str:
    """Words with how sure they are; no answer where the first is more likely wrong than right."""
    if confidence is None:
        return words
    sure = f"confidence {percent(confidence)}"
    return f"{words} ({sure})" if confidence >= UNSURE else f"(no one word fits, {sure}: {words}?)"
