"""Edits that take a text's evidence out of an image, and edits of the same place that leave it there.

All are pure functions of uint8 images (S, S, 3) and a boolean area (S, S); outside the area not a byte
changes. Which edit takes which kind of evidence away (ours; what prototypes showed in brackets):

swap    scene, artefact, object, part, other: the same place of another image. The donor lacks the concept,
        the control's donor has it there. [Blurring a fixed number of cells leaves most of a background
        standing. A hard seam between two backgrounds costs a classifier of shapes more than the background
        does: the edge is faded.]
hue     colour: the hue is turned, luminance and shape stay. The control changes the luminance and keeps the
        hue. [Erasing a colour erases the object: every colour was convicted.]
tone    white, grey, black, which have no hue to turn: what has no hue gets one, and its mean luminance
        moves to the middle, where hues show; pattern and shape stay. The control turns the hues of the same
        place, which leaves white, grey and black as they are.
smooth  texture, material: averaged within the area, so that no colour leaks in or out. Control as for hue.

The area is where the encoder's patch features are like the text beyond what images without it reach, less the
cells on which the class's own core groups fire; else the object goes too and every scene is convicted.
"""

import re
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from store.errors import SchemaMismatch
from textcam.shares import Floats

Image = NDArray[np.uint8]
Area = NDArray[np.bool_]
Cell = TypeVar("Cell", bound=np.generic)

EDIT_OF_KIND = {
    "object": "swap",
    "part": "swap",
    "scene": "swap",
    "artefact": "swap",
    "other": "swap",
    "colour": "hue",
    "texture": "smooth",
    "material": "smooth",
}
COLOURLESS = frozenset({"white", "black", "grey", "gray", "silver", "charcoal", "monochrome"})
_MIDDLE, _CHROMA = 127.5, 48.0  # of 255: where a tone's luma is moved to; the radius of its hue in Cr and Cb
_PALE, _COLOURFUL = 25.0, 60.0  # highest minus lowest value of a pixel without hue, and of one with
_LUMA = np.array([0.299, 0.587, 0.114])  # red, green, blue (ITU-R BT.601)
_RED, _BLUE = 1.402, 1.772  # red - luma and blue - luma per unit of Cr and Cb


def edit_swap(image: Image, donor: Image, area: Area, fade: float = 0.0) -> Image:
    """The image with the area's pixels taken from the same place of the donor. Within ``fade`` pixels of the
    area's edge (that of the image is none) they are mixed, so that there is no seam."""
    _check(image, area)
    _check(donor, area)
    if fade <= 1 or area.all():
        return np.where(area[:, :, None], donor, image)
    distance = distance_transform_edt(np.pad(area, 1, mode="edge"))[1:-1, 1:-1]  # 1 at the area's last pixels
    share = np.clip(distance / fade, 0, 1)[:, :, None]
    mixed: Image = np.rint(share * donor + (1 - share) * image).astype(np.uint8)
    return mixed


def edit_hue(image: Image, area: Area, shift: float = 0.5) -> Image:
    """The area's hue turned by ``shift`` of a full turn in the plane of equal luma. Luma stays (to rounding);
    where the turned colour does not exist at this luma, it is paled just enough."""
    _check(image, area)
    pixels = image[area].astype(np.float64)  # (n, 3)
    luma = pixels @ _LUMA  # (n,)
    cr, cb = (pixels[:, 0] - luma) / _RED, (pixels[:, 2] - luma) / _BLUE
    cos, sin = np.cos(2 * np.pi * shift), np.sin(2 * np.pi * shift)
    red, blue = _RED * (sin * cb + cos * cr), _BLUE * (cos * cb - sin * cr)
    chroma = np.stack([red, -(_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1], blue], axis=1)  # (n, 3), no luma
    return _with_pixels(image, area, luma[:, None] + chroma * _in_gamut(luma, chroma))


def edit_tone(image: Image, area: Area, hue: float) -> Image:
    """The area's pixels without hue get the ``hue`` (0 to 1 round the plane of equal luma, from red), and
    their mean luma moves to the middle; the less of it, the more of a hue they have. Where the colour does
    not exist at its luma, it is paled just enough."""
    _check(image, area)
    pixels = image[area].astype(np.float64)  # (n, 3)
    colourless = np.clip((_COLOURFUL - np.ptp(pixels, axis=1)) / (_COLOURFUL - _PALE), 0, 1)  # (n,)
    if not colourless.sum() > 0:
        return image.copy()
    luma = pixels @ _LUMA
    moved = np.clip(luma + _MIDDLE - colourless @ luma / colourless.sum(), 0, 255)
    red = _RED * _CHROMA * np.cos(2 * np.pi * hue)
    blue = _BLUE * _CHROMA * np.sin(2 * np.pi * hue)
    chroma = np.tile([red, -(_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1], blue], (len(pixels), 1))
    toned = moved[:, None] + chroma * _in_gamut(moved, chroma)
    return _with_pixels(image, area, pixels + colourless[:, None] * (toned - pixels))


