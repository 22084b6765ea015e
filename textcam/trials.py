"""Trials of a proof: one image that shows a text, edited, beside its two controls (see ``textcam.proof``).

Pure functions of pictures. Carriers show the text and are of the class. Strangers do not show it; an edit
that costs them as much as the carriers takes away nothing of the text. Donors do not show it either.

What a trial needs, as measured on worlds whose truth is known (means over the margin, models that do not use
the text): backgrounds pasted into another kind of background cost 0.5 to 0.9, into their own kind 0.0 to 0.4.
So the fall is compared with that of strangers that get the same donor in the same place. And a control whose
donor has the evidence somewhere, but not in that place, takes it away as well: of a barcode's real effect of
1.9 it left 0.4. So the donor is the carrier that shows the text most there.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from PIL import Image as Pillow

from textcam.edits import (
    Area,
    Image,
    area_threshold,
    edit_hue,
    edit_light,
    edit_smooth,
    edit_swap,
    edit_tone,
    enlarge,
    evidence_area,
    mean_change,
)
from textcam.shares import Floats

QUANTILE = 0.95  # an area's cells are more like the text than this part of the donors' cells
FADE = 0.375  # of a cell of the encoder, along the edge of what is pasted in
TURNS = (1 / 3, 1 / 2, 2 / 3)  # of the circle of hues; what they cost is averaged
HUES = (0.0, 1 / 3, 2 / 3)  # that white, black and grey get; likewise
LIGHT = 0.5  # the control's change of light, in mean changes of the edit: as much of it bleaches the colour
BLUR = 1 / 16  # of the side: what is finer is smoothed
LEAST_CHANGE = 4.0  # of 255: what changes an area by less is no edit
NO_TEXT = -1
_GRID = 64  # the resolution at which places of two images are compared


@dataclass(frozen=True)
class Picture:
    """A square image (S, S, 3), the encoder's unit features (gh, gw, D) of it, and the cells (h, w) on which
    the class's own groups fire: they are spared; None spares nothing."""

    square: Image
    dense: Floats
    core: Area | None = None

    @property
    def side(self) -> int:
        """S, pixels."""
        return len(self.square)


@dataclass(frozen=True)
class Stranger:
    """An image without the text: its id, its class, and the text of the same kind that it shows instead
    (place in the bank, NO_TEXT for none)."""

    image_id: int
    class_id: int
    rival: int = NO_TEXT


@dataclass(frozen=True)
class Trial:
    """The pictures of one comparison. Falls under several edits are averaged; every trial of a proof has as
    many."""

    before: Image
    edited: Sequence[Image]
    kept: Image
    other: Image
    other_edited: Sequence[Image]
    other_class: int


@dataclass(frozen=True)
class Cast:
    """Who takes part, by id; only those in ``pictures`` do."""

    pictures: Mapping[int, Picture]
    carriers: Sequence[int]
    donors: Sequence[int]
    strangers: Sequence[Stranger]

    def present(self) -> "Cast":
        """Without those that could not be read."""
        return Cast(
            self.pictures,
            [one for one in self.carriers if one in self.pictures],
            [one for one in self.donors if one in self.pictures],
            [one for one in self.strangers if one.image_id in self.pictures],
        )

    def dense(self, ids: Sequence[int]) -> Floats:
        """(n, gh, gw, D) features of these images."""
        return np.stack([self.pictures[one].dense for one in ids])


def make_trials(
    edit: str, text: int, texts: Floats, cast: Cast, colourless: Collection[int] = ()
) -> list[Trial]:
    """The trials of a text (its place in ``texts`` (T, D)) whose evidence this ``edit`` takes away; none if
    too few could be read. ``colourless`` are the places of the colours without a hue.

    A carrier is left out where its evidence cannot be found or the edit changes next to nothing.
    """
    cast = cast.present()
    if len(cast.carriers) < 2 or len(cast.donors) < 2 or not cast.strangers:
        return []
    if edit == "swap":
        return list(swap_trials(texts[text], cast))
    return list(own_pixel_trials(edit, text, texts, cast, colourless))


