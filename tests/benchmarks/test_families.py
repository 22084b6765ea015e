"""Worlds of rules, of parts and of other labels: one thing changes at a time, masks are where pixels are, and
rules are what they say.
"""

import numpy as np
import pytest

from benchmarks.truth.creatures import PARTS, Creatures, changed
from benchmarks.truth.families import ENTRANTS
from benchmarks.truth.families import FAMILIES as RUN
from benchmarks.truth.family import Family, Rule, bank, drawn_of, labels_of, pixels, words_of
from benchmarks.truth.family_worlds import FamilyWorld, classes_of, scenes_of, world_of
from benchmarks.truth.label_scenes import LABELS, LabelScenes, label_world
from benchmarks.truth.rivals import RIVALS
from benchmarks.truth.rule_scenes import OPTIONS, Item, RuleScene, RuleScenes

FAMILIES: list[Family] = [RuleScenes(), Creatures(), LabelScenes("pair")]
SIZE = 64


def named(family: Family) -> str:
    return family.name


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_a_word_given_or_taken_changes_that_and_the_pixels_of_what_shows_it(family: Family) -> None:
    rng = np.random.default_rng(0)
    for word in words_of(family):
        for _ in range(3):
            scene = family.draw(rng)
            with_it, without = family.given(scene, word, rng), family.taken(scene, word, rng)
            assert word in family.shows(with_it)
            assert word not in family.shows(without)
            assert scene in (with_it, without), "one of the two is the scene as it was"
            before, after = family.render(with_it, SIZE), family.render(without, SIZE)
            differs = (before.image != after.image).any(2)
            assert differs.any(), f"{word} is not to be seen"
            things = set(family.things(with_it, word)) | ({"background"} & set(before.masks))
            if family.name == "rules":  # the changed objects have the word on one side only
                things = {
                    str(place)
                    for place, (a, b) in enumerate(zip(with_it.items, without.items, strict=True))
                    if a != b
                }
            allowed = np.any([m for r in (before, after) for n, m in r.masks.items() if n in things], axis=0)
            assert not (differs & ~allowed).any(), f"{word} changed something else"
            others = family.shows(with_it) ^ family.shows(without)
            assert {family_attribute(family, one) for one in others} == {family_attribute(family, word)}


def family_attribute(family: Family, text: str) -> str:
    return next(name for name, values in family.values.items() if text in values)


@pytest.mark.parametrize("family", [FAMILIES[0], FAMILIES[1]], ids=named)
def test_masks_do_not_overlap(family: Family) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        masks = family.render(family.draw(rng), SIZE).masks
        assert np.sum([*masks.values()], axis=0).max() == 1
        assert all(mask.any() for mask in masks.values())


def test_the_mask_of_a_part_is_where_its_colour_is() -> None:
    rng = np.random.default_rng(2)
    for part in PARTS:
        scene = changed(Creatures().draw(rng), part, "pattern", "plain")
        red, blue = (Creatures().render(changed(scene, part, "colour", c), SIZE) for c in ("red", "blue"))
        mask = red.masks[part]
        differs = (red.image != blue.image).any(2)
        assert not (differs & ~mask).any()
        assert (differs & mask).sum() > 0.9 * mask.sum()
        more = red.image[mask].astype(int) - blue.image[mask]
        assert (more[:, 0] >= 0).all()
        assert (more[:, 2] <= 0).all()
        assert more[:, 0].mean() > 30


def item(shape: str = "star", colour: str = "red", texture: str = "plain", size: str = "medium") -> Item:
    return Item(shape, colour, texture, size, 0.5, 0.5, 0.0, 1.0, 0.06, 0.0, (0.0, 0.0))


def test_rules_by_hand() -> None:
    family = RuleScenes()
    red_cube = Rule("one object", ("red", "square"))
    apart = Rule("two objects", ("red", "square"))
    striped = Rule("twice", ("striped",))

    def table(*items: Item) -> list[bool]:
        scene = RuleScene(items, 0.6, 0)
        return [family.meets(scene, rule) for rule in (red_cube, apart, striped)]

    assert table(item("square", "red"), item("star", "blue"), item("ring", "blue")) == [True, False, False]
    assert table(item("square", "blue"), item("star", "red"), item("ring", "blue")) == [False, True, False]
    assert table(item("square", "red"), item("star", "red"), item("ring", "blue")) == [True, True, False]
    assert table(item("square", "red"), item("square", "red")) == [True, True, False]
    assert table(item(texture="striped"), item(colour="blue")) == [False, False, False]
    assert table(item(texture="striped"), item(texture="striped")) == [False, False, True]
    assert table(item("circle"), item("circle", "blue")) == [False, False, False]


