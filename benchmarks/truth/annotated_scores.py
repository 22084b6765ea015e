"""The same methods on a published data set with annotations, which whoever has it gives as a folder.

    python -m benchmarks.truth.annotated_scores cub FOLDER --classifier timm:resnet50.a1_in1k \\
        --encoder ViT-B-32 --encoder-weights laion2b_s34b_b79k

The data set is one of clevr, cub, imagenet and waterbirds. The texts are its annotated attributes, and its
class names where it has any. Images in even places explain, those in odd places judge. What is judged:

- channels: the first text of each against the annotation (an attribute that is not certain counts as not
  shown);
- logits taken as channels, as far as the classifier's classes are those of the data set: is the class's own
  name the first of all names?
- images: of the images of one class, do the words tell which have the attribute? AUPRC, beside it chance.

Nothing is downloaded but by the libraries that load the models, when they are asked for.
"""

import argparse
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Measure, machine, publish
from benchmarks.truth.annotated import READERS, Annotated, open_annotated
from benchmarks.truth.contest import CONTEST, Entrant, Samples
from benchmarks.truth.evidence import Array, Evidence, Labelled
from benchmarks.truth.measures import auprc, bootstrap, label_measures
from benchmarks.truth.ours import Choices, Directions
from benchmarks.truth.square import Case
from textcam.arrays import unit_rows
from textcam.classifier import TorchClassifier, load_classifier
from textcam.encoder import ClipEncoder, load_encoder

BATCH = 32
FEWEST = 8  # images that show an attribute, and that do not, or images of a class
TEMPLATES = ("a photo of {}", "a photo with {}.")


@dataclass(frozen=True)
class Looked:
    """N images as both models see them: pooled (N, K), logits (N, C), maps (N, K, h, w), embeddings (N, D)
    and, where the encoder gives any, cells (N, h', w', D).
    """

    pooled: Array
    logits: Array
    maps: Array
    embeddings: Array
    cells: Array | None


def look(data: Annotated, rows: Array, classifier: TorchClassifier, encoder: ClipEncoder) -> Looked:
    """Read images and run both models. Raises what reading a broken image raises."""
    kept: dict[str, list[Array]] = defaultdict(list)
    for first in range(0, len(rows), BATCH):
        pictures = []
        for row in rows[first : first + BATCH]:
            with Image.open(data.root / data.uris[row]) as file:
                pictures.append(file.convert("RGB"))
        found = classifier.forward(np.stack([classifier.prepare(one) for one in pictures]), maps=True)
        pixels = np.stack([encoder.prepare(one) for one in pictures])
        kept["pooled"].append(found.pooled)
        kept["logits"].append(found.logits)
        kept["maps"].append(np.asarray(found.maps, np.float16))
        kept["embeddings"].append(encoder.encode_images(pixels))
        if encoder.has_dense:
            kept["cells"].append(np.moveaxis(encoder.dense(pixels), 1, -1).astype(np.float16))
    whole = {name: np.concatenate(pieces) for name, pieces in kept.items()}
    return Looked(**{"cells": None, **whole})


def embed(encoder: ClipEncoder, texts: tuple[str, ...]) -> Array:
    """(T, D) of unit length, the mean over TEMPLATES."""
    each = [encoder.encode_texts([template.format(text) for text in texts]) for template in TEMPLATES]
    return unit_rows(np.mean(each, axis=0))


def score(
    data: Annotated,
    classifier: TorchClassifier,
    encoder: ClipEncoder,
    *,
    limit: int = 4000,
    entrants: dict[str, Entrant] = CONTEST,
) -> dict[str, Samples]:
    """Samples by entrant and measure; of at most ``limit`` images, evenly chosen."""
    rows = np.unique(np.linspace(0, len(data.uris) - 1, min(limit, len(data.uris))).astype(int))
    looked, labels = look(data, rows, classifier, encoder), data.labels[rows]
    fit = np.arange(len(rows)) % 2 == 0
    found: dict[str, Samples] = {name: defaultdict(list) for name in entrants}
    shown = data.shown[rows] & data.certain[rows]
    usable = np.flatnonzero(np.minimum(shown.sum(0), (~shown).sum(0)) >= FEWEST)
    if len(usable):
        texts = embed(encoder, tuple(data.attributes[k] for k in usable))
        case = _case(looked, fit, texts, shown[:, usable], labels, classifier)
        _attributes(case, found, entrants)
    if data.class_names and looked.logits.shape[1] == len(data.class_names):
        _names(looked, labels, embed(encoder, data.class_names), found, entrants)
    return found


