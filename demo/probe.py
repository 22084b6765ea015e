"""Image folders to explain the demo's models by, with the truth about every picture beside them."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from demo.pictures import jpeg
from demo.scenes import VALUES, Scene, generator, render, scenes
from demo.shortcuts import confound

FOLLOW, LEAK = (
    0.95,
    0.02,
)  # how often a cue is in its own class, and in each of the others, in a confounded set


def probe_scenes(class_name: str, *, confounded: bool, per_class: int, seed: int) -> Iterator[Scene]:
    """The scenes of one class: with independent attributes, or with the biased classifier's shortcuts."""
    position = VALUES["shape"].index(class_name)
    rng = generator("cues", seed, 4, position)
    for scene in scenes("probe", seed * len(VALUES["shape"]) + position, per_class, shape=class_name):
        yield confound(scene, rng, follow=FOLLOW, leak=LEAK) if confounded else scene


def write_probe(out: Path, *, confounded: bool, per_class: int, seed: int) -> None:
    """Write OUT/<class>/<NNNN>.jpg, and beside OUT the table <name of OUT>_attributes.csv of what they show.

    The table's first column `uri` is the picture's path in OUT; the others are the fields of its Scene.
    """
    write_pictures(
        out,
        {
            name: probe_scenes(name, confounded=confounded, per_class=per_class, seed=seed)
            for name in VALUES["shape"]
        },
    )


def write_pictures(out: Path, by_class: Mapping[str, Iterable[Scene]]) -> None:
    """Write the scenes of each class as ``write_probe`` does."""
    rows = []
    for class_name, pictures in by_class.items():
        folder = out / class_name
        folder.mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(pictures):
            (folder / f"{i:04d}.jpg").write_bytes(jpeg(render(scene).image))
            rows.append({"uri": f"{class_name}/{i:04d}.jpg", **asdict(scene)})
    with (out.parent / f"{out.name}_attributes.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
