from dataclasses import replace

import numpy as np
import pytest

from store.errors import SchemaMismatch
from textcam.audit import Finding
from textcam.proof import Proof, margins, sentence, verdict, weigh, with_proof

SNOW = Finding(
    finding_id=1,
    class_id=2,
    text_id=3,
    group_id=4,
    kind="scene",
    share=0.614,
    accuracy_with=0.94,
    accuracy_without=0.41,
    n_with=812,
    n_without=97,
    effect=0.53,
    effect_low=0.41,
    effect_high=0.64,
    q_value=1e-30,
    flip_rate=0.17,
    proof_drop=None,
    proof_control=None,
    proof_n=0,
    verdict="association",
    rank=1,
)
STEADY = np.array([0.1, -0.1] * 5)  # ten images, standard deviation 0.105, half interval 0.075


@pytest.mark.parametrize(
    ("mean", "margin", "said"),
    [
        (2.0, 2.0, "used"),  # sure, and all of the margin
        (2.0, 8.0, "association"),  # sure, but at most 2.075 of the 4 that would matter
        (1.0, 2.0, "used"),  # exactly half
        (0.97, 2.0, "unproven"),  # [0.895, 1.045] holds the limit of 1
        (0.0, 2.0, "association"),
        (-3.0, 2.0, "association"),  # the control cost more
        (0.02, 0.02, "unproven"),  # enough, but not sure to be above 0
        (2.0, 0.0, "unproven"),  # no margin to compare with
        (2.0, -1.0, "unproven"),
    ],
)
def test_verdict(mean, margin, said):
    control = np.arange(10.0)
    proof = verdict(control + mean + STEADY, control, margin)
    assert proof.verdict == said
    assert proof.difference == pytest.approx(mean)
    assert proof.high - mean == pytest.approx(2.262157 * 0.1054093 / 10**0.5, rel=1e-4)
    assert (proof.drop, proof.control, proof.n) == (pytest.approx(4.5 + mean), 4.5, 10)


def test_pairs_count_not_the_two_means():
    """The falls differ wildly from image to image; their differences do not."""
    control = np.array([0.0, 100, -50, 30, 80, -20, 60, 10, 90])
    assert verdict(control + 1, control, 1.6).verdict == "used"
    assert verdict(np.roll(control, 1) + 1, control, 1.6).verdict == "unproven"


def test_few_images_prove_nothing():
    control = np.zeros(7)
    assert verdict(control + 5, control, 4.0).verdict == "unproven"
    assert verdict(np.full(8, 5.0), np.zeros(8), 4.0).verdict == "used"
    assert verdict(np.array([5.0]), np.array([0.0]), 4.0, least=1).verdict == "unproven"


@pytest.mark.parametrize(
    ("drop", "control"), [([1.0, 2.0], [1.0]), ([], []), ([np.nan], [0.0]), ([0.0], [np.inf])]
)
def test_falls_that_do_not_pair_up_are_refused(drop, control):
    with pytest.raises(SchemaMismatch):
        verdict(np.array(drop), np.array(control), 4.0)


def test_the_control_that_costs_more_counts():
    before, drop = np.full(8, 4.0), np.full(8, 3.0)
    little, much = np.array([0.1, 0.3] * 4), np.array([9.0, -6.0] * 4)  # means 0.2 and 1.5
    for kept, other in ((little, much), (much, little)):
        proof = weigh(before, drop, kept, other)
        assert (proof.drop, proof.control, proof.n) == (3, pytest.approx(1.5), 8)
        assert proof.verdict == "unproven"  # 1.5 of the 2 that matter, and anything but sure
    assert weigh(before, drop, little, little).verdict == "used"
    assert weigh(before * 2, drop, little, little).verdict == "association"  # 2.8 of the 4 that would matter


def test_margin_is_over_the_best_other_class():
    logits = np.array([[3.0, 1.0, 2.5], [0.0, 4.0, 5.0]])
    assert margins(logits, np.array([0, 1])).tolist() == [0.5, -1]
    assert margins(logits, 2).tolist() == [-0.5, 1]
    assert logits[0, 0] == 3.0
    with pytest.raises(SchemaMismatch, match="two classes"):
        margins(logits[:, :1], 0)


def test_proof_enters_the_finding():
    proven = with_proof(SNOW, verdict(np.full(9, 3.0), np.full(9, 0.5), 5.0))
    assert proven == replace(SNOW, proof_drop=3.0, proof_control=0.5, proof_n=9, verdict="used")


def test_a_proof_without_any_image_leaves_no_numbers():
    unproven = with_proof(SNOW, Proof("unproven", 0.0, 0.0, 0.0, 0.0, 0.0, 0))
    assert unproven == replace(SNOW, verdict="unproven")
    assert sentence(unproven, "snowplow", "snow").endswith(" Unproven: too few images to edit.")


def test_sentence_of_a_labelled_finding():
    assert sentence(SNOW, "snowplow", "snow") == (
        'snowplow: 61 % of the evidence is "snow" (scene). With it 94 % right (n=812), without 41 % (n=97), '
        "effect 53 points [41, 64], q < 0.001. 17 % flip when it is removed. "
        "Association only: no proof was run."
    )


def test_sentence_of_a_proven_finding():
    proven = replace(
        SNOW, q_value=0.0312, flip_rate=None, proof_drop=3.3, proof_control=1.05, proof_n=40, verdict="used"
    )
    assert sentence(proven, "snowplow", "snow").endswith(
        "effect 53 points [41, 64], q = 0.031. "
        "Used: edited away, the margin falls by 3.30, by 1.05 in the control (n=40)."
    )
    assert "Unproven: edited away" in sentence(replace(proven, verdict="unproven"), "snowplow", "snow")
    assert "Association only: edited away" in sentence(
        replace(proven, verdict="association"), "snowplow", "snow"
    )


NO_EFFECT = {"effect": None, "effect_low": None, "effect_high": None, "q_value": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"accuracy_without": None, "n_without": 0, **NO_EFFECT},
            "With it 94 % right (n=812); none of its images is without.",
        ),
        (
            {"accuracy_with": None, "n_with": 0, **NO_EFFECT},
            "None of its images has it; without it 41 % right (n=97).",
        ),
        (
            {"accuracy_with": None, "accuracy_without": None, "n_with": 0, "n_without": 0, **NO_EFFECT},
            "No image to compare.",
        ),
        (
            {"accuracy_with": None, "accuracy_without": None},
            "Images are called snowplow 53 points more often with it (n=812) "
            "than without (n=97) [41, 64], q < 0.001.",
        ),
        (
            {
                "accuracy_with": None,
                "accuracy_without": None,
                "effect": -0.1,
                "effect_low": -0.2,
                "effect_high": -0.004,
            },
            "Images are called snowplow 10 points less often with it (n=812) "
            "than without (n=97) [-20, 0], q < 0.001.",
        ),
    ],
)
def test_sentence_says_what_could_not_be_compared(changes, said):
    assert f"(scene). {said} 17 % flip" in sentence(replace(SNOW, **changes), "snowplow", "snow")
