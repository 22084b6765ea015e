"""Scenes are what they say: the same every time, changed only where they should be, with masks that hold."""

from dataclasses import replace

import numpy as np
import pytest

from demo.scenes import PLACE, SIZE, VALUES, Scene, render, sample_scene, scenes


def some(count: int, **fixed: str) -> list[Scene]:
    return list(scenes("held-out", 7, count, **fixed))


def test_the_same_seed_gives_the_same_picture_and_another_seed_another():
    first, again = some(5), some(5)
    assert first == again
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(render(a).image, render(b).image)
    assert first != list(scenes("held-out", 8, 5))
    assert first != list(scenes("training", 7, 5))


def test_a_scene_does_not_depend_on_how_many_are_drawn_before_it():
    assert some(9)[:4] == some(4)


def test_what_is_fixed_is_fixed_and_changes_nothing_else():
    free, fixed = some(6), some(6, shape="ring")
    assert [replace(scene, shape="ring") for scene in free] == fixed


def test_all_values_occur_about_equally_often():
    drawn = some(1200)
    for name in ("shape", "colour", "texture", "background"):
        counts = [sum(getattr(scene, name) == value for scene in drawn) for value in VALUES[name]]
        expected = len(drawn) / len(VALUES[name])
        assert max(abs(count - expected) for count in counts) < 5 * expected**0.5
    assert 0.34 < sum(scene.artefact == "none" for scene in drawn) / len(drawn) < 0.46


def test_an_unknown_value_is_refused_by_name():
    with pytest.raises(ValueError, match="no colour 'pink'"):
        sample_scene(np.random.default_rng(0), colour="pink")
    with pytest.raises(ValueError, match="no mood 'sad'"):
        sample_scene(np.random.default_rng(0), mood="sad")


@pytest.mark.parametrize("name", list(VALUES))
def test_changing_one_attribute_changes_pixels_on_its_mask_only(name):
    for scene in some(6):
        before = render(scene)
        for value in VALUES[name]:
            after = render(replace(scene, **{name: value}))
            changed = (before.image != after.image).any(axis=2)
            mask = before.masks[PLACE[name]] | after.masks[PLACE[name]]
            assert not (changed & ~mask).any()
            if value != getattr(scene, name):
                assert changed.sum() > 20, f"{name} {value} looks like {getattr(scene, name)}"


def test_masks_cover_the_picture_and_have_the_sizes_of_their_things():
    for scene in some(40):
        masks = render(scene).masks
        assert np.logical_or.reduce(list(masks.values())).all()
        assert masks["artefact"].any() == (scene.artefact != "none")
        inner = (masks["object"] & ~masks["background"]).sum() / SIZE**2
        assert 0.02 < inner < np.pi * 0.29**2 * 1.1
        rows, columns = np.nonzero(masks["object"])
        reach = (scene.radius * 1.1 + 2 / SIZE) * SIZE
        assert abs(rows - scene.y * SIZE).max() <= reach
        assert abs(columns - scene.x * SIZE).max() <= reach


def test_the_object_has_its_colour_and_lies_on_its_mask():
    for scene in some(8, texture="plain", artefact="none", colour="red"):
        picture = render(scene)
        inside = picture.image[picture.masks["object"] & ~picture.masks["background"]].mean(axis=0)
        assert inside[0] > 2 * inside[1]
        assert inside[0] > 2 * inside[2]


def test_a_scene_is_the_same_place_at_every_size():
    for scene in some(6):
        large, small = render(scene, 128), render(scene, 64)
        halved = large.image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert abs(halved - small.image).mean() < 9
        shrunk = large.masks["object"].reshape(64, 2, 64, 2).mean(axis=(1, 3)) > 0.5
        assert (shrunk != small.masks["object"]).mean() < 0.03
