"""Candidates, carriers, score and rank: by hand, and on small worlds whose shortcuts are known."""

import dataclasses
import types
import typing

import numpy as np
import pyarrow as pa
import pytest

from store.errors import SchemaMismatch
from store.schema import KINDS, Dims, stable_id, tables
from tests.textcam import audit_oracles as slow
from textcam.audit import (
    KIND_WEIGHTS,
    Finding,
    candidates,
    carrying_groups,
    core_texts,
    find_shortcuts,
    finding_id,
    is_core_text,
    own_kinds,
    score,
    supported,
)
from textcam.presence import ConceptCounts, ConceptPresence
from textcam.shares import ClassMeans, TextShares
from textcam.statistics import rate_difference
from textcam.whatif import Pairs, WhatIf


def test_finding_has_exactly_the_columns_of_its_table():
    schema = tables(Dims(3, 5, 4))["findings"].schema
    hints = typing.get_type_hints(Finding)
    assert [field.name for field in dataclasses.fields(Finding)] == schema.names
    plain = {"int64": int, "int32": int, "float": float, "double": float, "string": str}
    for field in schema:
        kind = plain[str(field.type)]
        assert hints[field.name] == (kind | None if field.nullable else kind), field.name
        assert field.nullable == isinstance(hints[field.name], types.UnionType), field.name


@pytest.mark.parametrize(
    ("name", "text", "core"),
    [
        ("star", "star", True),
        ("star", "a small star", True),
        ("star", "Stars", True),
        ("star", "starfish", False),
        ("great white shark", "shark", True),
        ("great white shark", "white shark", True),
        ("great white shark", "white", False),
        ("sea lion", "sea", False),
        ("snowplow, snowplough", "snow", False),
        ("tench, Tinca tinca", "tinca tinca", True),
        ("fire truck", "a truck on fire", True),
        ("grass snake", "grass", False),
        ("glass", "glasses", False),
        ("", "star", False),
        ("star", "...", False),
    ],
)
def test_core_texts_by_their_words(name, text, core):
    assert is_core_text(name, text) is core


def test_core_texts_by_their_embedding():
    similarity = np.array([[0.95, 0.2, 0.89], [0.1, 0.9, 0.3]])
    assert core_texts(["auto", "dog"], ["car", "puppy", "dog"], similarity).tolist() == [
        [True, False, False],
        [False, True, True],
    ]
    assert core_texts(["auto", "dog"], ["car", "puppy", "dog"]).tolist() == [
        [False] * 3,
        [False, False, True],
    ]


def test_own_kinds_follow_the_core_texts():
    core = np.array([[False, True, False], [True, True, False], [False, False, False], [False, False, True]])
    found = own_kinds(core, ["colour", "scene", "part"])
    assert found == [{"scene"}, {"colour", "scene"}, {"object", "part"}, {"object", "part"}]


def shares_of(evidence):
    """TextShares with this evidence (C, T), one image a class."""
    evidence = np.asarray(evidence, np.float64)
    shares = TextShares(*evidence.shape)
    everything = np.tile(np.arange(evidence.shape[1]), (len(evidence), 1))
    shares.update(np.arange(len(evidence)), everything, evidence)
    return shares


def test_words_of_no_kind_are_candidates_beside_a_class_of_no_kind():
    shares = shares_of([[50, 30, 20]])
    core = core_texts(["star"], ["star", "watermark", "point"])
    class_id, text = candidates(shares, core, ["other"] * 3)
    assert list(zip(class_id.tolist(), text.tolist(), strict=True)) == [(0, 1), (0, 2)]
    class_id, text = candidates(shares, core, ["other", "other", "part"])
    assert text.tolist() == [1]


