"""True effects, of classifiers whose answer is a rule on the scene: nothing is rendered."""

import numpy as np
import pytest

from benchmarks.truth.effects import AT_ONCE, CUES, LEAST, MOST, SURE, measure
from demo.scenes import VALUES
from demo.words import text_of

CIRCLE = VALUES["shape"].index("circle")


class ByRule:
    """Calls a scene a circle where the rule holds, and nothing of the kind elsewhere."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def predict(self, scenes):
        self.asked += scenes
        return np.array([CIRCLE if self.rule(scene) else CIRCLE + 1 for scene in scenes])


def test_a_classifier_of_water_loses_all_without_it():
    found = measure(ByRule(lambda scene: scene.background == "water"), 3, "circle", text_of("water"))
    assert (found.effect, found.flip_rate, found.n, found.n_right) == (1.0, 1.0, LEAST, LEAST)


def test_a_classifier_of_shapes_loses_nothing():
    found = measure(ByRule(lambda scene: scene.shape == "circle"), 3, "circle", text_of("red"))
    assert (found.effect, found.flip_rate) == (0.0, 0.0)


def test_effect_is_over_all_scenes_and_flips_over_those_that_were_right():
    """Right with the cue if the object is left of the middle; without it if it is left of .35."""
    watermark = text_of("watermark")

    def rule(scene):
        return scene.x < (0.5 if scene.artefact == "watermark" else 0.35)

    asked = ByRule(rule)
    found = measure(asked, 3, "circle", watermark)
    x = np.array([scene.x for scene in asked.asked if scene.artefact == "watermark"])
    assert found.n == len(x)
    assert found.n_right == (x < 0.5).sum()
    assert found.effect == pytest.approx(((x < 0.5) & (x >= 0.35)).mean())
    assert found.flip_rate == pytest.approx((x[x < 0.5] >= 0.35).mean())


def test_scenes_are_drawn_until_enough_are_right_or_too_many_were_drawn():
    never = measure(ByRule(lambda scene: False), 3, "circle", text_of("water"))
    assert (never.n, never.n_right, never.flip_rate) == (MOST, 0, 0.0)
    seldom = measure(ByRule(lambda scene: scene.texture == "plain"), 3, "circle", text_of("water"))
    assert seldom.n_right < SURE or seldom.n == LEAST
    assert MOST % AT_ONCE == LEAST % AT_ONCE == 0


def test_every_attribute_but_the_shape_is_a_cue():
    assert set(CUES) == {
        text_of(value)
        for name in ("background", "artefact", "colour", "texture")
        for value in VALUES[name]
        if value != "none"
    }
