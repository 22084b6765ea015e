"""Which images a page shows, and their maps: a few per class, finding and channel, however many there are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.wording import FindingRow
from store.errors import Damaged
from store.reader import Snapshot
from store.schema import WHOLE_MAP

PER_CLASS = 6  # typical images of a class page
MISTAKEN = 3  # images of other classes that were taken for it
PER_SIDE = 5  # images with the word, and images without it, of a finding
PER_CHANNEL = 5
_LOOKED_AT = 400  # images of a finding's class among which the two sides are looked for
_KEPT_MAPS = 24  # images a class whose maps are held


@dataclass(frozen=True)
class ImageRow:
    """An image, with the words and the (group_id, contribution) pairs of its own explanation."""

    image_id: int
    uri: str
    label: int | None
    prediction: int
    confidence: float
    text_ids: tuple[int, ...] = ()
    groups: tuple[tuple[int, float], ...] = ()

    @property
    def right(self) -> bool | None:
        """Whether the prediction is the label; None without a label."""
        return None if self.label is None else self.label == self.prediction


@dataclass(frozen=True)
class Map:
    """A stored map: (h, w) u8, value = cell / 255 * scale, the positive part."""

    cells: NDArray[np.uint8]
    scale: float


Sides = dict[int, tuple[list[ImageRow], list[ImageRow]]]


class Maps:
    """The stored maps that pages may show: of each class at most so many images, all their groups."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._of: dict[tuple[int, int], dict[int, Map]] = {}
        self.images: dict[int, list[int]] = {}
        if not snapshot.has("maps"):
            return
        shape = map_shape(snapshot)
        for batch in snapshot.batches("maps", ["image_id", "class_id", "group_id", "map", "scale"]):
            maps = batch.column(3).flatten().to_numpy().reshape(len(batch), *shape)
            keys = zip(*(batch.column(index).to_pylist() for index in (0, 1, 2, 4)), strict=True)
            for (image_id, class_id, group_id, scale), cells in zip(keys, maps, strict=True):
                known = self.images.setdefault(class_id, [])
                if image_id not in known:
                    if len(known) >= _KEPT_MAPS:
                        continue
                    known.append(image_id)
                self._of.setdefault((image_id, class_id), {})[group_id] = Map(cells.copy(), scale)

    def of(self, image_id: int, class_id: int) -> dict[int, Map]:
        """The maps of an image for a class, by group id (WHOLE_MAP: the whole map); empty if none."""
        return self._of.get((image_id, class_id), {})

    def best(self, image_id: int, class_id: int, group_id: int) -> tuple[int, Map] | None:
        """The group's map where it is stored, else the whole map, else None."""
        maps = self.of(image_id, class_id)
        for wanted in (group_id, WHOLE_MAP):
            if wanted in maps:
                return wanted, maps[wanted]
        return None


def map_shape(snapshot: Snapshot) -> tuple[int, int]:
    """(h, w) of a stored map: as the run recorded it, else square. Raises Damaged if it is not."""
    cells = snapshot.dims.cells
    height, width = snapshot.manifest.settings().map_size or (isqrt(cells), isqrt(cells))
    if height * width != cells:
        raise Damaged(f"Maps have {cells} cells, not {height} x {width}.", where=snapshot.storage.uri)
    return height, width


def images_by_id(
    snapshot: Snapshot, image_ids: Iterable[int], *, explained: bool = True
) -> dict[int, ImageRow]:
    """The rows of these images, with their explanations if asked for; an id that is not there is left out."""
    wanted = sorted(set(image_ids))
    if not wanted:
        return {}
    own = {}
    if explained and snapshot.has("explanations"):
        columns = ["image_id", "text_ids", "group_ids", "group_contributions"]
        for row in snapshot.rows("explanations", "image_id", wanted, columns).to_pylist():
            groups = tuple(zip(row["group_ids"], row["group_contributions"], strict=True))
            own[row["image_id"]] = (tuple(row["text_ids"]), groups)
    columns = ["image_id", "uri", "label", "prediction", "confidence"]
    return {
        row["image_id"]: ImageRow(*row.values(), *own.get(row["image_id"], ()))
        for row in snapshot.rows("images", "image_id", wanted, columns).to_pylist()
    }


def typical_images(
    maps: Maps, rows: dict[int, ImageRow], class_id: int
) -> tuple[list[ImageRow], list[ImageRow]]:
    """Of the images with maps for the class: those of the class, and those mistaken for it; surest first."""
    known = [rows[image_id] for image_id in maps.images.get(class_id, ()) if image_id in rows]
    known.sort(key=lambda row: (-row.confidence, row.image_id))
    own = [row for row in known if row.label in (None, class_id)]
    mistaken = [row for row in known if row.label not in (None, class_id)]
    return own[:PER_CLASS], mistaken[:MISTAKEN]


def finding_sides(snapshot: Snapshot, findings: Sequence[FindingRow], maps: Maps) -> Sides:
    """By finding_id: images whose explanation names its word, and those of its class whose does not.

    Looked for among a few hundred of the class's images and those mistaken for it, those with a map first.
    """
    wanted = {row.finding.class_id for row in findings}
    if not wanted:
        return {}
    members = _members(snapshot, wanted)
    for class_id in wanted:
        stored = maps.images.get(class_id, [])
        members[class_id] = list(dict.fromkeys([*stored, *members[class_id]]))
    rows = images_by_id(snapshot, (image_id for ids in members.values() for image_id in ids))
    sides = {}
    for finding in (row.finding for row in findings):
        of_class = [rows[image_id] for image_id in members[finding.class_id] if image_id in rows]
        named = [row for row in of_class if finding.text_id in row.text_ids]
        other = [row for row in of_class if finding.text_id not in row.text_ids]
        own = [row for row in other if row.label in (None, finding.class_id)]
        sides[finding.finding_id] = (named[:PER_SIDE], own[:PER_SIDE])
    return sides


def _members(snapshot: Snapshot, class_ids: set[int]) -> dict[int, list[int]]:
    """The first images of each class by label, or by prediction where there is none, in the table's order."""
    members: dict[int, list[int]] = {class_id: [] for class_id in class_ids}
    open_classes = set(class_ids)
    for batch in snapshot.batches("images", ["image_id", "label", "prediction"]):
        ids = batch.column(0).to_numpy()
        classes = pc.coalesce(batch.column(1), batch.column(2)).to_numpy(zero_copy_only=False)
        for class_id in sorted(open_classes):
            kept = members[class_id]
            kept.extend(ids[classes == class_id][: _LOOKED_AT - len(kept)].tolist())
        open_classes = {class_id for class_id in open_classes if len(members[class_id]) < _LOOKED_AT}
        if not open_classes:
            break
    return members


def channel_examples(snapshot: Snapshot, channels: Sequence[int]) -> dict[int, list[int]]:
    """Per channel the ids of the images in which it is strongest, strongest first."""
    found: dict[int, list[int]] = {channel: [] for channel in channels}
    if not snapshot.has("examples"):
        return found
    rows = snapshot.rows("examples", "channel", list(channels), ["channel", "side", "rank", "image_id"])
    positives = [row for row in rows.to_pylist() if row["side"] == "positive"]
    for row in sorted(positives, key=lambda row: (row["channel"], row["rank"])):
        if len(found[row["channel"]]) < PER_CHANNEL:
            found[row["channel"]].append(row["image_id"])
    return found
