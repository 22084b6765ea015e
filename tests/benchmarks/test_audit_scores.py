"""Scores of audits, on answers and truths made by hand."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import audit, audit_cases
from benchmarks.truth import shortcuts
from benchmarks.truth.effects import CueEffect
from benchmarks.truth.shortcuts import Effect, biased_world, clean_world, drawn_shortcuts

pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")  # of a resample
SEED = 0  # four cues
SHOWN, HIDDEN = (0.9, True, True), (0.1, True, True)  # (score, used in truth, planted)
WRONG, UNPLANTED = (0.5, False, False), (0.8, True, False)


def test_pairs_that_are_used_and_were_not_planted_count_for_nothing() -> None:
    found = {one.name: one.value for one in audit.ranking_measures("x", [[SHOWN, UNPLANTED, WRONG, HIDDEN]])}
    assert found["x, precision at 10"] == pytest.approx(0.2)  # two of ten places
    assert found["x, AUPRC by world"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["x, precision at as many as a world has"] == 0.5


def test_what_is_not_named_is_not_found() -> None:
    missing = [(-1.0, True, True), (-1.0, False, False)]
    assert audit.precision_of_first(missing) == 0
    assert audit.ranking_measures("x", [missing])[0].value == 0


def test_agreement_is_that_of_ranks() -> None:
    pairs = np.array([[0.1, 1.0], [0.2, 8.0], [0.4, 9.0], [0.9, 11.0], [1.0, 10.0]])
    value, low, high = audit.agreement(pairs)
    assert value == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert low <= value <= high


def test_fewer_images_allow_less_agreement() -> None:
    def table(images: int) -> np.ndarray:
        truth = np.linspace(0, 0.5, 11)
        return np.array([[0, one, 0, images, images, 96, round(96 * (0.5 + one / 2))] for one in truth])

    few, many = audit.allowed_agreement(table(8))[0], audit.allowed_agreement(table(400))[0]
    assert 0.3 < few < 0.9 < many <= 1


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Measures of a biased classifier that uses three of its four cues, and of a clean one, both found guilty
    of the first cue; the biased one also of the second, which it does not use."""
    monkeypatch.setenv("TEXTCAM_WORLDS", str(tmp_path))
    planted = drawn_shortcuts(SEED)
    pairs = [(cue.class_name, cue.concept) for cue in planted]

    def true(case: audit_cases.Case, findings: object) -> dict[tuple[str, str], CueEffect]:
        flips = [1.0, 0.0, 1.0, 1.0] if case.world.planted else [0.0] * 4
        return {pair: CueEffect(*pair, flip, 96, flip, 96) for pair, flip in zip(pairs, flips, strict=True)}

    monkeypatch.setattr(audit, "effects", true)
    for world, used in ((biased_world(SEED), pairs[:2]), (clean_world(SEED), pairs[:1])):
        flips = [1.0, 0.0, 1.0, 1.0] if world.planted else [0.0] * 4
        effects = [
            Effect(*pair, cue.kind, True, flip, 2.0, 24)
            for pair, cue, flip in zip(pairs, planted, flips, strict=True)
        ]
        truth = [asdict(one) for one in effects]
        (shortcuts.cache() / f"truth-{world.key}.json").write_text(json.dumps(truth))
        findings = [
            {
                "class_name": pair[0],
                "text": pair[1],
                "rank": rank,
                "verdict": "used" if pair in used else "unproven",
                "effect": 0.9 - rank / 10,
                "n_with": 20,
                "n_without": 80,
            }
            for rank, pair in enumerate(pairs[:3], start=1)
        ]
        rivals = {"domino": [], "keywords": [[*pairs[0], 1.0]]}
        case = audit_cases.Case(world, confounded=True)
        case.answers.write_text(json.dumps({"findings": findings, "rivals": rivals}))
    return {one.name: one.value for one in audit.score([SEED])}


def test_verdicts_are_counted_against_the_truth(scored: dict[str, float]) -> None:
    assert scored["planted pairs (of biased worlds scored)"] == 4
    assert scored["planted pairs used by their classifier (of biased worlds scored)"] == 3
    assert scored["clean classifiers scored"] == 1
    assert scored["biased models, biased images: verdicts of use"] == 2
    assert scored["biased models, biased images: false verdicts of use"] == 1
    assert scored["clean models, biased images: false verdicts of use"] == 1
    assert scored["false among all verdicts of use"] == pytest.approx(2 / 3)


def test_what_became_of_used_pairs_is_told(scored: dict[str, float]) -> None:
    who = "biased models, biased images:"
    assert scored[f"{who} share of used planted pairs called used (n=3)"] == pytest.approx(1 / 3)
    assert scored[f"{who}   unproven"] == scored[f"{who}   not found"] == pytest.approx(1 / 3)


def test_rivals_stand_beside(scored: dict[str, float]) -> None:
    assert scored["keywords, images with the bias, precision at 10"] == pytest.approx(0.1)
    assert scored["domino, images with the bias, precision at 10"] == 0
    assert scored["keywords, images with the bias: pairs named for 1 clean classifiers"] == 1
    assert scored["audit, images with the bias, precision at 10"] == pytest.approx(0.2)
