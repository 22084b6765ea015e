"""What goes together in the images themselves, whatever the model makes of it.

For each class and text, how much more often the class's images show the text than the others do: odds ratio
with its 95 % interval (Woolf's logit interval, 1/2 added to each count as by Haldane and Anscombe), lift, and
q over all pairs (Fisher's exact test, Benjamini-Hochberg). Beside it stands the text's share of the class's
evidence: a text that goes with a class in the data and carries no evidence is a bias of the data alone.

Double images: of one content hash, or, by their embeddings, nearly the same; told apart by whether they cross
classes or splits (train, val, test: the folders of their URIs).
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from store.reader import Snapshot
from textcam.audit import LEAST_IMAGES
from textcam.image_rows import concept_presence, has_labels, image_rows
from textcam.presence import ConceptCounts
from textcam.statistics import CONFIDENCE, TwoSides, false_discovery, fisher_exact, rates

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"dev": "val", "test": "test", "testing": "test"}
SURE = 0.05  # the q-value up to which an association is listed
NEAR = 0.99  # cosine from which two images are nearly the same
NEIGHBOURS = 6  # nearest images that are looked at, the image itself among them
_BATCH = 1024

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


class Odds(NamedTuple):
    """Odds ratio and its interval, each (P,); NaN where a side has no images."""

    ratio: Doubles
    low: Doubles
    high: Doubles


@dataclass(frozen=True)
class Association:
    """A class and a text: ``rate`` of the class's images that show it, ``rate_elsewhere`` of the others'. n
    and n_elsewhere are those images. share: of the text in the model's evidence for the class, 0 if none."""

    class_id: int
    text_id: int
    rate: float
    rate_elsewhere: float
    n: int
    n_elsewhere: int
    lift: float | None
    odds_ratio: float
    odds_low: float
    odds_high: float
    q_value: float
    share: float


@dataclass(frozen=True)
class Double:
    """Two images of one content (similarity None) or nearly so; the lower id first."""

    image_id: int
    other_id: int
    uri: str
    other_uri: str
    similarity: float | None
    label: int
    other_label: int
    across_classes: bool
    across_splits: bool


def odds_ratios(sides: TwoSides, confidence: float = CONFIDENCE) -> Odds:
    """Odds of a hit with over without, from counts (P,)."""
    a, b = sides.hits_with + 0.5, sides.n_with - sides.hits_with + 0.5
    c, d = sides.hits_without + 0.5, sides.n_without - sides.hits_without + 0.5
    log = np.log(a * d / (b * c))
    half = float(ndtri(0.5 + confidence / 2)) * np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    known = (sides.n_with > 0) & (sides.n_without > 0)
    return Odds(*(np.where(known, np.exp(one), np.nan) for one in (log, log - half, log + half)))


def associations(snapshot: Snapshot, core: NDArray[np.bool_]) -> list[Association]:
    """Pairs of class and text that go together more than chance would have it: the text is more often in the
    class than elsewhere, in at least LEAST_IMAGES of its images, with a q of at most SURE; the highest
    odds_low first. Texts that are the class itself (``core`` (C, T)) are left out. Classes are labels, or
    predictions where there are none."""
    texts = snapshot.table("texts", ["text_id"])["text_id"].to_numpy()
    classes = snapshot.count("classes")
    labelled, presence = has_labels(snapshot), concept_presence(snapshot)
    counts = ConceptCounts(classes, len(texts), labelled=False)
    for rows in image_rows(snapshot, embeddings=True):
        mine = rows.classes(labelled)
        known = mine >= 0
        counts.update(mine[known], presence(rows.embeddings)[known])
    shares = class_shares(snapshot, texts, classes)
    class_id, text = (one.reshape(-1) for one in np.indices((classes, len(texts))))
    hits, of_class = counts.predicted_with[class_id, text], counts.predicted[class_id]
    total = int(counts.predicted.sum())
    sides = TwoSides(hits, of_class, counts.with_text[text] - hits, total - of_class)
    odds, q = odds_ratios(sides), association_q(sides)
    rate, elsewhere = rates(*sides[:2]), rates(*sides[2:])
    shown = np.flatnonzero((hits >= LEAST_IMAGES) & (rate > elsewhere) & (q <= SURE) & ~core.reshape(-1))
    return [
        Association(
            int(class_id[at]),
            int(texts[text[at]]),
            float(rate[at]),
            float(elsewhere[at]),
            int(of_class[at]),
            int(total - of_class[at]),
            float(rate[at] / elsewhere[at]) if elsewhere[at] > 0 else None,
            float(odds.ratio[at]),
            float(odds.low[at]),
            float(odds.high[at]),
            float(q[at]),
            float(shares[class_id[at], text[at]]),
        )
        for at in shown[np.lexsort((text[shown], class_id[shown], -odds.low[shown]))]
    ]


