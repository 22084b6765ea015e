"""With and without a concept, matched for the rest: is it the concept, or are these the easier images anyway?

Images of one class are compared that show the same texts of other kinds (ours). What those texts foretell,
of being right and of showing the concept alike, is taken off both by ridge regression, each image foretold
by the other images; what is left of one is held against what is left of the other (Robinson 1988;
Chernozhukov et al. 2018). With a single other text that is the mean difference over those with and those
without it, weighted as by Mantel and Haenszel (1959). Only images count whose like is found on both sides.

What cannot be taken off: what no text of the bank names, and what a class of few images shows of many texts
at once (200 images, 20 of 300 texts at work: a null effect's interval missed 0 in 22 of 100 worlds).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from store.errors import QueryError
from store.reader import Snapshot
from textcam.image_rows import concept_presence, has_labels, image_rows
from textcam.statistics import CONFIDENCE

if TYPE_CHECKING:
    from textcam.audit import Finding

RIDGE = 2.0  # in images: what a text that few images show is believed
FOLDS = 5
PATTERNS, SHOWN = 256, 20  # combinations of texts, of so many images or more, that count as texts themselves
CLASS_IMAGES = 20_000  # of a class, those with the lowest ids: a random draw

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]
MatchOutcome = Literal["matched", "nothing to match by", "nothing to compare"]


class Matched(NamedTuple):
    """Accuracy with minus without, in [-1, 1], and its 95 % interval, over ``n_with`` and ``n_without``
    images that have their like on the other side. Unless the ``outcome`` is "matched" there are no numbers:

    nothing to match by   the bank has no text of another kind that tells the class's images apart
    nothing to compare    all images of the class show it, or none; or those with it are unlike all without
    """

    outcome: MatchOutcome
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n_with: int = 0
    n_without: int = 0


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
        found.append(matched_difference(hits, present[:, text], present[:, kinds != kinds[text]]))
    return found


def _images_of(class_ids: set[int], snapshot: Snapshot) -> dict[int, tuple[Bools, Bools]]:
    """For each class of its labelled images, by id: rightly predicted (n,), texts present (n, T)."""
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


def matched_difference(hits: Bools, present: Bools, others: Bools, confidence: float = CONFIDENCE) -> Matched:
    """Rate of ``hits`` (n,) with minus without the concept (``present`` (n,)), matched for ``others`` (n, T),
    what else each image shows. The variance is that of least squares on what is left, whatever its spread
    (White 1980), with half a hit and half a miss more on each side, so that rates of 0 or 1 are not taken for
    sure."""
    others = others[:, others.any(axis=0) & ~others.all(axis=0)]
    if not others.shape[1]:
        return Matched("nothing to match by")
    pair = np.stack([hits, present], axis=1).astype(np.float64)  # (n, 2)
    foretold = _foretold(pair, _with_patterns(others).astype(np.float64))
    alike = _common(foretold[:, 1], present)
    with_, without = alike & present, alike & ~present
    left, shown = (pair - foretold).T  # (n,) each
    weight = np.square(shown[alike]).sum()
    if not (with_.any() and without.any() and weight > 0):
        return Matched("nothing to compare")
    effect = float(shown[alike] @ left[alike] / weight)
    spread = np.square(shown * (left - effect * shown))[alike].sum()
    spread += sum(np.square(shown[side]).mean() / 2 for side in (with_, without))
    half = float(ndtri(0.5 + confidence / 2) * np.sqrt(spread) / weight)
    effect = min(1.0, max(-1.0, effect))
    low, high = max(-1.0, effect - half), min(1.0, effect + half)
    return Matched("matched", effect, low, high, int(with_.sum()), int(without.sum()))


def _with_patterns(others: Bools) -> Bools:
    """The texts (n, T), and after them which images show exactly the same texts as many others do: what goes
    with a combination is more than the sum of its texts."""
    packed = np.packbits(others, axis=1)
    _, pattern, count = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    frequent = np.flatnonzero(count >= SHOWN)
    frequent = frequent[np.argsort(-count[frequent], kind="stable")][:PATTERNS]
    return np.concatenate([others, pattern.reshape(-1, 1) == frequent], axis=1)


def _foretold(values: Doubles, inputs: Doubles) -> Doubles:
    """Values (n, v) by ridge regression on inputs (n, p), each fold of the images by the other folds."""
    fold = np.arange(len(values)) % FOLDS
    found = np.empty_like(values)
    for number in range(min(FOLDS, len(values))):
        mine, known = fold == number, fold != number
        if not known.any():
            found[mine] = values.mean(axis=0)
            continue
        mean, usual = inputs[known].mean(axis=0), values[known].mean(axis=0)
        centred, away = inputs[known] - mean, values[known] - usual
        found[mine] = usual + (inputs[mine] - mean) @ _ridge(centred, away)
    return found


def _ridge(inputs: Doubles, values: Doubles) -> Doubles:
    """Slopes (p, v), solved in the smaller of both spaces: the same answer."""
    n, width = inputs.shape
    if n < width:
        slopes = inputs.T @ np.linalg.solve(inputs @ inputs.T + RIDGE * np.eye(n), values)
    else:
        slopes = np.linalg.solve(inputs.T @ inputs + RIDGE * np.eye(width), inputs.T @ values)
    return np.asarray(slopes, np.float64)


def _common(score: Doubles, present: Bools) -> Bools:
    """(n,): the images whose score lies where both sides have scores."""
    if present.all() or not present.any():
        return np.zeros(len(score), np.bool_)
    with_, without = score[present], score[~present]
    edge = 1e-9  # equal scores differ in their last bits
    alike: Bools = score >= max(with_.min(), without.min()) - edge
    alike &= score <= min(with_.max(), without.max()) + edge
    return alike