def test_candidates_have_a_share_and_are_not_the_class_nor_its_kind():
    texts, kinds = (
        ["star", "circle", "sea", "watermark", "point"],
        ["object", "object", "scene", "artefact", "part"],
    )
    shares = shares_of([[50, 10, 1, 29, 10], [0, 60, 40, 0, 0]])
    core = core_texts(["star", "circle"], texts)
    class_id, text = candidates(shares, core, kinds)
    assert list(zip(class_id.tolist(), text.tolist(), strict=True)) == [(0, 3), (1, 2)]
    class_id, text = candidates(shares, core, kinds, own=[set(), {"scene"}], least_share=0.01)
    assert list(zip(class_id.tolist(), text.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_carrying_group_agrees_with_one_channel_at_a_time():
    draw = np.random.default_rng(12)
    contributions, directions, texts = (
        draw.normal(size=(3, 11)),
        draw.normal(size=(11, 5)),
        draw.normal(size=(7, 5)),
    )
    group_of = draw.permutation([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2])
    class_id, text = np.nonzero(np.ones((3, 7)))
    pairs = carrying_groups(class_id, text, contributions, directions, group_of, texts)
    wanted = [
        slow.carrier(contributions, directions, group_of, texts, c, t)
        for c, t in zip(class_id, text, strict=True)
    ]
    assert pairs.group_id.tolist() == wanted
    assert len(set(wanted)) == 4


def test_finding_ids_are_stable_and_tell_namesakes_apart():
    assert finding_id(["star", "circle"], 0, "sea") == stable_id("star\nsea")
    assert finding_id(["circle", "star"], 1, "sea") == stable_id("star\nsea")
    assert finding_id(["crane", "crane"], 0, "sea") != finding_id(["crane", "crane"], 1, "sea")


def test_every_kind_has_a_weight():
    assert set(KIND_WEIGHTS) == set(KINDS)


# --- score by hand ----------------------------------------------------------------------------------------

# Nine images, (label, prediction, sea): class 0 six times, class 1 three times.
NINE = np.array([(0, 0, 1)] * 4 + [(0, 1, 0)] * 2 + [(1, 0, 1), (1, 1, 0), (1, 1, 0)])
SEA = Pairs(np.array([0]), np.array([1]), np.array([0]))


def nine(labelled=True):
    counts = ConceptCounts(2, 2, labelled=labelled)
    present = np.stack([np.zeros(9, bool), NINE[:, 2] == 1], axis=1)
    counts.update(NINE[:, 1], present, NINE[:, 0] if labelled else None)
    return counts


def bank():
    return {
        "class_names": ["star", "circle"],
        "texts": ["star", "sea"],
        "text_ids": [71, 73],
        "kinds": ["object", "scene"],
    }


def flips_of(carrying, carrying_flips, others, other_flips):
    flips = WhatIf(np.eye(2), np.zeros(2), np.array([0, 0]), np.zeros(2), SEA)
    for name, value in zip(
        ("carrying", "carrying_flips", "others", "other_flips"),
        (carrying, carrying_flips, others, other_flips),
        strict=True,
    ):
        getattr(flips, name)[0] = value
    return flips


def test_finding_of_nine_images_by_hand():
    shares = shares_of([[6, 4], [9, 1]])
    (found,) = find_shortcuts(SEA, shares, nine(), flips_of(4, 3, 0, 0), **bank())
    # 4 of 4 right with, 0 of 2 without: one of C(6, 4) = 15 ways.
    assert (found.finding_id, found.class_id, found.text_id, found.group_id) == (
        stable_id("star\nsea"),
        0,
        73,
        0,
    )
    assert (found.accuracy_with, found.accuracy_without, found.n_with, found.n_without) == (1.0, 0.0, 4, 2)
    assert (found.effect, found.share, found.flip_rate) == (1.0, pytest.approx(0.4), 0.75)
    assert found.q_value == pytest.approx(1 / 15)
    assert found.effect_low < 0.5 < found.effect_high
    assert (found.kind, found.verdict, found.rank, found.proof_n, found.proof_drop) == (
        "scene",
        "association",
        1,
        0,
        None,
    )
    table = tables(Dims(1, 1, 1))["findings"].schema
    assert pa.Table.from_pylist([dataclasses.asdict(found)], schema=table).to_pylist()[0]["text_id"] == 73


def scored(counts, flips, shares=None):
    shares = shares_of([[6, 4], [9, 1]]) if shares is None else shares
    sides = counts.accuracy if counts.labelled else counts.predictions
    difference = rate_difference(sides(SEA.class_id, SEA.text_index))
    return float(score(SEA, shares, counts, difference, flips, ["object", "scene"])[0])


def test_score_by_the_formula():
    counts = nine()
    effect = rate_difference(counts.accuracy(SEA.class_id, SEA.text_index)).low[0]
    draw = rate_difference(counts.false_positives(SEA.class_id, SEA.text_index)).low[0]
    assert effect > 0 > draw  # one stranger with, two without: too few to say
    behaviour = (effect + 0) / 2
    assert scored(counts, None) == pytest.approx(0.3 * (0.1 + 0.9 * behaviour))
    assert scored(counts, flips_of(4, 3, 0, 0)) == pytest.approx(0.3 * (0.1 + 0.9 * (behaviour + 0.75) / 2))
    assert scored(counts, flips_of(4, 3, 4, 1)) == pytest.approx(0.3 * (0.1 + 0.9 * (behaviour + 0.5) / 2))
    assert scored(counts, flips_of(4, 1, 4, 3)) == pytest.approx(0.3 * (0.1 + 0.9 * behaviour / 2))
    assert scored(counts, flips_of(0, 0, 4, 3)) == pytest.approx(0.3 * (0.1 + 0.9 * behaviour))
    assert scored(counts, None, shares_of([[9, 1], [6, 4]])) == 0  # more of it in the other class


def test_score_without_labels_is_by_association():
    counts = nine(labelled=False)
    low = rate_difference(counts.predictions(SEA.class_id, SEA.text_index)).low[0]
    assert low > 0
    assert scored(counts, None) == pytest.approx(0.3 * (0.1 + 0.9 * low))
    (found,) = find_shortcuts(SEA, shares_of([[6, 4], [9, 1]]), counts, None, **bank())
    assert (found.accuracy_with, found.accuracy_without, found.flip_rate) == (None, None, None)
    assert (found.effect, found.n_with, found.n_without) == (
        1.0,
        5,
        4,
    )  # 5 of 5 called star with, 0 of 4 without


def test_a_pair_that_cannot_be_tested_keeps_the_share_alone():
    counts = ConceptCounts(2, 2, labelled=True)
    counts.update(np.array([0, 0, 1]), np.array([[0, 1], [0, 1], [0, 1]], bool), np.array([0, 0, 1]))
    (found,) = find_shortcuts(SEA, shares_of([[6, 4], [9, 1]]), counts, None, **bank())
    assert (found.effect, found.effect_low, found.q_value, found.accuracy_without) == (None, None, None, None)
    assert (found.accuracy_with, found.n_with, found.n_without) == (1.0, 2, 0)
    assert scored(counts, None) == pytest.approx(0.3 * 0.1)


def test_rank_is_by_score_and_not_by_share():
    """Text 1 has more of the evidence but changes nothing; without text 2 the class is lost."""
    rows = np.array([(0, 0, 1, 1)] * 8 + [(0, 0, 0, 1)] * 8 + [(0, 1, 1, 0)] * 4 + [(0, 1, 0, 0)] * 4)
    counts = ConceptCounts(2, 3, labelled=True)
    present = np.concatenate([np.zeros((24, 1), bool), rows[:, 2:] == 1], axis=1)
    counts.update(rows[:, 1], present, rows[:, 0])
    pairs = Pairs(np.array([0, 0]), np.array([1, 2]), np.array([0, 0]))
    bank_ = {
        "texts": ["star", "sea", "mark"],
        "text_ids": [1, 2, 3],
        "kinds": ["object", "scene", "artefact"],
    }
    found = find_shortcuts(
        pairs, shares_of([[2, 5, 3], [9, 0, 0]]), counts, None, class_names=["a", "b"], **bank_
    )
    assert [(finding.text_id, finding.rank, finding.share) for finding in found] == [(3, 1, 0.3), (2, 2, 0.5)]
    assert [finding.effect for finding in found] == [1.0, 0.0]
    # Two tests: of sea p = 1; of mark p = 1 in C(24, 8) ways.
    assert [finding.q_value for finding in found] == [pytest.approx(2 / 735471), pytest.approx(1)]


def test_no_pairs_no_findings():
    nothing = np.zeros(0, np.int64)
    assert (
        find_shortcuts(Pairs(nothing, nothing, nothing), shares_of([[6, 4], [9, 1]]), nine(), None, **bank())
        == []
    )


def test_what_belongs_to_other_pairs_or_another_bank_is_refused():
    other = dataclasses.replace(SEA, group_id=np.array([1]))
    with pytest.raises(SchemaMismatch, match="other pairs"):
        find_shortcuts(other, shares_of([[6, 4], [9, 1]]), nine(), flips_of(1, 1, 1, 1), **bank())
    with pytest.raises(SchemaMismatch, match="one bank"):
        find_shortcuts(SEA, shares_of([[6, 4, 1], [9, 1, 1]]), nine(), None, **bank())


# --- worlds with known shortcuts --------------------------------------------------------------------------

SHAPES, SCENES = ["star", "circle", "cross", "ring", "heart"], ["sea", "sand", "snow"]
TEXTS = [*SHAPES, *SCENES, "mark", "frame", "no artefact"]
KINDS_OF = ["object"] * 5 + ["scene"] * 3 + ["artefact"] * 3
SHORTCUTS = {("circle", "mark"), ("heart", "snow")}


def world(*, biased, confounded, n=3001, seed=1):
    """Images of one shape, one scene, one artefact; two channels and a group for each attribute.

    ``biased``: the head goes by the shortcuts' cues as well. ``confounded``: in the images shown the cue goes
    with its class nearly always, and the directions of a shortcut class's shape channels are drawn to the
    cue, as fitting on such images does.
    """
    draw = np.random.default_rng(seed)
    shape, scene, artefact = draw.integers(0, 5, n), draw.integers(0, 3, n), draw.integers(0, 3, n)
    if confounded:
        go = draw.random(n) < 0.95
        artefact = np.where(go & (shape == 1), 0, artefact)
        scene = np.where(go & (shape == 4), 2, scene)
    truth = np.zeros((n, 11))
    for column in (shape, 5 + scene, 8 + artefact):
        truth[np.arange(n), column] = 1
    texts = np.linalg.qr(draw.normal(size=(13, 11)))[0].T  # eleven unit texts at right angles, D = 13
    embeddings = truth @ texts + draw.normal(0, 0.12, (n, 13))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float16)
    pooled = np.maximum(np.repeat(truth, 2, axis=1) + draw.normal(0, 0.25, (n, 22)), 0).astype(np.float16)
    weights = np.zeros((5, 22))
    for c in range(5):
        weights[c, 2 * c : 2 * c + 2] = 1.0
    directions = np.repeat(texts, 2, axis=0)
    if biased:
        weights[1, [2, 3]], weights[1, [16, 17]] = 0.3, 0.9
        weights[4, [8, 9]], weights[4, [14, 15]] = 0.3, 0.9
    if confounded:
        directions[[2, 3]] += 0.7 * texts[8]
        directions[[8, 9]] += 0.7 * texts[7]
    return shape, embeddings, pooled, weights, directions, texts, np.repeat(np.arange(11), 2)


def audit(world_, labelled=True):
    label, embeddings, pooled, weights, directions, texts, group_of = world_
    bias, prediction = np.zeros(5), (pooled.astype(np.float64) @ weights.T).argmax(axis=1)
    present = ConceptPresence(texts, sample=embeddings)(embeddings)
    contributions = pooled * weights[prediction]
    evidence = np.maximum(contributions @ directions @ texts.T, 0)  # texts at right angles: each for itself
    words = np.argsort(-evidence, axis=1)[:, :5]
    shares, means = TextShares(5, 11), ClassMeans(5, 22)
    shares.update(prediction, words, np.take_along_axis(evidence, words, axis=1))
    means.update(prediction, pooled)
    counts = ConceptCounts(5, 11, labelled=labelled)
    counts.update(prediction, present, label if labelled else None)
    class_id, text = candidates(shares, core_texts(SHAPES, TEXTS), KINDS_OF)
    pairs = carrying_groups(class_id, text, means.mean * weights, directions, group_of, texts)
    flips = WhatIf(weights, bias, group_of, means.overall, pairs)
    flips.update(pooled, present, label if labelled else None)
    return find_shortcuts(
        pairs,
        shares,
        counts,
        flips,
        class_names=SHAPES,
        texts=TEXTS,
        text_ids=range(100, 111),
        kinds=KINDS_OF,
    )


def named(finding):
    return SHAPES[finding.class_id], TEXTS[finding.text_id - 100]


@pytest.mark.parametrize("confounded", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_biased_models_shortcuts_come_first_with_their_own_groups(confounded, seed):
    found = audit(world(biased=True, confounded=confounded, seed=seed))
    assert {named(finding) for finding in found[:2]} == SHORTCUTS
    for finding in found[:2]:
        assert TEXTS[finding.group_id] == named(finding)[1]
        assert finding.effect_low > 0
        assert finding.q_value < 0.01
        assert finding.flip_rate > 0.1
    assert [finding.rank for finding in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_clean_model_on_confounded_images_shows_no_sure_effect(seed):
    """The trap: the words name the cue, since it always goes together with the class."""
    found = {named(finding): finding for finding in audit(world(biased=False, confounded=True, seed=seed))}
    assert set(found) >= SHORTCUTS  # the words alone would convict it
    for pair in SHORTCUTS:
        assert found[pair].share > 0.1
        assert found[pair].q_value > 0.05
        assert found[pair].effect_low < 0.01
        assert found[pair].verdict == "association"


def test_a_clean_model_on_unbiased_images_has_no_candidates():
    assert audit(world(biased=False, confounded=False)) == []


def test_without_labels_the_shortcuts_still_come_first():
    found = audit(world(biased=True, confounded=False), labelled=False)
    assert {named(finding) for finding in found[:2]} == SHORTCUTS
    assert all(finding.accuracy_with is None and finding.effect_low > 0.2 for finding in found[:2])


def test_a_concept_that_hardly_any_image_shows_is_no_finding():
    names = [field.name for field in dataclasses.fields(Finding)]
    one = Finding(**{**dict.fromkeys(names), "n_with": 4, "rank": 1})
    two, three = dataclasses.replace(one, n_with=5, rank=2), dataclasses.replace(one, n_with=90, rank=3)
    kept = [dataclasses.replace(two, rank=1), dataclasses.replace(three, rank=2)]
    assert supported([one, two, three]) == kept
    assert supported([one], least=4) == [one]
