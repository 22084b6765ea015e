"""Maps over images, thumbnails, and numbers for people."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.pictures import Album, colour_scale, draw_map, fit, view_box
from service.wording import number, percent
from store.errors import SourceError


def test_colour_scale_rises_in_lightness() -> None:
    linear = (colour_scale().astype(np.float64) / 255) ** 2.2
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    assert np.diff(luminance).min() >= 0
    assert luminance[-1] > 10 * luminance[0]


def test_a_map_is_brightest_where_it_is_strongest() -> None:
    values = np.zeros((3, 5), np.uint8)
    values[2, 1] = 255
    drawn = np.asarray(draw_map(Image.new("RGB", (250, 150), (90, 90, 90)), values), np.float64)
    assert drawn.shape == (150, 250, 3)
    warm = drawn[..., 0] - drawn[..., 2]  # red minus blue
    row, column = np.unravel_index(np.argmax(warm), warm.shape)
    assert (int(row) * 3 // 150, int(column) * 5 // 250) == (2, 1)
    assert np.ptp(drawn[:50, 150:], axis=(0, 1)).max() == 0  # nothing is drawn where the map is zero


def test_a_weak_map_looks_weak() -> None:
    grey, values = Image.new("RGB", (200, 200), (90, 90, 90)), np.full((2, 2), 255, np.uint8)
    drawn = [
        np.asarray(draw_map(grey, values, strength), np.float64)[100, 100] for strength in (0.05, 0.4, 1.0)
    ]
    warmth = [pixel[0] - pixel[2] for pixel in drawn]  # red minus blue
    assert warmth == sorted(warmth)
    assert np.abs(drawn[0] - drawn[0].mean()).max() < 12  # still nearly grey
    assert np.array_equal(np.asarray(draw_map(grey, values, 0.0)), np.asarray(grey))


def test_an_empty_map_leaves_the_image_alone() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(draw_map(image, np.zeros((7, 7), np.uint8))), np.asarray(image))


@pytest.mark.parametrize(
    ("size", "aspect", "share", "box"),
    [
        ((300, 200), 1.0, 1.0, (50, 0, 250, 200)),
        ((200, 300), 1.0, 0.5, (50, 100, 150, 200)),
        ((40, 24), 5 / 3, 1.0, (0, 0, 40, 24)),
        ((500, 1), 1.0, 1.0, (250, 0, 250, 1)),
    ],
)
def test_view_box(size: tuple[int, int], aspect: float, share: float, box: tuple[int, int, int, int]) -> None:
    assert view_box(*size, aspect, share) == box


def test_fit_shrinks_and_never_enlarges() -> None:
    assert fit(Image.new("RGB", (300, 150)), 100).size == (100, 50)
    assert fit(Image.new("RGB", (30, 15)), 100).size == (30, 15)
    assert fit(Image.new("RGB", (3000, 2)), 100).size == (100, 1)


def test_an_album_opens_and_draws_each_picture_once(tmp_path: Path) -> None:
    opened: list[str] = []

    def original(uri: str) -> Image.Image:
        opened.append(uri)
        if uri == "gone":
            raise SourceError("There is no such file.", where=uri)
        return Image.new("RGB", (50, 40))

    album = Album(tmp_path.joinpath, original)
    cells = np.full((4, 5), 9, np.uint8)
    made = [
        album.thumbnail(1, "a", "x"),
        album.overlay(1, "a", "y", class_id=3, group_id=-1, values=cells),
        album.thumbnail(1, "a", "z"),
    ]
    assert [picture.name for picture in made] == [
        "0000000000000001.webp",
        "0000000000000001-3-whole.webp",
        "0000000000000001.webp",
    ]
    assert opened == ["a"]
    assert album.thumbnail(2, "gone", "x").name is None
    assert album.thumbnail(2, "gone", "x").name is None
    assert opened == ["a", "gone"]
    assert album.missing == {"gone": "There is no such file."}


def test_numbers_for_people() -> None:
    assert [percent(one) for one in (0.61, 0.004, 0.0, 1.0, 0.0996, None, float("nan"))] == [
        "61 %",
        "0.4 %",
        "0 %",
        "100 %",
        "10 %",
        "unknown",
        "unknown",
    ]
    assert number(1281167) == "1\u00a0281\u00a0167"
