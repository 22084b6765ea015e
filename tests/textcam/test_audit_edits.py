import numpy as np
import pytest

from store.errors import SchemaMismatch
from store.schema import KINDS
from tests.textcam import audit_oracles as slow
from textcam.edits import (
    EDIT_OF_KIND,
    area_threshold,
    core_cells,
    edit_hue,
    edit_light,
    edit_of,
    edit_smooth,
    edit_swap,
    edit_tone,
    enlarge,
    evidence_area,
    mean_change,
)

LUMA = np.array([0.299, 0.587, 0.114])


def pixels(*rows):
    return np.array([rows], np.uint8)  # one line of pixels


def all_of(image):
    return np.ones(image.shape[:2], bool)


@pytest.fixture
def noise():
    draw = np.random.default_rng(9)
    return draw.integers(0, 256, (11, 11, 3), dtype=np.uint8), draw.random((11, 11)) < 0.4


def test_swap_takes_the_area_from_the_donor_and_the_rest_from_the_image():
    image, donor = pixels((1, 2, 3), (4, 5, 6)), pixels((7, 8, 9), (10, 11, 12))
    assert edit_swap(image, donor, np.array([[False, True]])).tolist() == [[[1, 2, 3], [10, 11, 12]]]


def test_swap_fades_along_the_edge_of_the_area_but_not_of_the_image():
    image, donor = pixels(*[(0, 100, 200)] * 6), pixels(*[(80, 100, 0)] * 6)
    area = np.array([[False, False, True, True, True, True]])
    shares = np.array([0, 0, 0.25, 0.5, 0.75, 1])  # a quarter a pixel, up to the image's own edge
    wanted = np.stack([80 * shares, np.full(6, 100), 200 * (1 - shares)], axis=1)
    np.testing.assert_array_equal(edit_swap(image, donor, area, 4)[0], wanted)
    np.testing.assert_array_equal(edit_swap(image, donor, all_of(image), 4), donor)


def test_half_a_turn_makes_red_cyan_of_the_same_luma():
    # Luma 76.245. The opposite of red would be (-102.5, 152.5, 152.5); paled until red is 0: 109.
    assert edit_hue(pixels((255, 0, 0)), np.ones((1, 1), bool)).tolist() == [[[0, 109, 109]]]


def test_what_has_no_hue_stays():
    grey = pixels((0, 0, 0), (128, 128, 128), (255, 255, 255))
    assert edit_hue(grey, all_of(grey), 0.31).tolist() == grey.tolist()


def test_hue_keeps_luma_and_no_turn_or_a_whole_turn_changes_nothing(noise):
    image, area = noise
    turned = edit_hue(image, area, 0.37)
    np.testing.assert_allclose(turned @ LUMA, image @ LUMA, atol=0.51)
    assert np.abs(turned[area].astype(int) - image[area]).mean() > 20
    np.testing.assert_array_equal(edit_hue(image, area, 0.0), image)
    np.testing.assert_array_equal(edit_hue(image, area, 1.0), image)


def test_hue_turns_by_the_angle_asked_for():
    image = pixels((140, 120, 110))  # pale enough for every hue

    def angle(pixel):
        luma = pixel @ LUMA
        return np.arctan2((pixel[0] - luma) / 1.402, (pixel[2] - luma) / 1.772)

    before, after = angle(image[0, 0]), angle(edit_hue(image, all_of(image), 0.25)[0, 0])
    assert abs((before - after) % (2 * np.pi)) == pytest.approx(np.pi / 2, abs=0.05) or abs(
        (after - before) % (2 * np.pi)
    ) == pytest.approx(np.pi / 2, abs=0.05)


def test_tone_gives_white_and_black_a_hue_at_middling_luma():
    # Mean luma 191: 63.5 down. Red of radius 48 in Cr is (67.3, -34.3, 0); the first, of luma 191.5, has room
    # for 63.5 / 67.3 of it.
    image = pixels((255, 255, 255), (127, 127, 127))
    made = edit_tone(image, all_of(image), 0.0)[0].astype(int)
    np.testing.assert_allclose(made, [[255, 159, 191], [131, 29, 63]], atol=1)
    dark = pixels((20, 20, 20))
    np.testing.assert_allclose(edit_tone(dark, all_of(dark), 0.0)[0, 0], [195, 93, 128], atol=1)


def test_tone_leaves_what_has_a_hue_and_keeps_the_pattern():
    image = pixels((255, 0, 0), (230, 230, 230), (200, 200, 200))
    for hue in (0.0, 1 / 3, 2 / 3):
        made = edit_tone(image, all_of(image), hue)[0]
        assert made[0].tolist() == [255, 0, 0]
        luma = made @ LUMA
        assert luma[1] - luma[2] == pytest.approx(30, abs=1)
        assert luma[1:].mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(
    ("kind", "text", "edit"),
    [
        ("colour", "white", "tone"),
        ("colour", "Charcoal grey", "tone"),
        ("colour", "black and white", "tone"),
        ("colour", "brown and white", "hue"),
        ("colour", "red", "hue"),
        ("colour", "", "hue"),
        ("texture", "white", "smooth"),
        ("object", "black and white", "swap"),
    ],
)
def test_colours_without_hue_have_an_edit_of_their_own(kind, text, edit):
    assert edit_of(kind, text) == edit


def test_light_moves_towards_the_side_with_room_and_keeps_hue():
    assert edit_light(pixels((10, 20, 30)), np.ones((1, 1), bool), 40).tolist() == [[[50, 60, 70]]]
    assert edit_light(pixels((210, 220, 130)), np.ones((1, 1), bool), 40).tolist() == [[[170, 180, 90]]]


