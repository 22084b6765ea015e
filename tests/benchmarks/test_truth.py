"""The truth benchmark: measures by hand, worlds against what they claim, methods on a small world."""

import numpy as np
import pytest

from benchmarks.truth import measures, rivals
from benchmarks.truth.algebraic import AlgebraicWorld, make_algebraic
from benchmarks.truth.calibration import fit
from benchmarks.truth.causes import Causes
from benchmarks.truth.class_words import Words, _pursuit
from benchmarks.truth.concepts import Lattice, areas, judge_orders
from benchmarks.truth.evidence import Evidence, Labelled
from benchmarks.truth.ours import PAPER, Choices, Directions

SMALL = AlgebraicWorld(images=1000, channels=23, dim=64, attributes=20, distractors=30, noise=2.0)


@pytest.fixture(scope="module")
def small() -> tuple[Evidence, Labelled]:
    return make_algebraic(SMALL)


def test_label_measures_by_hand() -> None:
    labels = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 1]], bool)
    pooled = np.array([[3.0], [2.0], [0.0], [0.0]])
    right = measures.label_measures(Labelled(pooled, labels), np.array([0]))
    assert right["pearson"][0] == pytest.approx(np.corrcoef([3, 2, 0, 0], [1, 1, 0, 0])[0, 1])
    assert right["cosine"][0] == pytest.approx(5 / (13**0.5 * 2**0.5))
    assert right["auprc"][0] == right["f1"][0] == right["iou"][0] == 1
    for text in (1, 2, -1):  # in no image, in every image, no text
        nothing = measures.label_measures(Labelled(pooled, labels), np.array([text]))
        assert [values[0] for values in nothing.values()] == [0.0] * 5


def test_overlap_measures_by_hand() -> None:
    labels = np.array([[1], [1], [1], [0], [0], [0]], bool)
    pooled = np.array([[5.0], [4.0], [0.0], [3.0], [0.0], [0.0]])
    found = measures.label_measures(Labelled(pooled, labels), np.array([0]))
    assert found["iou"][0] == pytest.approx(2 / 4)
    assert found["f1"][0] == pytest.approx(2 / 3)