def test_what_is_said_of_objects() -> None:
    scene = RuleScene((item(texture="dotted", size="large"), item("ring", "blue")), 0.6, 0)
    assert RuleScenes().shows(scene) == {"star", "red", "dotted", "large", "ring", "blue"}
    assert RuleScenes().things(scene, "blue") == ("1",)
    assert set().union(*OPTIONS.values()) - {"plain", "medium"} == set(words_of(RuleScenes()))


@pytest.mark.parametrize("family", [*FAMILIES, *(LabelScenes(label) for label in LABELS)], ids=named)
def test_a_drawn_scene_is_of_one_class_and_of_no_other(family: Family) -> None:
    rng = np.random.default_rng(3)
    for _ in range(3):
        rules = family.rules(rng)
        for class_id in range(len(rules)):
            scene = drawn_of(family, rules, class_id, rng)
            assert [family.meets(scene, rule) for rule in rules].index(True) == class_id
            assert sum(family.meets(scene, rule) for rule in rules) == 1
            assert set(rules[class_id].words) <= family.shows(scene)


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_words_are_neither_rare_nor_everywhere(family: Family) -> None:
    rng = np.random.default_rng(4)
    labels = labels_of(family, [family.draw(rng) for _ in range(400)])
    texts, kinds = bank(family)
    known = len(words_of(family))
    assert len(texts) == len(kinds) == len(set(texts))
    share = labels.mean(0)
    assert share[:known].min() > 0.05
    assert share[:known].max() < 0.65
    assert not labels[:, known:].any(), "no scene shows a distractor"


def test_rules_of_a_world_share_no_value() -> None:
    for seed in range(10):
        rules = RuleScenes().rules(np.random.default_rng(seed))
        words = [word for rule in rules for word in rule.words]
        assert len(words) == len(set(words)) == 10


def test_creatures_come_in_twos_that_differ_in_one_form() -> None:
    for seed in range(10):
        rules = Creatures().rules(np.random.default_rng(seed))
        assert len({rule.words for rule in rules}) == 8
        for one, other in zip(rules[::2], rules[1::2], strict=True):
            assert one.words[:2] == other.words[:2]
            assert len({word.split()[1] for word in one.words}) == 3, "three different parts"
            assert one.words[2].split()[1] == other.words[2].split()[1]
        assert len({rule.words[0] for rule in rules}) == 4


def test_a_world_of_labels_has_a_cue() -> None:
    for label in LABELS:
        worlds = [label_world(label, seed) for seed in range(6)]
        for world in worlds:
            ((class_id, word),) = world.cues
            assert 0 <= class_id < len(world.rules)
            assert word in (*world.family.values["background"], *world.family.values["artefact"])
        assert len({world.key for world in worlds}) == 6


def worlds(seed: int) -> list[FamilyWorld]:
    return [world_of(RuleScenes(), seed), world_of(Creatures(), seed), label_world("pair", seed)]


def test_worlds_are_the_same_again_and_other_seeds_are_others() -> None:
    for one, again, other in zip(worlds(3), worlds(3), worlds(4), strict=True):
        assert one.key == again.key != other.key
        assert one.rules == again.rules != other.rules
        scenes = scenes_of(one, 1, 2, biased=True)
        assert scenes == scenes_of(again, 1, 2, biased=True)
        assert scenes[: len(one.rules)] == scenes_of(one, 1, 1, biased=True), "more, and the same first"
        assert not set(scenes) & set(scenes_of(one, 2, 2, biased=True)), "what judges was never explained"
        assert not set(scenes) & set(scenes_of(other, 1, 2, biased=True))
        assert (pixels(one.family, scenes[:3], SIZE) == pixels(again.family, scenes[:3], SIZE)).all()


def test_scenes_come_class_by_class_and_cues_in_their_class() -> None:
    world = label_world("texture", 0)
    scenes = scenes_of(world, 0, 40, biased=True)
    for scene, class_id in zip(scenes, classes_of(world, len(scenes)), strict=True):
        assert world.family.meets(scene, world.rules[class_id])
    ((cued, word),) = world.cues
    shown = np.array([word in world.family.shows(scene) for scene in scenes])
    mine = classes_of(world, len(scenes)) == cued
    assert shown[mine].mean() > 0.7
    assert shown[~mine].mean() < 0.15


def test_every_family_runs_with_every_rival() -> None:
    assert [*RUN] == ["rules", "parts", "labels", "blind"]
    assert {"ours", "TextCAM, the paper's form", "mean difference", "no channels", *RIVALS} <= set(ENTRANTS)