def association_q(sides: TwoSides) -> Doubles:
    """q (P,) over all pairs, right for every pair whose q is at most SURE and that is more frequent with than
    without. Fisher's test, which takes its time with millions of pairs, is run on these alone: a rate that is
    lower, or less than one standard error higher, has a p far above SURE, and such a p changes no smaller
    q."""
    rate, elsewhere = rates(*sides[:2]), rates(*sides[2:])
    total = sides.n_with + sides.n_without
    common = rates(sides.hits_with + sides.hits_without, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(common * (1 - common) * (1 / sides.n_with + 1 / sides.n_without))
    p = np.where(np.isnan(rate) | np.isnan(elsewhere), np.nan, 1.0)
    close = np.flatnonzero(rate - elsewhere >= error)
    p[close] = fisher_exact(TwoSides(*(column[close] for column in sides)))
    return false_discovery(p)


def class_shares(snapshot: Snapshot, texts: Ints, classes: int) -> Doubles:
    """(C, T): shares of the texts (T,), ascending ids, in the evidence of the classes."""
    rows = snapshot.table("class_texts", ["class_id", "text_id", "share"])
    shares = np.zeros((classes, len(texts)))
    shares[rows["class_id"].to_numpy(), np.searchsorted(texts, rows["text_id"].to_numpy())] = rows[
        "share"
    ].to_numpy()
    return shares


# --- double images --------------------------------------------------------------------------------------


def split_of(uri: str) -> str:
    """train, val or test, by the first folder of a URI that is called so; "" if none is."""
    folders = uri.replace("\\", "/").lower().split("/")[:-1]
    return next((SPLITS[one] for one in folders if one in SPLITS), "")


def doubles(snapshot: Snapshot, near: float | None = NEAR, most: int = 100_000) -> list[Double]:
    """Pairs of images that are the same or, from the cosine ``near`` up, nearly so; those across classes and
    splits first, then by similarity. Near ones are sought for the ``most`` images with the lowest ids, a
    random draw, among the NEIGHBOURS nearest of all images in the store's index; ``near`` of None seeks
    none."""
    ids, hashes, labels, uris = _all_images(snapshot)
    pairs: dict[tuple[int, int], float | None] = dict.fromkeys(_same_content(hashes))
    if near is not None and len(ids):
        pairs = {**_near_pairs(snapshot, ids, near, most), **pairs}  # the same content is not nearly the same
    found = []
    for (one, other), similarity in pairs.items():
        one_split, other_split = split_of(uris[one]), split_of(uris[other])
        found.append(
            Double(
                int(ids[one]),
                int(ids[other]),
                uris[one],
                uris[other],
                similarity,
                int(labels[one]),
                int(labels[other]),
                bool(labels[one] != labels[other] and min(labels[one], labels[other]) >= 0),
                bool(one_split and other_split and one_split != other_split),
            )
        )
    return sorted(found, key=_by_weight)


def _by_weight(pair: Double) -> tuple[int, float, int, int]:
    similarity = 2.0 if pair.similarity is None else pair.similarity
    return -(pair.across_classes + pair.across_splits), -similarity, pair.image_id, pair.other_id


def _all_images(snapshot: Snapshot) -> tuple[Ints, list[str], Ints, list[str]]:
    """Ids, content hashes, labels (-1 for none) and URIs of all images, by ascending id."""
    rows = snapshot.table("images", ["image_id", "content_hash", "label", "uri"])
    labels = rows["label"].fill_null(-1).to_numpy().astype(np.int64)
    return rows["image_id"].to_numpy(), rows["content_hash"].to_pylist(), labels, rows["uri"].to_pylist()


def _same_content(hashes: list[str]) -> list[tuple[int, int]]:
    """Each further image of a content with the first of it, as places."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, content in enumerate(hashes):
        places[content].append(place)
    return [(several[0], other) for several in places.values() for other in several[1:]]


def _near_pairs(snapshot: Snapshot, ids: Ints, near: float, most: int) -> dict[tuple[int, int], float | None]:
    index = snapshot.index("embeddings")
    limit = int(ids[min(most, len(ids)) - 1])
    found: dict[tuple[int, int], float | None] = {}
    for rows in image_rows(snapshot, embeddings=True):
        mine = rows.image_ids <= limit
        for start in range(0, int(mine.sum()), _BATCH):
            queries = rows.embeddings[mine][start : start + _BATCH]
            owner = np.searchsorted(ids, rows.image_ids[mine][start : start + _BATCH])
            neighbours, similarity = index.search(queries, min(NEIGHBOURS, len(ids)))
            row, column = np.nonzero((similarity >= near) & (neighbours >= 0))
            other = np.searchsorted(ids, neighbours[row, column])
            for a, b, value in zip(owner[row], other, similarity[row, column], strict=True):
                if a != b:
                    found[(int(min(a, b)), int(max(a, b)))] = float(value)
    return found