def test_smoothing_agrees_with_one_pixel_at_a_time(noise):
    image, area = noise
    found, wanted = edit_smooth(image, area, 1.3), slow.smooth(image, area, 1.3)
    assert np.abs(found.astype(int) - wanted).max() <= 1  # rounding only
    assert mean_change(image, found, area) > 20


def test_smoothing_lets_no_colour_in_from_outside():
    image = np.full((7, 7, 3), 255, np.uint8)
    image[2:5, 2:5] = (10, 60, 90)
    area = np.zeros((7, 7), bool)
    area[2:5, 2:5] = True
    np.testing.assert_array_equal(edit_smooth(image, area, 2.0), image)


def test_smoothing_takes_stripes_away():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, ::2] = 200
    flat = edit_smooth(image, all_of(image), 2.0)[4:12, 4:12]
    assert int(flat.max()) - int(flat.min()) < 10


@pytest.mark.parametrize("edit", ["swap", "hue", "tone", "light", "smooth"])
def test_no_byte_changes_outside_the_area_and_the_input_stays(noise, edit):
    image, area = noise
    kept = image.copy()
    done = {
        "swap": lambda: edit_swap(image, 255 - image, area),
        "hue": lambda: edit_hue(image, area),
        "tone": lambda: edit_tone(image, area, 0.2),
        "light": lambda: edit_light(image, area, 30),
        "smooth": lambda: edit_smooth(image, area, 2.0),
    }[edit]()
    np.testing.assert_array_equal(done[~area], image[~area])
    assert (done[area] != image[area]).any()
    np.testing.assert_array_equal(image, kept)
    nothing = np.zeros_like(area)
    if edit != "swap":
        assert mean_change(image, done, nothing) == 0


def test_an_empty_area_changes_nothing(noise):
    image, _ = noise
    nothing = np.zeros(image.shape[:2], bool)
    for done in (
        edit_hue(image, nothing),
        edit_tone(image, nothing, 0.5),
        edit_light(image, nothing, 9),
        edit_smooth(image, nothing, 2.0),
    ):
        np.testing.assert_array_equal(done, image)


def test_mean_change_by_hand():
    image, edited = pixels((1, 2, 3), (0, 0, 0)), pixels((4, 2, 0), (9, 9, 9))
    assert mean_change(image, edited, np.array([[True, False]])) == 2


def dense_of(similarities):
    """Patch features (gh, gw, 2) whose similarity with (1, 0) is as given."""
    similarities = np.asarray(similarities, np.float64)
    return np.stack([similarities, np.sqrt(1 - similarities**2)], axis=-1)


TEXT = np.array([1.0, 0.0])


def test_area_is_above_the_threshold_cell_by_cell():
    dense = dense_of([[0.9, 0.1, 0.2], [0.1, 0.8, 0.1]])
    found = evidence_area(dense, TEXT, 0.5, 6)
    wanted = np.zeros((6, 6), bool)
    wanted[:3, :2] = wanted[3:, 2:4] = True
    np.testing.assert_array_equal(found, wanted)


def test_area_spares_what_is_to_be_kept_on_a_grid_of_its_own():
    dense = dense_of([[0.9, 0.8], [0.7, 0.6]])
    keep = np.array([[True, False, False, False]] * 4)  # the left quarter
    found = evidence_area(dense, TEXT, 0.5, 8, keep=keep, largest=1.0)
    assert not found[:, :2].any()
    assert found[:, 2:].all()


def test_a_large_area_is_cut_to_its_most_similar_cells():
    dense = dense_of([[0.9, 0.8], [0.7, 0.6]])
    found = evidence_area(dense, TEXT, 0.5, 4, largest=0.5)
    assert found[:2].all()
    assert not found[2:].any()
    assert evidence_area(dense, TEXT, 0.5, 4, largest=0.7).sum() == 8  # whole cells: half, not 0.7
    assert evidence_area(dense, TEXT, 0.95, 4).sum() == 0


def test_threshold_is_what_images_without_the_concept_do_not_reach():
    without = dense_of(np.linspace(0, 0.5, 202).reshape(2, 101, 1))  # (n, gh, gw, D)
    threshold = area_threshold(without, TEXT, 0.9)
    assert threshold == pytest.approx(0.45)
    assert np.mean(np.linspace(0, 0.5, 202) > threshold) == pytest.approx(0.1, abs=0.005)


def test_core_cells_are_at_least_half_of_the_maximum():
    assert core_cells(np.array([[4.0, 2.0], [1.9, -8.0]])).tolist() == [[True, True], [False, False]]
    assert not core_cells(np.array([[-1.0, 0.0]])).any()


def test_enlarging_repeats_cells_evenly():
    assert enlarge(np.array([[1, 2], [3, 4]]), 4).tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2
    assert enlarge(np.array([[1, 2, 3]]), 5)[0].tolist() == [1, 1, 2, 3, 3]


def test_every_kind_has_its_edit():
    assert set(EDIT_OF_KIND) == set(KINDS)
    assert set(EDIT_OF_KIND.values()) == {"swap", "hue", "smooth"}


def test_an_area_of_another_size_or_a_float_image_is_refused(noise):
    image, area = noise
    with pytest.raises(SchemaMismatch, match="area's size"):
        edit_hue(image, area[:5])
    with pytest.raises(SchemaMismatch, match="uint8"):
        edit_smooth(image.astype(np.float32), area, 1.0)
    with pytest.raises(SchemaMismatch, match="area's size"):
        edit_swap(image, image[:5], area)