def edit_of(kind: str, text: str) -> str:
    """The edit of a text of this kind: that of the kind, but "tone" for a colour all of whose parts are named
    by a word without hue ("charcoal grey", "black and white"; not "brown and white")."""
    edit = EDIT_OF_KIND[kind]
    parts = [re.findall(r"[a-z]+", part) for part in re.split(r"\band\b", text.lower())]
    if edit == "hue" and all(words and words[-1] in COLOURLESS for words in parts):
        return "tone"
    return edit


def edit_light(image: Image, area: Area, amount: float) -> Image:
    """The control for hue and texture: the area's luma moved by ``amount`` (of 255) towards the side with
    more room on average; hue and pattern stay."""
    _check(image, area)
    pixels = image[area].astype(np.float64)
    up = pixels.size == 0 or pixels.mean() < 127.5
    return _with_pixels(image, area, pixels + (amount if up else -amount))


def edit_smooth(image: Image, area: Area, radius: float) -> Image:
    """The area averaged with a Gaussian of standard deviation ``radius`` pixels over the area's own pixels
    only."""
    _check(image, area)
    inside = area.astype(np.float64)
    weight = gaussian_filter(inside, radius, mode="constant")
    total = gaussian_filter(
        image * inside[:, :, None], (radius, radius, 0), output=np.float64, mode="constant"
    )
    return _with_pixels(image, area, total[area] / weight[area][:, None])


def mean_change(image: Image, edited: Image, area: Area) -> float:
    """Mean absolute change of the area's values (0 to 255); 0 for an empty area. A control should change
    about as much as the edit."""
    if not area.any():
        return 0.0
    return float(np.abs(image[area].astype(np.float64) - edited[area]).mean())


def area_threshold(dense: Floats, text: Floats, quantile: float = 0.99) -> float:
    """The similarity that only 1 - ``quantile`` of the cells of images without the concept reach. dense
    (n, gh, gw, D) unit patch features of such images, text (D,)."""
    return float(np.quantile(np.asarray(dense, np.float64) @ text, quantile))


def evidence_area(
    dense: Floats,
    text: Floats,
    threshold: float,
    size: int,
    *,
    keep: Area | None = None,
    largest: float = 0.75,
) -> Area:
    """Where an image shows the text, (size, size): the cells of ``dense`` (gh, gw, D) whose similarity with
    the text (D,) is above ``threshold``, without what ``keep`` (any grid) covers. Where that is more than the
    share ``largest`` of the image, only the most similar cells, as many as fit. May be empty."""
    similarity = enlarge(np.asarray(dense, np.float64) @ text, size)  # (size, size)
    if keep is not None:
        similarity = np.where(enlarge(keep, size), -np.inf, similarity)
    most = int(largest * similarity.size)
    if most < similarity.size:
        threshold = max(threshold, float(np.sort(similarity, axis=None)[-most - 1]))
    area: Area = similarity > threshold
    return area


def core_cells(core_map: Floats, level: float = 0.5) -> Area:
    """The cells (h, w) on which the class's core groups fire: at least ``level`` of the map's maximum; none
    if the map has no positive cell."""
    cells: Area = (core_map >= level * core_map.max()) & (core_map > 0)
    return cells


def enlarge(cells: NDArray[Cell], size: int) -> NDArray[Cell]:
    """A grid (gh, gw) as (size, size): each pixel takes the cell that holds its centre."""
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(np.int64) for side in cells.shape)
    return cells[np.ix_(rows, columns)]


def _check(image: Image, area: Area) -> None:
    if image.dtype != np.uint8 or image.shape != (*area.shape, 3):
        raise SchemaMismatch(
            f"An edit takes uint8 images of the area's size, not {image.dtype} {image.shape}",
            where=f"area {area.shape}",
        )


def _in_gamut(luma: NDArray[np.float64], chroma: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 1): the largest factor up to 1 that keeps luma + factor * chroma within 0 to 255."""
    room = np.where(chroma > 0, 255 - luma[:, None], luma[:, None])  # (n, 3)
    factor = np.divide(room, np.abs(chroma), out=np.ones_like(chroma), where=np.abs(chroma) > room)
    least: NDArray[np.float64] = factor.min(axis=1, keepdims=True)
    return least


def _with_pixels(image: Image, area: Area, pixels: NDArray[np.float64]) -> Image:
    edited = image.copy()
    edited[area] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return edited
