"""With and without a concept, matched for the rest: is it the concept, or are these the easier images anyway?

An image of the class is compared only with images that should do as well judged by all their other concepts
(ours): the prognostic score (Hansen 2008) is a ridge regression of being right on the presence of the texts
of other kinds, fitted on the class's images without the concept, and cut into strata of equal size.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from store.errors import QueryError
from store.reader import Snapshot
from textcam.image_rows import concept_presence, has_labels, image_rows
from textcam.statistics import Matched, matched_difference

if TYPE_CHECKING:
    from textcam.audit import Finding

STRATA = 5
RIDGE = 5.0  # in images: what a text that few images show is believed
CLASS_IMAGES = 20_000  # of a class, those with the lowest ids: a random draw

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]


def matched(snapshot: Snapshot, findings: "Sequence[Finding]") -> list[Matched]:
    """The matched effect of each finding. Raises QueryError without labels."""
    if not has_labels(snapshot):
        raise QueryError("Accuracies cannot be matched: the images have no labels.", where="images")
    texts = snapshot.table("texts", ["text_id", "kind"])
    place = np.searchsorted(texts["text_id"].to_numpy(), [one.text_id for one in findings])
    kinds = np.array(texts["kind"].to_pylist())
    images = _images_of({one.class_id for one in findings}, snapshot)
    found = []
    for finding, text in zip(findings, place.tolist(), strict=True):
        hits, present = images[finding.class_id]
        score = prognostic_score(hits, present[:, text], present[:, kinds != kinds[text]])
        found.append(matched_difference(hits, present[:, text], strata(score)))
    return found


def _images_of(class_ids: set[int], snapshot: Snapshot) -> dict[int, tuple[Bools, Bools]]:
    """For each class of its labelled images: rightly predicted (n,), texts present (n, T)."""
    presence = concept_presence(snapshot)
    width = snapshot.count("texts")
    none = np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros((0, width), np.bool_)
    kept = dict.fromkeys(class_ids, none)
    for rows in image_rows(snapshot, embeddings=True):
        for class_id in class_ids & set(np.unique(rows.labels).tolist()):
            mine = rows.labels == class_id
            new = rows.image_ids[mine], rows.predictions[mine] == class_id, presence(rows.embeddings[mine])
            ids, hits, present = (np.concatenate(two) for two in zip(kept[class_id], new, strict=True))
            lowest = np.argsort(ids)[:CLASS_IMAGES]
            kept[class_id] = ids[lowest], hits[lowest], present[lowest]
    return {class_id: (hits, present) for class_id, (_, hits, present) in kept.items()}


def prognostic_score(hits: Bools, present: Bools, others: Bools) -> Doubles:
    """(n,): how likely each image is right (``hits`` (n,)) by its ``others`` (n, T) alone, as images without
    the concept (``present`` (n,)) tell."""
    without, inputs = ~present, others.astype(np.float64)
    if not without.any():
        return np.zeros(len(hits))
    known, right = inputs[without], hits[without].astype(np.float64)
    mean = known.mean(axis=0)
    centred = known - mean
    # In the smaller of both spaces: the same answer.
    if len(known) < known.shape[1]:
        dual = np.linalg.solve(centred @ centred.T + RIDGE * np.eye(len(known)), right - right.mean())
        slope: Doubles = centred.T @ dual
    else:
        gram = centred.T @ centred + RIDGE * np.eye(known.shape[1])
        slope = np.linalg.solve(gram, centred.T @ (right - right.mean()))
    score: Doubles = right.mean() + (inputs - mean) @ slope
    return score


def strata(values: Doubles, count: int = STRATA) -> NDArray[np.int64]:
    """(n,): 0 to count - 1, by rank, of equal size to within one; equal values by their place."""
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank * count // max(len(values), 1)
