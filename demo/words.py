"""The demo's words: what a scene can be said to show, what no scene shows, and sentences about scenes.

The text bank holds every value of every attribute, and distractors: words that fit no scene, so that a right
answer is a choice. `python -m demo.words` writes the bank as texts.csv, a file of the form that users bring.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from numpy.random import Generator

from demo.artefacts import NO_ARTEFACT
from demo.scenes import VALUES

TEXTS = Path(__file__).parent / "texts.csv"

KINDS = {
    "shape": "object",
    "colour": "colour",
    "texture": "texture",
    "background": "scene",
    "artefact": "artefact",
}
"""The kind of text that names each attribute."""

DISTRACTORS: dict[str, tuple[str, ...]] = {
    "object": ("dog", "car", "chair", "flower", "boat", "bottle", "clock", "umbrella"),
    "part": ("wheel", "handle", "wing", "beak"),
    "material": ("glass", "leather", "wool"),
    "scene": ("street", "kitchen", "bedroom", "bridge"),
    "artefact": ("price tag", "subtitle"),
}
"""Words that fit no scene, by kind."""

NEUTRAL = ("picture", "photo", "image", "scene", "object", "thing", "shape")
"""Words that fit every scene and tell none from another; they occur in sentences and are not in the bank."""

TEMPLATES = (
    "{}",
    "a {}",
    "a photo of {}",
    "a photo of a {}.",
    "a picture of {}.",
    "a picture of a {}",
    "a photo with a {}.",
    "a picture with {}",
    "an image of a {}",
    "an image with a {}",
    "an image showing {}",
    "a scene with {}",
    "there is a {} in the scene",
    "a {} in the background",
    "a {} on a picture",
    "something {}",
    "a photo of something {}.",
    "a {} object",
    "a {} thing",
    "a {} surface",
    "something with a {}",
    "something made of {}",
    "a drawing of a {}",
    "a close-up photo of the {}",
    "a photo of the large {}",
    "a photo of the small {}",
    "a good photo of a {}",
    "a bad photo of a {}",
    "a photo, {}.",
)


_OPENINGS = ("a", "a photo of a", "a picture of a", "an image with a")
_NOUNS = ("object", "thing", "shape")
_PLACES = ("on", "in", "with", "in front of")


def text_of(value: str) -> str:
    """The words for an attribute's value: the value itself, but "no artefact" for the lack of one."""
    return "no artefact" if value == NO_ARTEFACT else value


def bank() -> list[tuple[str, str]]:
    """(text, kind) of the demo's text bank, without "no artefact", which is not a thing to be seen."""
    known = [
        (value, KINDS[name]) for name, values in VALUES.items() for value in values if value != NO_ARTEFACT
    ]
    return known + [(text, kind) for kind, texts in DISTRACTORS.items() for text in texts]


def caption(values: Mapping[str, str], rng: Generator) -> str:
    """A sentence that tells the given attributes of a scene (some of scenes.VALUES) and nothing else."""
    adjectives = [values[name] for name in ("texture", "colour") if name in values]
    noun = values.get("shape") or str(rng.choice(_NOUNS))
    words = [str(rng.choice(_OPENINGS)), *adjectives, noun]
    if "background" in values:
        words += [str(rng.choice(_PLACES)), values["background"]]
    if "artefact" in values:
        words += ["and" if values["artefact"] == NO_ARTEFACT else "with a", text_of(values["artefact"])]
    return with_articles(" ".join(words))


def in_sentence(template: str, text: str) -> str:
    """The text in a template, with the article that it needs."""
    return with_articles(template.format(text))


def with_articles(sentence: str) -> str:
    """The sentence with "an" for "a" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", sentence)


def vocabulary() -> set[str]:
    """Every word that the bank, the templates and the captions are made of."""
    texts = [text for text, _ in bank()]
    sentences = [
        *texts,
        *NEUTRAL,
        *TEMPLATES,
        *_NOUNS,
        *_OPENINGS,
        *_PLACES,
        text_of(NO_ARTEFACT),
        "and with a",
    ]
    return {word for sentence in sentences for word in re.findall("[a-z]+", sentence)}


def write_bank(path: Path = TEXTS) -> None:
    """Write the bank as a table of two columns, text and kind."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("text", "kind"))
        table.writerows(bank())


if __name__ == "__main__":
    write_bank()
