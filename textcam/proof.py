"""When a finding is more than an association, and how it is put into words.

The proof edits the evidence away and compares the fall of the class's margin, image by image, with that
under two controls (ours). The first edits the same place of the same image and keeps the evidence. The
second makes the same edit on an image of the class that never had the evidence: what is patched together from
two pictures looks strange, and that alone costs even a clean model up to 0.8 of its margin. The control that
costs more counts.

Both a sure difference and one that matters are needed: on many images a clean model's small side effects are
sure, too.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from store.errors import SchemaMismatch
from textcam.audit import Finding
from textcam.shares import Floats, Ints
from textcam.statistics import mean_interval

# What the edit must cost beyond its control, as a part of the class's margin. On worlds whose truth is known,
# taking a cue out of the scene that costs less than this flips under 20 % of the predictions.
FRACTION = 0.5
LEAST_IMAGES = 8


@dataclass(frozen=True)
class Proof:
    """Mean falls of the margin under the edit and under its control, in units of the logit, over n images;
    mean of their paired differences with its 95 % t interval; the verdict."""

    verdict: str
    drop: float
    control: float
    difference: float
    low: float
    high: float
    n: int


def margins(logits: Floats, class_id: Ints | int) -> NDArray[np.float64]:
    """(B,): the class's logit minus the highest of the other classes, from logits (B, C) and class (B,) or
    one class for all. Raises SchemaMismatch for fewer than two classes."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise SchemaMismatch("A margin needs two classes or more", where=f"logits {logits.shape}")
    others = np.array(logits, np.float64)
    rows = np.arange(len(others))
    own: NDArray[np.float64] = others[rows, class_id]
    others[rows, class_id] = -np.inf
    best: NDArray[np.float64] = others.max(axis=1)
    return own - best


def verdict(
    drop: Floats, control: Floats, margin: float, *, fraction: float = FRACTION, least: int = LEAST_IMAGES
) -> Proof:
    """What paired falls of the margin say: drop (n,) under the edit, control (n,) under the control,
    ``margin`` the class's usual margin before any edit (its mean over these images). The rule
    (ours):

    used         the interval of drop - control lies above 0, its mean is at least ``fraction`` of the margin
    association  the interval lies below ``fraction`` of the margin: what there is is too small to matter
    unproven     neither, or fewer than ``least`` images, or a margin that is not positive

    Leave out images that the edit did not change (`edits.mean_change` of 0): they would speak for an
    association. Raises SchemaMismatch for lengths that differ, none at all, or values that are not finite.
    """
    drop, control = np.asarray(drop, np.float64), np.asarray(control, np.float64)
    if drop.shape != control.shape or drop.ndim != 1 or not len(drop):
        raise SchemaMismatch("Drop and control do not pair up", where=f"{drop.shape} and {control.shape}")
    if not (np.isfinite(drop).all() and np.isfinite(control).all()):
        raise SchemaMismatch("A fall of the margin is not finite", where="drop or control")
    mean, low, high = mean_interval(drop - control)
    enough = fraction * margin
    if len(drop) < least or not margin > 0:
        said = "unproven"
    elif low > 0 and mean >= enough:
        said = "used"
    elif high < enough:
        said = "association"
    else:
        said = "unproven"
    return Proof(said, float(drop.mean()), float(control.mean()), mean, low, high, len(drop))


def weigh(before: Floats, drop: Floats, kept: Floats, other: Floats) -> Proof:
    """The verdict on margins ``before`` any edit and their falls ``drop`` under the edit, ``kept`` under the
    edit that keeps the evidence and ``other`` under the edit of images without it; each (n,), row by row of
    one trial. The control is the one that costs more on average."""
    control = kept if np.mean(kept) > np.mean(other) else other
    return verdict(drop, control, float(np.mean(before)))


def with_proof(finding: Finding, proof: Proof) -> Finding:
    """The finding with its proof; its rank stays."""
    return replace(
        finding,
        proof_drop=proof.drop if proof.n else None,
        proof_control=proof.control if proof.n else None,
        proof_n=proof.n,
        verdict=proof.verdict,
    )


def sentence(finding: Finding, class_name: str, text: str) -> str:
    """One finding as a person reads it, without the docs."""
    parts = [f'{class_name}: {_percent(finding.share)} of the evidence is "{text}" ({finding.kind}).']
    parts += _comparison(finding, class_name)
    if finding.flip_rate is not None:
        parts.append(f"{_percent(finding.flip_rate)} flip when it is removed.")
    parts.append(_verdict_words(finding))
    return " ".join(parts)


def _comparison(finding: Finding, class_name: str) -> list[str]:
    with_, without = finding.accuracy_with, finding.accuracy_without
    if finding.effect is None or finding.effect_low is None or finding.effect_high is None:
        if with_ is not None:
            return [f"With it {_percent(with_)} right (n={finding.n_with}); none of its images is without."]
        if without is not None:
            return [
                f"None of its images has it; without it {_percent(without)} right (n={finding.n_without})."
            ]
        return ["No image to compare."]
    points = (
        f"{_points(finding.effect)} points [{_points(finding.effect_low)}, {_points(finding.effect_high)}]"
    )
    q = "" if finding.q_value is None else f", {_q(finding.q_value)}"
    if with_ is None or without is None:
        counts = f"with it (n={finding.n_with}) than without (n={finding.n_without})"
        more = "more" if finding.effect >= 0 else "less"
        size = f"{_points(abs(finding.effect))} points {more} often"
        span = f"[{_points(finding.effect_low)}, {_points(finding.effect_high)}]"
        return [f"Images are called {class_name} {size} {counts} {span}{q}."]
    return [
        f"With it {_percent(with_)} right (n={finding.n_with}), "
        f"without {_percent(without)} (n={finding.n_without}), effect {points}{q}."
    ]


def _verdict_words(finding: Finding) -> str:
    if finding.proof_n == 0 or finding.proof_drop is None or finding.proof_control is None:
        if finding.verdict == "unproven":
            return "Unproven: too few images to edit."
        return "Association only: no proof was run."
    falls = (
        f"edited away, the margin falls by {finding.proof_drop:.2f}, "
        f"by {finding.proof_control:.2f} in the control (n={finding.proof_n})"
    )
    opening = {"used": "Used", "association": "Association only", "unproven": "Unproven"}[finding.verdict]
    return f"{opening}: {falls}."


def _percent(fraction: float) -> str:
    return f"{_points(fraction)} %"


def _points(fraction: float) -> str:
    return f"{round(100 * fraction) + 0}"


def _q(q: float) -> str:
    return "q < 0.001" if q < 0.001 else f"q = {q:.3f}"
