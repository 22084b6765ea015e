"""Labels: which class each label of a source is."""

from collections.abc import Mapping
from pathlib import Path

from textcam.class_names import read_class_list


def class_ids_of(
    labels: tuple[str, ...], class_names: tuple[str, ...], aliases: Mapping[str, int]
) -> dict[str, int]:
    """Which class each label of the source is; empty if the labels are not the classes.

    A label is matched as an alias (a WordNet id, say), then as a class name, then as a class number. Folders
    that match nothing but are as many as the classes are taken in sorted order, as torchvision's ImageFolder
    does.
    """
    by_name = {name.casefold(): class_id for class_id, name in enumerate(class_names)}

    def match(label: str) -> int | None:
        if label in aliases:
            return aliases[label]
        if label.casefold() in by_name:
            return by_name[label.casefold()]
        if label.isdecimal() and int(label) < len(class_names):
            return int(label)
        return None

    found = {label: match(label) for label in labels}
    if labels and all(class_id is not None for class_id in found.values()):
        return {label: class_id for label, class_id in found.items() if class_id is not None}
    if (
        labels
        and not any(class_id is not None for class_id in found.values())
        and len(labels) == len(class_names)
    ):
        return {label: class_id for class_id, label in enumerate(sorted(labels))}
    return {label: class_id for label, class_id in found.items() if class_id is not None}


def read_aliases(class_names: str | None) -> Mapping[str, int]:
    """Other names of the classes, from the file of their names. Raises ModelError."""
    return {} if class_names is None else read_class_list(Path(class_names)).aliases