def swap_trials(text: Floats, cast: Cast) -> Iterator[Trial]:
    """Trials in which the place of the evidence is taken from a donor."""
    pictures = cast.pictures
    threshold = area_threshold(cast.dense(cast.donors), text, QUANTILE)
    likeness = np.stack([enlarge(pictures[one].dense @ text, _GRID) for one in cast.carriers])  # (n, 64, 64)
    for place, carrier in enumerate(cast.carriers):
        mine = pictures[carrier]
        where = evidence_area(mine.dense, text, threshold, _GRID, keep=mine.core, largest=1.0)
        if not where.any():
            continue
        shown = likeness[:, where].mean(axis=1)
        shown[place] = -np.inf
        twin = pictures[cast.carriers[int(shown.argmax())]]
        donor = cast.donors[place % len(cast.donors)]
        turned = islice(cycle(cast.strangers), place + 1, place + 1 + len(cast.strangers))
        stranger = next((one for one in turned if one.image_id != donor), cast.strangers[0])
        other = pictures[stranger.image_id]

        def pasted(into: Picture, source: Picture, seen: Floats = mine.dense) -> Image:
            area = evidence_area(seen, text, threshold, into.side, keep=into.core, largest=1.0)
            fade = FADE * into.side / max(seen.shape[:2])
            return edit_swap(into.square, resized(source.square, into.side), area, fade)

        yield Trial(
            before=mine.square,
            edited=[pasted(mine, pictures[donor])],
            kept=pasted(mine, twin),
            other=other.square,
            other_edited=[pasted(other, pictures[donor])],
            other_class=stranger.class_id,
        )


def own_pixel_trials(
    edit: str, text: int, texts: Floats, cast: Cast, colourless: Collection[int] = ()
) -> Iterator[Trial]:
    """Trials in which hue, tone or texture is changed where it is. A stranger is changed where it shows the
    rival of the text, by the rival's own edit: blue is turned where another image has white."""
    pictures = cast.pictures
    rivals = {one.rival for one in cast.strangers} - {NO_TEXT, text}
    limits = {one: area_threshold(cast.dense(cast.carriers), texts[one], QUANTILE) for one in sorted(rivals)}
    limits[text] = area_threshold(cast.dense(cast.donors), texts[text], QUANTILE)

    def changed(picture: Picture, seen: Floats, shown: int) -> tuple[list[Image], Area, float]:
        area = evidence_area(seen, texts[shown], limits[shown], picture.side, largest=1.0)
        mine = edit if edit == "smooth" or shown == text else "tone" if shown in colourless else "hue"
        edited = own_pixel_edits(mine, picture.square, area)
        return edited, area, float(np.mean([mean_change(picture.square, one, area) for one in edited]))

    waiting = cycle(cast.strangers)
    for carrier in cast.carriers:
        mine = pictures[carrier]
        edited, area, change = changed(mine, mine.dense, text)
        if change < LEAST_CHANGE:
            continue
        for stranger in islice(waiting, len(cast.strangers)):
            other = pictures[stranger.image_id]
            if stranger.rival == NO_TEXT:  # it has nothing of the kind: the same place
                other_edited, _, other_change = changed(other, mine.dense, text)
            else:
                other_edited, _, other_change = changed(other, other.dense, stranger.rival)
            if other_change >= LEAST_CHANGE:
                kept = kept_by(edit, mine.square, area, change)
                yield Trial(mine.square, edited, kept, other.square, other_edited, stranger.class_id)
                break


def own_pixel_edits(edit: str, square: Image, area: Area) -> list[Image]:
    """The edits of a colour (several turns of its hue, or several hues for one that has none) or of a texture
    (one smoothing)."""
    if edit == "smooth":
        return [edit_smooth(square, area, BLUR * len(square))]
    if edit == "tone":
        return [edit_tone(square, area, hue) for hue in HUES]
    return [edit_hue(square, area, turn) for turn in TURNS]


def kept_by(edit: str, square: Image, area: Area, change: float) -> Image:
    """The control in the same place, which leaves the evidence: beside an edit that costs ``change``, another
    light; beside one of tone, another hue of all that has one."""
    return edit_hue(square, area) if edit == "tone" else edit_light(square, area, LIGHT * change)


def resized(square: Image, side: int) -> Image:
    """The image (S, S, 3) at another side."""
    if len(square) == side:
        return square
    return np.asarray(Pillow.fromarray(square).resize((side, side), Pillow.Resampling.BICUBIC))
