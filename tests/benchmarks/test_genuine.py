"""Genuine vectors: worlds and measures on a made-up folder of the same layout, with answers known by hand."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.truth import __main__ as program
from benchmarks.truth import genuine_scores as scores
from benchmarks.truth.evidence import Array
from benchmarks.truth.genuine import (
    FOLDER,
    Case,
    World,
    apart,
    biased_rows,
    companions,
    folder,
    open_bank,
    open_world,
    variants,
)
from benchmarks.truth.genuine_entrants import (
    Told,
    correlation,
    entrants,
    mean_difference,
    plain_presence,
    ridge,
)
from benchmarks.truth.genuine_part import Sample, genuine, interval, rows
from benchmarks.truth.genuine_tables import GENUINE
from benchmarks.truth.measures import calibration_error
from benchmarks.truth.ours import Directions

NAMES = ("dog", "Puppy", "red", "hat", "cap (headwear)", "grass", "sky", *(f"thing_{n}" for n in range(9)))
ATTRIBUTES = {
    "dog": "dog|puppy",
    "red": "red",
    "hat": "hat|cap (headwear)",
    "unicorn": "unicorn",
    "crown": "cap (headwear)",  # the bank has it, but not as a plain word
    "grass": "grass",
    "sky": "sky",
}
DIM, IMAGES = 20, 320
KEPT = ("dog", "red", "hat", "grass", "sky")
OWN = (0, 2, 3, 5, 6)


def _write(path: Path) -> None:
    """An image is the sum of the axes of what it shows, and of one that only images have; a text is its axis,
    and one that only texts have."""
    texts = np.eye(len(NAMES), DIM)
    texts[1] = 0.9 * texts[0] + 0.4 * texts[1]
    texts[:, DIM - 1] += 2
    np.savez(path / "texts.npz", text=texts.astype(np.float16), names=np.array(NAMES))
    axes = np.array([0, 2, 3, 13, 14, 5, 6])
    for seed, name in enumerate(("flickr", "fashion")):
        truth = np.random.default_rng(seed).random((IMAGES, len(ATTRIBUTES))) < 0.22
        image = truth @ np.eye(len(NAMES), DIM)[axes]
        image[:, DIM - 2] += 3
        np.savez(
            path / f"{name}.npz",
            image=image.astype(np.float16),
            truth=truth,
            attributes=np.array(list(ATTRIBUTES)),
            accept=np.array(list(ATTRIBUTES.values())),
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors")
    _write(path)
    return path


@pytest.fixture(scope="module")
def world(made: Path) -> World:
    return open_world(made, "flickr", open_bank(made))


@pytest.fixture(scope="module")
def cases(world: World) -> dict[str, Case]:
    return {case.variant: case for case in variants(world, 0)}


def _named(case: Case, texts: Array, confidence: Array | None = None) -> Told:
    """Who says one text of each channel, and effects of these texts alone."""
    made = np.full((len(texts), len(NAMES)), -np.inf)
    made[np.arange(len(texts)), texts] = 1
    return Told(made, lambda head: head @ (made == 1), confidence=confidence)


def _means(units: scores.Units) -> dict[str, float]:
    return {name: float(np.mean([values[0] for _, values in pairs])) for name, pairs in units.items()}


def test_attributes_without_a_plain_word_are_left_out(world: World) -> None:
    assert world.attributes == KEPT
    assert world.bank.words[4] == "cap"
    assert world.bank.words[1] == "puppy"
    assert world.bank.words[-1] == "thing 8"
    assert [set(np.flatnonzero(row)) for row in world.accepted] == [{0, 1}, {2}, {3, 4}, {5}, {6}]
    assert [n for n, kind in enumerate(world.bank.kinds) if kind == "colour"] == [2]
    assert np.allclose(np.linalg.norm(world.embeddings, axis=1), 1, atol=1e-6)


def test_a_channel_is_the_truth_plus_noise_cut_at_0(world: World, cases: dict[str, Case]) -> None:
    drawn = np.random.default_rng(0).normal(0, 0.35, world.truth.shape)
    assert np.array_equal(
        cases["base"].evidence.pooled, np.maximum(world.truth + drawn, 0).astype(np.float32)
    )
    loud = cases["noise .7"].evidence.pooled
    assert np.allclose(loud, np.maximum(world.truth + 2 * drawn, 0), atol=1e-6)
    absent = cases["where it is not"].evidence.pooled
    assert np.allclose(absent, np.maximum(~world.truth + drawn, 0), atol=1e-6)


def test_two_meanings_share_no_word(world: World, cases: dict[str, Case]) -> None:
    case = cases["two meanings"]
    assert case.meanings.shape == (len(KEPT), 2)
    assert not (case.accepted[:, 0] & case.accepted[:, 1]).any()
    both = world.truth[:, case.meanings].sum(2)
    assert np.corrcoef(case.evidence.pooled[:, 0], both[:, 0])[0, 1] > 0.8
    merged = replace(world, accepted=world.accepted | np.eye(len(NAMES), dtype=bool)[2])
    assert not apart(merged).any()


def test_what_is_common_is_not_asked_about_where_it_is_absent(world: World) -> None:
    common = replace(world, truth=world.truth | (np.arange(len(KEPT)) == 3))
    case = next(one for one in variants(common, 0) if one.variant == "where it is not")
    assert 3 not in case.judged
    assert 0 in case.judged


def test_fewer_images_keep_the_attributes_that_enough_of_them_show(
    world: World, cases: dict[str, Case]
) -> None:
    assert len(cases["150 images"].evidence.pooled) == len(cases["150 images"].world.truth) == 150
    rare = replace(
        world, truth=world.truth & ((np.arange(len(KEPT)) != 1) | (np.arange(IMAGES) < 4)[:, None])
    )
    few = next(one for one in variants(rare, 0) if one.variant == "150 images")
    assert few.world.attributes == ("dog", "hat", "grass", "sky")
    assert np.array_equal(few.world.accepted, world.accepted[[0, 2, 3, 4]])
    assert few.evidence.pooled.shape == (150, 4)


def test_in_a_biased_draw_one_attribute_comes_with_the_other() -> None:
    a = np.repeat([True, True, False, False], [90, 40, 30, 380])
    b = np.repeat([True, False, True, False], [90, 40, 30, 380])
    kept = biased_rows(a, b, 0)
    assert np.array_equal(kept, np.unique(kept))
    assert b[kept][a[kept]].mean() == pytest.approx(90 / 100)
    assert b[kept][~a[kept]].mean() == pytest.approx(20 / 400)
    assert (a[kept] & b[kept]).sum() == 90


def test_pairs_are_together_in_some_images_and_in_most_are_not(world: World) -> None:
    truth = world.truth.copy()
    truth[:, 1] = truth[:, 0]  # always together: no draw could part them
    truth[:, 3] &= ~truth[:, 2]  # never together
    found = companions(replace(world, truth=truth))
    assert found
    assert not {(0, 1), (1, 0), (2, 3), (3, 2)} & set(found)


def test_names_are_judged_by_what_is_accepted(cases: dict[str, Case]) -> None:
    case = cases["base"]
    sure = np.array([0.95, 0.95, 0.2, 0.2, 0.9])
    units = scores.judge_names(case, _named(case, np.array([1, 0, 4, 5, 15]), sure))
    found = dict(units["first text"])
    assert found == {"dog": (1,), "red": (0,), "hat": (1,), "grass": (1,), "sky": (0,)}
    assert _means(units)["sure"] == 0.6
    assert [unit for unit, _ in units["right where sure"]] == ["dog", "red", "sky"]
    assert units["calibration error"][2] == ("hat", (0.2, 1.0))
    second = np.arange(len(NAMES), 0, -1.0)[None].repeat(5, 0)  # dog, Puppy, red, hat, ...
    dense = _means(scores.judge_names(case, Told(second, lambda head: head)))
    assert (dense["first text"], dense["in first three"]) == (0.2, 0.4)


def test_a_text_that_is_not_said_is_not_right(cases: dict[str, Case]) -> None:
    nothing = Told(np.full((5, len(NAMES)), -np.inf), lambda head: head, confidence=np.zeros(5))
    found = _means(scores.judge_names(cases["base"], nothing))
    assert (found["first text"], found["in first three"], found["sure"]) == (0, 0, 0)


def test_of_two_meanings_either_is_right_and_both_are_asked_for(cases: dict[str, Case]) -> None:
    case = cases["two meanings"]
    one = np.array(OWN)[case.meanings[:, 1]]
    told = _named(case, one)
    assert _means(scores.judge_names(case, told))["first text"] == 1
    assert _means(scores.judge_names(case, told))["both in first five"] == 0
    told.scores[np.arange(5), np.array(OWN)[case.meanings[:, 0]]] = 0.5
    assert _means(scores.judge_names(case, told))["both in first five"] == 1


def test_where_it_is_not_its_word_is_false_and_so_is_being_sure(cases: dict[str, Case]) -> None:
    case = replace(cases["where it is not"], judged=np.arange(5))
    confidence = np.array([0.99, 0.99, 0, 0, 0])
    found = _means(scores.judge_names(case, _named(case, np.array([0, 15, 3, 15, 15]), confidence)))
    assert found == {
        "false: what is absent first": pytest.approx(0.4),
        "false: what is absent in first three": pytest.approx(0.4),
        "false: sure of a word": pytest.approx(0.4),
    }
    in_order = np.arange(len(NAMES), 0, -1.0)[None].repeat(5, 0)  # dog, Puppy, red, hat, ...
    found = _means(scores.judge_names(case, Told(in_order, lambda head: head)))
    assert found["false: what is absent first"] == pytest.approx(0.2)
    assert found["false: what is absent in first three"] == pytest.approx(0.4)


def test_the_partner_is_false_and_the_own_is_to_be_before_it(cases: dict[str, Case]) -> None:
    case = cases["biased"]
    (a,), b = case.judged, case.partner
    assert b is not None
    texts = np.full(5, 15)
    texts[a] = OWN[b]
    units = scores.judge_names(case, _named(case, texts))
    assert [unit for unit, _ in units["first text"]] == [f"{KEPT[a]} with {KEPT[b]}"]
    found = _means(units)
    assert (found["false: partner first"], found["own before partner"], found["first text"]) == (1, 0, 0)
    texts[a] = OWN[a]
    found = _means(scores.judge_names(case, _named(case, texts)))
    assert (found["false: partner first"], found["own before partner"], found["first text"]) == (0, 1, 1)


def test_f1_by_hand() -> None:
    truth = np.array([True, False, True, False])
    assert scores.f1_of(np.array([True, True, False, False]), truth) == 0.5
    assert scores.f1_of(np.zeros(4, bool), truth) == 0
    assert scores.best_f1(np.array([0.9, 0.8, 0.7, 0.1]), truth) == pytest.approx(0.8)  # the first three


def test_presence_is_judged_by_the_best_own_text(world: World) -> None:
    decided = np.zeros((IMAGES, len(NAMES)), bool)
    decided[:, 1] = world.truth[:, 0]  # a dog is found as a puppy
    decided[:, 2] = True
    found = {
        name: dict(pairs) for name, pairs in scores.judge_presence(world, decided, decided * 1.0).items()
    }
    share = world.truth[:, 1].mean()
    assert found["presence F1"]["dog"] == (1,)
    assert found["presence F1, of the best threshold's"]["dog"] == (1,)  # nothing hides anything here
    assert found["presence F1"]["red"] == (pytest.approx(2 * share / (1 + share)),)
    assert found["presence F1"]["sky"] == (0,)
    assert found["presence AUC"]["dog"] == (1,)
    assert found["presence AUC"]["red"] == (0.5,)
    assert _means(scores.judge_threshold(world))["presence F1"] == 1


def test_effects_are_weights_times_what_the_channel_does(world: World, cases: dict[str, Case]) -> None:
    exact = replace(cases["base"], evidence=replace(cases["base"].evidence, pooled=2.0 * world.truth))
    head = np.array([[1.0, -0.5, 0, 0, 0]])
    assert scores.true_effects(exact, head) == pytest.approx(np.array([[2.0, -1.0, 0, 0, 0]]))
    drawn = scores.random_head(30, 0)
    assert ((drawn != 0).sum(1) == scores.WEIGHED).all()
    assert (drawn < 0).any()
    told = _named(exact, np.array(OWN))
    right = _means(scores.judge_effects(exact, told))
    assert right == {"effects, weighed channels": pytest.approx(1), "effects, all channels": pytest.approx(1)}
    turned = replace(told, effects=lambda head: -told.effects(head))
    assert _means(scores.judge_effects(exact, turned))["effects, all channels"] == pytest.approx(-1)
    silent = replace(told, effects=lambda head: 0 * told.effects(head))
    assert _means(scores.judge_effects(exact, silent))["effects, all channels"] == 0


@pytest.mark.parametrize("directions", [False, True])
def test_words_of_classes_tell_what_was_planted_and_only_where_it_was(
    cases: dict[str, Case], directions: bool
) -> None:
    case = cases["base"]

    def told(texts: Array) -> Told:
        named = _named(case, texts)
        axes = np.eye(len(NAMES), DIM, dtype=np.float32)[texts]
        return replace(named, scores=np.maximum(named.scores, 0), directions=axes if directions else None)

    right = _means(scores.judge_findings(case, told(np.array(OWN))))
    assert right["class: own word first"] == right["class: planted said"] == 1
    assert right["class: planted first beside its own"] == 1
    assert right["class: false other attribute"] == 0
    wrong = _means(scores.judge_findings(case, told(np.roll(OWN, 1))))
    assert wrong["class: own word first"] == 0
    assert wrong["class: false other attribute"] == 1
    nothing_of_it = _means(scores.judge_findings(case, told(np.arange(10, 15))))
    assert nothing_of_it["class: planted said"] == nothing_of_it["class: false other attribute"] == 0
    assert nothing_of_it["class: false words beside its own"] == 1


def test_simple_methods_name_every_channel_of_this_world(cases: dict[str, Case]) -> None:
    evidence = cases["base"].evidence
    told = entrants(Directions(evidence))
    for name in ("mean difference", "ridge .1", "correlation"):
        assert _means(scores.judge_names(cases["base"], told[name]))["first text"] == 1, name
    assert (told["ours"].scores == -np.inf).any()  # what is not said is not a score
    assert ((told["ours"].scores > 0) | (told["ours"].scores == -np.inf)).all()
    assert {"ours", "TextCAM, the paper's form", "CLIP-Dissect", "SpLiCE", "chance"} < set(told)


def test_directions_of_simple_methods_by_the_slow_way(cases: dict[str, Case]) -> None:
    evidence = cases["base"].evidence
    y = evidence.pooled[:, 1] - evidence.pooled[:, 1].mean()
    y = y / y.std()
    x = evidence.embeddings - evidence.embeddings.mean(0)
    x = np.array([row / np.linalg.norm(row) for row in x])
    mean = sum(a * row for a, row in zip(y, x, strict=True)) / len(x)
    assert mean_difference(evidence)[1] == pytest.approx(mean, abs=1e-5)
    covariance = sum(np.outer(row, row) for row in x) / len(x)
    assert ridge(evidence)[1] == pytest.approx(np.linalg.inv(covariance + 0.1 * np.eye(DIM)) @ mean, abs=1e-4)
    texts = evidence.texts - evidence.texts.mean(0)
    along = x @ (texts[2] / np.linalg.norm(texts[2]))
    assert correlation(evidence)[1, 2] == pytest.approx(np.corrcoef(y, along)[0, 1], abs=1e-5)
    decided, _ = plain_presence(evidence)
    assert np.array_equal(decided[:, 2], along > along.mean() + 2 * along.std())


def _samples(world: str, table: Array) -> list[Sample]:
    """Units down, seeds across."""
    return [Sample(world, f"u{u}", s, (float(v),)) for (u, s), v in np.ndenumerate(table)]


def test_intervals_resample_units_and_seeds() -> None:
    def mean(values: Array) -> float:
        return float(values.mean())

    by_seed = _samples("a", np.tile([0.0, 1.0], (40, 1)))
    assert interval(by_seed, mean) == (0.5, 0.0, 1.0)  # 40 units that always agree are one opinion
    by_unit = _samples("a", np.repeat([[0.0], [1.0]], 20, axis=0).repeat(3, axis=1))
    value, low, high = interval(by_unit, mean)
    assert value == 0.5
    assert 0.3 < low < 0.42
    assert 0.58 < high < 0.7
    two = _samples("a", np.zeros((30, 3))) + _samples("b", np.ones((5, 3)))
    assert interval(two, mean) == (0.5, 0.5, 0.5)  # worlds weigh the same


def test_calibration_errors_are_of_all_channels_of_a_world() -> None:
    sure = [
        Sample("a", f"u{n}", 0, (confidence, float(n % 2)))
        for n, confidence in enumerate([0.5] * 10 + [1.0] * 10)
    ]
    found = list(rows("choosing", {"ours": {"base: calibration error": sure}}))
    pairs = np.array([one.values for one in sure])
    assert [one.name for one in found] == [
        "genuine choosing | ours | base: calibration error",
        "genuine a | ours | base: calibration error",
    ]
    assert found[0].value == pytest.approx(calibration_error(pairs[:, 0], pairs[:, 1]))
    assert found[0].better == "lower"


def test_every_column_of_the_tables_is_measured(made: Path) -> None:
    found = genuine(made, "choosing", 1)
    assert all(one.low <= one.value <= one.high for one in found if "error" not in one.name)
    measured = {one.name for one in found}
    of_all = {name.split(" | ", 2)[2] for name in measured if name.startswith("genuine choosing | ")}
    for marker, table in GENUINE.items():
        missing = {measure for _, measure in table.columns} - of_all
        assert not missing, marker
    assert "genuine fashion | ours | base: first text" in measured
    assert "genuine flickr | plain cut | base: presence AUC" in measured


def test_without_a_folder_the_part_says_so_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(program, "keep_parts", lambda *_: pytest.fail("something was kept"))
    program.run("genuine", 1, write=True)
    assert FOLDER in capsys.readouterr().out
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"texts\.npz"):
        folder()


@pytest.mark.skipif(not os.environ.get(FOLDER), reason=f"{FOLDER} names no folder of genuine vectors")
def test_simple_methods_on_genuine_vectors() -> None:
    """The figures that a script of its own gave for the same channels."""
    path = folder()
    assert path is not None
    case = next(variants(open_world(path, "flickr", open_bank(path)), 0))
    told = {
        "mean": mean_difference(case.evidence),
        "ridge": ridge(case.evidence),
    }
    texts = case.world.bank.texts - case.world.bank.texts.mean(0)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    right = {
        name: _means(scores.judge_names(case, Told(made @ texts.T, lambda head: head)))
        for name, made in told.items()
    }
    assert round(right["mean"]["first text"], 2) == round(right["ridge"]["first text"], 2) == 0.44
    assert [round(right[name]["in first three"], 2) for name in ("mean", "ridge")] == [0.59, 0.63]
    found = _means(scores.judge_presence(case.world, *plain_presence(case.evidence)))
    assert round(found["presence F1, of the best threshold's"], 2) == 0.75


def test_seeds_differ_and_repeat(world: World) -> None:
    first = [next(variants(world, seed)).evidence.pooled for seed in (0, 1, 0)]
    assert np.array_equal(first[0], first[2])
    assert all(not np.array_equal(a, b) for a, b in pairwise(first))