def _case(
    looked: Looked, fit: Array, texts: Array, shown: Array, labels: Array, classifier: TorchClassifier
) -> Case:
    cells = None if looked.cells is None else looked.cells[fit]
    kinds = ("other",) * len(texts)
    head = classifier.head.weights if classifier.head else np.zeros((looked.logits.shape[1], 0))
    return Case(
        name="annotated",
        biased=False,
        confounded=False,
        evidence=Evidence(looked.pooled[fit], looked.embeddings[fit], texts, kinds, looked.maps[fit], cells),
        scoring=Labelled(looked.pooled[~fit], shown[~fit]),
        head=head,
        predicted=looked.logits[fit].argmax(1),
        classes=labels[fit],
        labels=shown[fit],
        own=np.full(len(head), -1),
        pairs=(),
        masks={},
        place={},
    )


def _attributes(case: Case, found: dict[str, Samples], entrants: dict[str, Entrant]) -> None:
    """Channels against annotations, and words of the images of one class."""
    fitted = Directions(case.evidence)
    of_class = np.where(case.classes >= 0, case.classes, case.predicted)
    for name, entrant in entrants.items():
        if entrant.scores is not None:
            scores = entrant.scores(case, fitted)
            named = np.where(scores.max(1) > scores.min(1), scores.argmax(1), -1)
            for measure, values in label_measures(case.scoring, named).items():
                found[name][f"channel {measure}"] += values.tolist()
        if entrant.words is None or not case.head.shape[1]:
            continue
        leaning = entrant.words(case, fitted, case.predicted).image_leaning
        for rows in (np.flatnonzero(of_class == one) for one in np.unique(of_class)):
            for text in range(case.labels.shape[1]):
                truth = case.labels[rows, text]
                if min(truth.sum(), (~truth).sum()) >= FEWEST:
                    found[name]["image has the attribute, AUPRC"].append(auprc(truth, leaning[rows, text]))
                    found[name]["image has the attribute, share"].append(float(truth.mean()))


def _names(
    looked: Looked, labels: Array, names: Array, found: dict[str, Samples], entrants: dict[str, Entrant]
) -> None:
    """Logits as channels: is the own name the first of all?"""
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    classes = present[counts >= FEWEST]
    if not len(classes):
        return
    evidence = Evidence(looked.logits[:, classes], looked.embeddings, names, ("object",) * len(names))
    case = Case(
        "names", False, False, evidence, Labelled(evidence.pooled, np.zeros((len(labels), len(names)), bool)),
        np.zeros((0, 0)), labels, labels, labels[:, None] == np.arange(len(names)), classes, (), {}, {},
    )  # fmt: skip
    fitted = Directions(evidence)
    without_pictures = replace(entrants["ours"], scores=lambda case, f: f.scores(Choices(form="names")))
    for name, entrant in (entrants | {"ours": without_pictures}).items():
        if entrant.scores is not None:
            first = entrant.scores(case, fitted).argmax(1)
            found[name]["own name first"] += (first == classes).astype(float).tolist()


def rows_of(name: str, found: dict[str, Samples]) -> Iterator[Measure]:
    """One measure for each entrant and what it was judged by."""
    for entrant, samples in found.items():
        for measure, values in samples.items():
            yield Measure(f"{name} | {entrant} | {measure}", *bootstrap(np.array(values)), better="higher")


def main() -> None:
    """Open, look, judge, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", choices=[*READERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="val", help="of CLEVR and ImageNet")
    parser.add_argument("--limit", type=int, default=4000, help="images, evenly chosen")
    for name in ("classifier", "encoder"):
        parser.add_argument(f"--{name}", required=True, help="as in a configuration")
        parser.add_argument(f"--{name}-weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    data = open_annotated(asked.data, asked.folder, asked.split)
    classifier = load_classifier(asked.classifier, weights=asked.classifier_weights, device=asked.device)
    encoder = load_encoder(asked.encoder, weights=asked.encoder_weights, device=asked.device)
    found = score(data, classifier, encoder, limit=asked.limit)
    publish(f"truth_{asked.data}", [*rows_of(asked.data, found)], machine(), write=not asked.dry)


if __name__ == "__main__":
    main()
