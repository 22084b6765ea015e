"""How worlds of families are judged: by hand, and on channels that are made to mean something."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.truth import family_judges as judges
from benchmarks.truth.class_words import Words
from benchmarks.truth.evidence import Evidence, Labelled
from benchmarks.truth.families import ENTRANTS
from benchmarks.truth.family import Rule, labels_of, pixels, words_of
from benchmarks.truth.family_cases import FamilyCase
from benchmarks.truth.family_encoder import as_embeddings, gate, gated, load_encoder, zero_shot
from benchmarks.truth.family_worlds import FamilyWorld, measure_effects
from benchmarks.truth.label_scenes import LabelScenes
from benchmarks.truth.rule_scenes import RuleScenes
from benchmarks.truth.square import Case
from demo.models import CLIP_FOLDER


def case_of(used: np.ndarray, **given: np.ndarray) -> FamilyCase:
    """Two classes, as many words as ``used`` has, one distractor."""
    classes, words = used.shape
    texts = np.eye(words + 1, dtype=np.float32)
    shown = np.zeros((4, words + 1), bool)
    evidence = Evidence(np.ones((4, 3), np.float32), texts[[0, 1, 0, 1]], texts, ("other",) * (words + 1))
    case = Case(
        "by hand",
        True,
        False,
        evidence,
        Labelled(evidence.pooled, shown),
        np.zeros((classes, 3), np.float32),
        np.arange(4) % classes,
        np.arange(4) % classes,
        shown,
        np.full(classes, -1),
        (),
        {},
        {},
    )
    whole: dict[str, np.ndarray] = {
        "neutral": np.zeros_like(used),
        "change": used.astype(float),
        "seen": np.ones(words, bool),
        "topics": np.arange(words),
        "moved": np.zeros((3, words)),
    }
    return FamilyCase(case, ruled=used, used=used, accuracy=1.0, gate={}, **(whole | given))


def words(shares: list[list[float]]) -> Words:
    made = np.array(shares)
    return Words(made, made, made, made)


def test_words_of_classes_by_hand() -> None:
    used = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], bool)
    said = words([[0.5, 0.1, 0.3, 0.0, 0.2], [0.0, 0.6, 0.4, 0.0, 0.0]])
    found = judges.judge_class_words(case_of(used), said)
    assert found["first word is in the rule"] == [1, 0]
    assert found["words of the rule in the first three"] == [0.5, 1], "a fifth of the first word is not said"
    assert found["said words that are in the rule"] == [1 / 3, 1 / 2]
    assert found["rule AUPRC"] == pytest.approx([(1 + 2 / 4) / 2, 1 / 2])


def test_what_the_encoder_cannot_see_is_not_judged() -> None:
    used = np.array([[1, 1, 0], [0, 0, 1]], bool)
    blind = case_of(used, seen=np.array([True, False, False]))
    said = words([[0.3, 0.0, 0.5, 0.0], [0.5, 0.0, 0.0, 0.0]])
    found = judges.judge_class_words(blind, said)
    assert found["first word is in the rule"] == [1], (
        "one class is left; its word of an unseen attribute is skipped"
    )
    assert found["words of the rule in the first three"] == [1]


def test_a_word_that_flips_the_class_without_a_rule_counts_neither_way() -> None:
    used = np.array([[1, 0, 0], [0, 1, 0]], bool)
    neutral = np.array([[0, 0, 1], [0, 0, 0]], bool)
    said = words([[0.4, 0.0, 0.6, 0.0], [0.0, 0.6, 0.4, 0.0]])
    found = judges.judge_class_words(case_of(used, neutral=neutral), said)
    assert found["first word is in the rule"] == [1, 1]
    assert found["said words that are in the rule"] == [1, 0.5]


def test_topics_and_purity_by_hand() -> None:
    moved = np.array([[9.0, 7.2, 0.0, 0.1], [0.5, 0.5, 0.1, 0.1], [0.001, 0.0, 0.0, 0.0]])
    one = case_of(np.zeros((2, 4), bool), moved=moved, topics=np.array([0, 0, 1, 2]))
    assert judges.channel_topics(one).tolist() == [0, 1, -1], "the first two words move all channels more"
    even = case_of(np.zeros((2, 4), bool), moved=np.ones((3, 4)), topics=np.array([0, 0, 1, 2]))
    assert judges.channel_topics(even).tolist() == [-1] * 3
    groups, truth = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    assert judges._purity(groups, truth) == 4 / 5


def test_groups_of_channels_that_mean_the_same_are_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    topic = np.arange(48) % 3
    moved = np.eye(3)[topic] + 0.1
    one = case_of(np.zeros((2, 3), bool), moved=moved)
    rows = np.eye(16)[topic] + 0.05 * rng.normal(size=(48, 16))
    right = judges.judge_groups(one, rows.astype(np.float32))
    assert right["groups ARI"] == [1.0]
    assert right["groups purity above chance"] == [1.0]
    wrong = judges.judge_groups(one, rng.normal(size=(48, 16)).astype(np.float32))
    assert abs(wrong["groups ARI"][0]) < 0.2
    assert abs(wrong["groups purity above chance"][0]) < 0.35


def test_zero_shot_is_that_of_pairs() -> None:
    rng = np.random.default_rng(1)
    embeddings, texts = rng.normal(size=(30, 7)), rng.normal(size=(2, 7))
    labels = rng.random((30, 2)) < 0.4
    labels[:, 1] = True
    near = embeddings @ texts[0]
    pairs = near[labels[:, 0], None] > near[~labels[:, 0]]
    found = zero_shot(embeddings, texts, labels)
    assert found[0] == pytest.approx(pairs.mean())
    assert np.isnan(found[1])


def test_the_gate_refuses_what_the_demos_encoder_was_never_told() -> None:
    found = gated(LabelScenes("size"), load_encoder(CLIP_FOLDER), 120)
    assert {name for name, (_, seen) in found.items() if not seen} == {"size"}
    assert 0.3 < found["size"][0] < 0.7
    assert min(accuracy for name, (accuracy, _) in found.items() if name != "size") > 0.95


def test_the_gate_refuses_random_texts() -> None:
    family = RuleScenes()
    rng = np.random.default_rng(2)
    scenes = [family.draw(rng) for _ in range(60)]
    embeddings, cells = as_embeddings(load_encoder(CLIP_FOLDER), pixels(family, scenes, 128))
    labels = labels_of(family, scenes)
    noise = rng.normal(size=(labels.shape[1], embeddings.shape[1]))
    assert cells.shape == (60, 4, 4, embeddings.shape[1])
    found = gate(family, zero_shot(embeddings, noise, labels))
    assert not any(seen for _, seen in found.values()), "random texts see nothing"


def test_effects_are_those_of_a_classifier_that_sees_one_word() -> None:
    family = RuleScenes()
    rules = (Rule("one object", ("red", "star")), Rule("twice", ("striped",)))
    world = FamilyWorld(family, 0, rules)

    def ask(scenes):
        """Class 0 by whatever is red; the only channel that varies says so too."""
        red = np.array(["red" in family.shows(scene) for scene in scenes], np.float32)
        return np.stack([red, np.ones_like(red)], 1), np.stack([4 * red, 2 * np.ones_like(red)], 1)

    found = measure_effects(world, ask, count=10)
    at = {word: place for place, word in enumerate(words_of(family))}
    assert found.flips[0, at["red"]] == 1.0
    assert found.asked[0, at["red"]] == 10
    assert found.change[0, at["red"]] == pytest.approx(2.0)
    assert found.change[1, at["red"]] == pytest.approx(-2.0)
    assert found.asked[0, at["striped"]] == 10
    assert found.flips[0, at["striped"]] == 0.0
    assert found.asked[1, at["striped"]] < 10, "where red is, class 0 is predicted"
    assert found.moved[1].tolist() == [0.0] * len(at)
    assert found.moved[0].argmax() == at["red"]
    assert 0.5 <= found.accuracy <= 1.0


def planted_case(seed: int = 0) -> FamilyCase:
    """Three classes that are one word each, of seven words and four distractors that an oracle embeds; a
    channel fires for its word, and the head asks for it. Words 5 and 6 make channels fire and no class.
    """
    rng = np.random.default_rng(seed)
    classes = np.arange(240) % 3
    shown = np.zeros((240, 11), bool)
    shown[:, 3:7] = rng.random((240, 4)) < 0.4
    shown[np.arange(240), classes] = True
    axes = np.linalg.qr(rng.normal(size=(16, 12)))[0].T
    images = shown[:, :7] @ axes[:7] + 2 * axes[11] + 0.02 * rng.normal(size=(240, 16))
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    texts = ((axes[:11] + axes[11]) / np.sqrt(2)).astype(np.float32)
    meaning = np.arange(14) % 7
    pooled = np.maximum(shown[:, meaning] + 0.1 * rng.normal(size=(240, 14)), 0).astype(np.float32)
    head = (meaning == np.arange(3)[:, None]).astype(np.float32)
    used = np.eye(3, 7, dtype=bool)
    fit = np.arange(240) < 120
    kinds = ("object",) * 3 + ("other",) * 4 + ("scene",) * 4
    evidence = Evidence(pooled[fit], images[fit], texts, kinds)
    made = case_of(used, seen=np.ones(7, bool), topics=np.arange(7), moved=np.eye(7)[meaning] + 0.01)
    case = replace(
        made.case,
        evidence=evidence,
        scoring=Labelled(pooled[~fit], shown[~fit]),
        head=head,
        predicted=classes[fit],
        classes=classes[fit],
        labels=shown[fit],
        own=np.full(3, -1),
    )
    return replace(made, case=case, change=3.0 * used)


def test_what_is_planted_gets_full_marks_and_chance_does_not() -> None:
    found = judges.compete_in_family([planted_case()], ENTRANTS)
    for entrant in ("ours", "ours, without regions", "mean difference", "INVERT (given labels)"):
        assert found[entrant]["channel pearson"][0] > 0.9, entrant
    for entrant in ("ours", "ours, without regions"):
        assert found[entrant]["first word is in the rule"] == [1.0] * 3
        assert found[entrant]["rule AUPRC"] == [1.0] * 3
        assert found[entrant]["groups ARI"][0] > 0.9
    assert found["ours"]["Spearman of presence effects"][0] > 0.5
    assert found["chance"]["channel pearson"][0] < 0.5
    assert "first word is in the rule" not in found["INVERT (given labels)"]


def test_confidence_is_told_apart_by_what_the_encoder_sees() -> None:
    one = replace(planted_case(), seen=np.arange(7) < 4)
    told = judges.judge_confidence(one, np.where(np.arange(14) % 7 < 4, 0.9, 0.2))
    assert told == {
        "confidence of channels about what is seen": [pytest.approx(0.9)],
        "confidence of channels about what is not seen": [pytest.approx(0.2)],
    }
    assert [*judges.judge_confidence(planted_case(), np.ones(14))] == [
        "confidence of channels about what is seen"
    ]
