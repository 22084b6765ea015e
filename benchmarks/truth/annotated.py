"""Real data sets with annotations, read in their published folder layouts: their annotations are the truth.

- CLEVR v1.0 (Johnson et al., CVPR 2017): ``images/<split>/``, ``scenes/CLEVR_<split>_scenes.json``.
- CUB-200-2011 (Wah et al., 2011): ``images.txt``, ``classes.txt``,
  ``attributes/image_attribute_labels.txt``, ``parts/part_locs.txt``.
- ImageNet (Russakovsky et al., 2015): ``train/<wnid>/``, names from ``LOC_synset_mapping.txt``.
- Waterbirds (Sagawa et al., ICLR 2020): ``metadata.csv``.

Nothing is downloaded; whoever has the data opens it with ``open_annotated(name, root)``.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.truth.evidence import Array
from store.errors import SourceError

LEAST_CERTAIN = 3  # of CUB's 1 (not visible) to 4 (definitely): probably


@dataclass(frozen=True)
class Annotated:
    """N images with what is known of them.

    ``uris`` relative to ``root``; ``labels`` (N,) number ``class_names``, -1 where there is none; ``shown``
    (N, A) says which of the ``attributes`` an image shows and ``certain`` (N, A) where that is sure;
    ``points`` (N, 2) by part, x and y in pixels, NaN where the part is not seen.
    """

    root: Path
    uris: tuple[str, ...]
    labels: Array
    class_names: tuple[str, ...]
    attributes: tuple[str, ...]
    shown: Array
    certain: Array
    points: dict[str, Array] = field(default_factory=dict)


def open_annotated(name: str, root: str | Path, split: str = "val") -> Annotated:
    """One of clevr, cub, imagenet, waterbirds. ``split`` matters to CLEVR and ImageNet.

    Raises SourceError for another name, a missing file, or one that does not hold what its layout says.
    """
    if name not in READERS:
        raise SourceError(f"No data set {name!r}.", where="name", fix=f"One of {', '.join(READERS)}.")
    root = Path(root)
    try:
        return READERS[name](root, split)
    except FileNotFoundError as error:
        raise SourceError(
            f"{name} has no {Path(error.filename).name}.",
            where=root,
            fix="Give the folder that the published archive unpacks to.",
        ) from None
    except (KeyError, ValueError, IndexError) as error:
        raise SourceError(f"The annotations of {name} cannot be read: {error!r}.", where=root) from None


def _clevr(root: Path, split: str) -> Annotated:
    """Attributes are colours, shapes, materials and sizes that some object has, and pairs as "red cube"."""
    scenes = json.loads((root / "scenes" / f"CLEVR_{split}_scenes.json").read_text())["scenes"]
    said = [
        {word for one in scene["objects"] for word in (*_plain(one), f"{one['color']} {one['shape']}")}
        for scene in scenes
    ]
    attributes = tuple(sorted(set().union(*said)))
    shown = np.array([[one in words for one in attributes] for words in said], bool)
    return Annotated(
        root,
        tuple(f"images/{split}/{scene['image_filename']}" for scene in scenes),
        np.full(len(scenes), -1),
        (),
        attributes,
        shown,
        np.ones_like(shown),
    )


def _plain(one: dict[str, str]) -> Iterator[str]:
    return (one[key] for key in ("color", "shape", "material", "size"))


def _cub(root: Path, split: str) -> Annotated:
    """312 attributes as "bill shape: dagger", where they are probable or definite, and 15 parts."""
    paths = _numbered(root / "images.txt")
    images = {number: row for row, number in enumerate(paths)}
    classes = _numbered(root / "classes.txt")
    of_class = {number: row for row, number in enumerate(classes)}
    labels = np.full(len(images), -1)
    for image, label in _rows(root / "image_class_labels.txt"):
        labels[images[image]] = of_class[label]
    listed = root / "attributes" / "attributes.txt"
    named = _numbered(listed if listed.exists() else root.parent / "attributes.txt")
    attribute = {number: column for column, number in enumerate(named)}
    shown = np.zeros((len(images), len(named)), bool)
    certain = np.zeros_like(shown)
    for image, number, present, certainty, *_ in _rows(root / "attributes" / "image_attribute_labels.txt"):
        at = images[image], attribute[number]
        shown[at], certain[at] = present == "1", int(certainty) >= LEAST_CERTAIN
    parts = _numbered(root / "parts" / "parts.txt")
    points = {name: np.full((len(images), 2), np.nan) for name in parts.values()}
    for image, part, x, y, visible in _rows(root / "parts" / "part_locs.txt"):
        if visible == "1":
            points[parts[part]][images[image]] = float(x), float(y)
    return Annotated(
        root,
        tuple(f"images/{path}" for path in paths.values()),
        labels,
        tuple(name.split(".", 1)[-1].replace("_", " ") for name in classes.values()),
        tuple(_readable(name) for name in named.values()),
        shown,
        certain,
        points,
    )


def _readable(name: str) -> str:
    """has_bill_shape::hooked_seabird -> "bill shape: hooked seabird"."""
    about, _, value = name.partition("::")
    return f"{about.removeprefix('has_').replace('_', ' ')}: {value.replace('_', ' ')}"


def _imagenet(root: Path, split: str) -> Annotated:
    """Class names are the truth; there are no attributes."""
    names = dict(line.split(" ", 1) for line in (root / "LOC_synset_mapping.txt").read_text().splitlines())
    number = {wnid: row for row, wnid in enumerate(names)}
    folder = root / split if (root / split).is_dir() else root / "ILSVRC" / "Data" / "CLS-LOC" / split
    if not folder.is_dir():
        raise FileNotFoundError(2, "", str(folder))
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in (".jpeg", ".jpg"))
    nothing = np.zeros((len(files), 0), bool)
    return Annotated(
        root,
        tuple(path.relative_to(root).as_posix() for path in files),
        np.array([number[path.parent.name] for path in files], int),
        tuple(names.values()),
        (),
        nothing,
        nothing,
    )


def _waterbirds(root: Path, split: str) -> Annotated:
    """Two classes of birds, and the place behind them: water or land."""
    with (root / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    place = np.array([row["place"] == "1" for row in rows])
    shown = np.stack([place, ~place], 1)
    return Annotated(
        root,
        tuple(row["img_filename"] for row in rows),
        np.array([int(row["y"]) for row in rows]),
        ("landbird", "waterbird"),
        ("water", "land"),
        shown,
        np.ones_like(shown),
    )


def _rows(path: Path) -> Iterator[list[str]]:
    return (line.split() for line in path.read_text().splitlines() if line.strip())


def _numbered(path: Path) -> dict[str, str]:
    """Lines of "number name" by number."""
    return {row[0]: " ".join(row[1:]) for row in _rows(path)}


READERS: dict[str, Callable[[Path, str], Annotated]] = {
    "clevr": _clevr,
    "cub": _cub,
    "imagenet": _imagenet,
    "waterbirds": _waterbirds,
}
