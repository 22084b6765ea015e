import numpy as np
import pytest

from pipelines.proof_images import Draw, choose, rival_texts
from textcam.edits import edit_hue, edit_tone
from textcam.trials import HUES, NO_TEXT, TURNS, Cast, Picture, Stranger, make_trials

SHOWN, RIVAL, NOTHING = np.eye(3)  # texts, and the features of cells that show them
TEXTS = np.eye(3)
WHITE, RED, GREEN = (240, 240, 240), (200, 30, 30), (30, 140, 40)


def picture(left, right, *, colours, core=None):
    """Two cells wide and high; each half of one colour and one feature."""
    dense = np.stack([np.stack([left, right])] * 2)  # (2, 2, 3)
    square = np.zeros((4, 4, 3), np.uint8)
    square[:, :2], square[:, 2:] = colours
    return Picture(square, dense, core)


def test_a_swap_takes_the_donors_pixels_where_the_text_is_and_the_twins_as_control():
    pictures = {
        1: picture(SHOWN, NOTHING, colours=(WHITE, GREEN)),
        2: picture(SHOWN, NOTHING, colours=(RED, GREEN)),
        3: picture(NOTHING, NOTHING, colours=((1, 1, 1), (2, 2, 2))),
        4: picture(NOTHING, NOTHING, colours=((3, 3, 3), (4, 4, 4))),
    }
    cast = Cast(pictures, [1, 2], [3, 4], [Stranger(3, 0), Stranger(4, 5)])
    first, second = make_trials("swap", 0, TEXTS, cast)
    assert first.edited[0][0].tolist() == [[1, 1, 1]] * 2 + [list(GREEN)] * 2
    assert second.edited[0][0].tolist() == [[3, 3, 3]] * 2 + [list(GREEN)] * 2
    assert first.kept[0].tolist() == [list(RED)] * 2 + [list(GREEN)] * 2  # the other carrier's evidence
    assert first.other_class == 5  # the donor is not its own stranger
    assert first.other_edited[0][0].tolist() == [[1, 1, 1]] * 2 + [[4, 4, 4]] * 2


def test_a_swap_spares_the_cells_of_the_class_itself_and_needs_evidence():
    core = np.array([[True, False], [False, False]])
    pictures = {
        1: picture(SHOWN, NOTHING, colours=(WHITE, GREEN), core=core),
        2: picture(NOTHING, NOTHING, colours=(RED, GREEN)),
        3: picture(NOTHING, NOTHING, colours=((1, 1, 1), (2, 2, 2))),
        4: picture(NOTHING, NOTHING, colours=((3, 3, 3), (4, 4, 4))),
    }
    (only,) = make_trials("swap", 0, TEXTS, Cast(pictures, [1, 2], [3, 4], [Stranger(3, 0)]))
    assert only.edited[0][:, 0].tolist() == [list(WHITE)] * 2 + [[1, 1, 1]] * 2


@pytest.mark.parametrize("colourless", [(), (1,)])
def test_white_is_toned_and_a_stranger_gets_the_edit_of_what_it_shows(colourless):
    other = WHITE if colourless else RED
    pictures = {
        1: picture(SHOWN, NOTHING, colours=(WHITE, GREEN)),
        2: picture(SHOWN, NOTHING, colours=(WHITE, GREEN)),
        3: picture(RIVAL, NOTHING, colours=(other, GREEN)),
        4: picture(RIVAL, NOTHING, colours=(other, GREEN)),
    }
    cast = Cast(pictures, [1, 2], [3, 4], [Stranger(3, 0, 1), Stranger(4, 0, 1)])
    trials = make_trials("tone", 0, TEXTS, cast, colourless)
    assert len(trials) == 2
    left = np.zeros((4, 4), bool)
    left[:, :2] = True
    for made, hue in zip(trials[0].edited, HUES, strict=True):
        np.testing.assert_array_equal(made, edit_tone(pictures[1].square, left, hue))
    # The control leaves white as it is: here there is nothing but white in the place.
    np.testing.assert_array_equal(trials[0].kept, pictures[1].square)
    edit, amounts = (edit_tone, HUES) if colourless else (edit_hue, TURNS)
    for made, amount in zip(trials[0].other_edited, amounts, strict=True):
        np.testing.assert_array_equal(made, edit(pictures[3].square, left, amount))


def test_an_edit_that_changes_nothing_is_no_trial():
    pictures = {at: picture(SHOWN, NOTHING, colours=(WHITE, GREEN)) for at in (1, 2)}
    pictures |= {at: picture(RIVAL, NOTHING, colours=(RED, GREEN)) for at in (3, 4)}
    cast = Cast(pictures, [1, 2], [3, 4], [Stranger(3, 0, 1)])
    assert make_trials("hue", 0, TEXTS, cast) == []  # white has no hue to turn
    assert make_trials("tone", 0, TEXTS, Cast(pictures, [1], [3, 4], [Stranger(3, 0, 1)])) == []


def test_carriers_donors_and_strangers_of_ten_images():
    drawn = Draw(
        image_ids=np.arange(10),
        classes=np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1]),
        predictions=np.array([0, 0, 1, 0, 0, 0, 1, 1, 0, 1]),
        general=np.ones(10, bool),
        embeddings=np.zeros((10, 3), np.float32),
    )
    present = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1], bool)
    likeness = np.where(present, 0.9, 0.1)
    carriers, donors, strangers = choose(drawn, 0, present, likeness, 5)
    assert carriers.tolist() == [0, 1]  # the third is called something else, the last of another class
    assert donors.tolist() == [3, 4, 5, 6]  # its own class, those that are right first
    assert strangers.tolist() == [3, 4, 5, 6]  # fewer than four of them are right: all
    present[5] = True
    _, donors, strangers = choose(drawn, 0, present, np.where(present, 0.9, 0.1), 5)
    assert donors.tolist() == strangers.tolist() == [7, 8]  # three are too few: other classes


def test_a_donor_is_hardly_more_like_the_text_than_images_in_general():
    """Seven of ten images are said to be without the text, but two of them look as if they had it: between
    the usual likeness of 0.1 and the carriers' 0.9 a donor lies below 0.26."""
    drawn = Draw(
        image_ids=np.arange(10),
        classes=np.zeros(10, np.int64),
        predictions=np.zeros(10, np.int64),
        general=np.ones(10, bool),
        embeddings=np.zeros((10, 3), np.float32),
    )
    present = np.arange(10) < 3
    likeness = np.array([0.9, 0.8, 0.95, 0.1, 0.27, 0.25, 0.1, 0.1, 0.05, 0.5])
    carriers, donors, strangers = choose(drawn, 0, present, likeness, 9)
    assert carriers.tolist() == [0, 1, 2]
    assert donors.tolist() == strangers.tolist() == [3, 5, 6, 7, 8]


def test_a_rival_is_the_text_of_the_kind_that_an_image_shows_most():
    seen = np.array([[0.9, 0.2, 0.3, 0.0], [0.9, 0.3, 0.2, 0.8]])
    kinds = ["colour", "colour", "colour", "scene"]
    assert rival_texts(seen, np.eye(4), kinds, 0).tolist() == [2, 1]
    assert rival_texts(seen, np.eye(4), ["other"] * 4, 0).tolist() == [NO_TEXT] * 2
    assert rival_texts(seen, np.eye(4), kinds, 3).tolist() == [NO_TEXT] * 2