def test_map_measures_by_hand() -> None:
    maps = np.array([[[4.0, 0.0], [0.0, -9.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = np.array([[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 0]]], bool)
    assert measures.energy_ratio(maps, masks).tolist() == [4.0, 1.0, 0.0]
    assert measures.pointing(maps, masks)[:2].tolist() == [1.0, 1.0]
    assert measures.map_iou(maps, masks)[0] == 1.0
    empty = np.zeros((3, 2, 2), bool)
    assert np.isnan(measures.energy_ratio(maps, empty)).all()
    assert np.isnan(measures.pointing(maps, empty)).all()


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.9, 0.9, 0.1, 0.1])
    assert measures.calibration_error(confidence, np.array([1, 1, 0, 0]), bins=2) == pytest.approx(0.1)
    assert measures.calibration_error(confidence, np.array([0, 0, 1, 1]), bins=2) == pytest.approx(0.9)


def test_a_bootstrap_holds_its_value() -> None:
    value, low, high = measures.bootstrap(np.arange(101.0))
    assert value == 50
    assert 40 < low < 50 < high < 60


def test_named_right_by_hand() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    meanings = np.array([[1, 0, 1], [1, 0, 0]], bool)
    assert measures.named_right(scores, meanings, 1).tolist() == [1, 0]
    assert measures.named_right(scores, meanings, 2).tolist() == [0, 0]
    assert measures.named_right(scores, meanings, 3).tolist() == [1, 1]


def test_a_class_says_only_words_with_a_quarter_of_the_first_ones_share() -> None:
    shares = np.array([[0.6, 0.3, 0.1, 0.0]])
    words = Words(shares, shares, shares, shares)
    assert [words.rank(0, text) for text in range(4)] == [1.0, 2.0, float("inf"), float("inf")]


def test_the_algebraic_world_is_what_it_says(small: tuple[Evidence, Labelled]) -> None:
    evidence, scoring = small
    assert len(evidence.pooled) == len(scoring.pooled) == 500
    assert np.allclose(np.linalg.norm(evidence.embeddings, axis=1), 1, atol=1e-6)
    assert not scoring.labels[:, SMALL.attributes :].any(), "no image shows a distractor"
    assert (scoring.meanings.sum(1) == 1).all()
    own = measures.label_measures(scoring, scoring.meanings.argmax(1))
    assert own["pearson"].min() > 0.5, "a channel fires for what it means"


def test_methods_name_channels_of_an_easy_world_and_chance_does_not(
    small: tuple[Evidence, Labelled],
) -> None:
    evidence, scoring = small
    fitted = Directions(evidence)
    right = {
        "ours": fitted.scores(Choices(examples=50)),
        "paper": fitted.scores(PAPER),
        "ridge": fitted.scores(Choices(form="ridge")),
        **{name: method(evidence) for name, method in rivals.RIVALS.items()},
    }
    share = {name: measures.named_right(scores, scoring.meanings, 1).mean() for name, scores in right.items()}
    assert share.pop("chance") < 0.3
    assert share.pop("CLIP-Dissect") > 0.4
    assert min(share.values()) > 0.9, share


def test_auroc_is_that_of_pairs(small: tuple[Evidence, Labelled]) -> None:
    evidence, _ = small
    labels = np.random.default_rng(0).random((len(evidence.pooled), 2)) < 0.3
    made = rivals.invert(evidence, labels)
    with_it, without = evidence.pooled[labels[:, 0], 5], evidence.pooled[~labels[:, 0], 5]
    above = (with_it[:, None] > without).mean() + 0.5 * (with_it[:, None] == without).mean()
    assert made[5, 0] == pytest.approx(above)


def test_areas_of_a_lattice_by_hand() -> None:
    """Two attributes: the first is worth 3, the second 1, together 4."""
    lattice = Lattice(
        0, (7, 9), {(True, True): 4.0, (False, True): 1.0, (True, False): 3.0, (False, False): 0.0}
    )
    first, second = np.array([0, 1]), np.array([1, 0])
    assert areas(lattice, first) == ((2 + 1 + 0) / 2, (0 + 3 + 2) / 2, 4.0, 0.0)
    assert areas(lattice, second) == ((2 + 3 + 0) / 2, (0 + 1 + 2) / 2, 4.0, 0.0)
    told = np.zeros((1, 10))
    told[0, 7] = 1
    judged = judge_orders([lattice], {"knows": told, "knows the opposite": -told})
    assert judged["knows"] == {"deletion": 1.5 / 4, "insertion": 2.5 / 4}
    assert judged["knows"] == judged["by measured effect"]
    assert judged["knows the opposite"] == {"deletion": 2.5 / 4, "insertion": 1.5 / 4}
    assert 1.5 / 4 < judged["random order"]["deletion"] < 2.5 / 4


def test_right_words_are_nearly_the_strongest_cause() -> None:
    effects = np.array([[2.0, 1.1, 0.9], [2.0, 1.1, 0.9], [2.0, 1.1, 0.9], [-1.0, -2.0, 0.0]])
    causes = Causes(effects, effects)
    assert causes.right(effects, np.array([0, 1, 2, 2])).tolist() == [True, True, False, False]
    assert not causes.right(effects, np.full(4, -1)).any()


def test_a_curve_is_fitted_and_rises() -> None:
    rng = np.random.default_rng(0)
    signs = rng.normal(size=(20_000, 2))
    right = rng.random(20_000) < 1 / (1 + np.exp(-(2 * signs[:, 0] - 1)))
    curve = fit(np.column_stack([signs[:, 0], -signs[:, 0] + 3 * signs[:, 1]]), right, np.ones(20_000))
    assert curve.weights[0] == pytest.approx(2, abs=0.1)
    assert curve.weights[1] < 0.02, "a sign that speaks against the truth gets no weight, not a negative one"
    assert curve.bias == pytest.approx(-1, abs=0.1)
    assert measures.calibration_error(curve(np.column_stack([signs[:, 0], signs[:, 1] * 0])), right) < 0.02


def test_pursuit_finds_the_two_texts_of_a_sum() -> None:
    texts = np.vstack([np.eye(4), -np.eye(4)[:1] / 2 - 0.1])
    target = 2 * (texts - texts.mean(0))[1] + (texts - texts.mean(0))[3]
    made = _pursuit(target[None], texts, words=2)[0]
    assert np.flatnonzero(made).tolist() == [1, 3]
    assert np.allclose(made[[1, 3]], [2, 1])
