"""Maps drawn over what the classifier saw, as files that say image, class and group in their names."""

import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.output import new_file, os_errors
from service.pictures import draw_map
from textcam.answers import Explanation
from textcam.arrays import Floats

SIDE = 384  # pixels of a picture's long side


def write_overlays(explanation: Explanation, stem: str, folder: Path, groups: int) -> list[Path]:
    """The whole map and those of the first ``groups`` groups that speak for the class, as PNG in ``folder``.

    Nothing where the explanation has no maps. Raises StorageUnavailable, or StorageFull.
    """
    whole, by_group, view = explanation.saliency_map, explanation.group_maps, explanation.view
    if whole is None or by_group is None or view is None:
        return []
    stem = f"{stem}--{_slug(explanation.class_name)}"
    drawn = {f"{stem}--all.png": whole}
    for group, one in zip(explanation.groups[:groups], by_group[:groups], strict=True):
        if group.contribution > 0:
            word = f"-{_slug(group.words[0].text)}" if group.words else ""
            drawn[f"{stem}--group-{group.group_id:03d}{word}.png"] = one
    image, strongest = Image.fromarray(view), max(1e-30, *(float(one.max()) for one in drawn.values()))
    what = "The pictures cannot be written"
    with os_errors(what, folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, one in drawn.items():
        # One scale for all maps of an image, rooted, as in the report: a weak group looks weak.
        strength = math.sqrt(max(float(one.max()), 0.0) / strongest)
        with new_file(folder / name, what) as file:
            draw_map(image, _levels(one), strength, SIDE).save(file, "PNG")
    return [folder / file for file in drawn]


def _levels(saliency: Floats) -> NDArray[np.uint8]:
    """What speaks for the class (h, w), from 0 to 255; 0 throughout where nothing does."""
    positive = np.maximum(saliency, 0)
    return np.round(255 * positive / max(float(positive.max()), 1e-30)).astype(np.uint8)


def stem_of(name: str, taken: set[str]) -> str:
    """What files about the image ``name`` begin with: its path's last two parts; adds itself to ``taken``."""
    path = Path(name)
    stem = first = _slug("-".join([*path.parent.parts[-1:], path.stem]))
    number = 1
    while stem in taken:
        number += 1
        stem = f"{first}-{number}"
    taken.add(stem)
    return stem


def _slug(name: str) -> str:
    """A part of a file name; letters of any script are kept."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "x"
