"""Which images a proof looks at, from the store's own tables.

Ids are hashes, so the lowest ids are a random draw, the same for any sharding. Memory does not grow with N:
at most CLASS_IMAGES of each class in question and GENERAL of all images are looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.directions import gather_embeddings
from pipelines.extract import ShardRecord
from pipelines.shard_rows import read_rows
from textcam.presence import ConceptPresence
from textcam.trials import NO_TEXT, Stranger

CLASS_IMAGES = 1024
GENERAL = 2048
QUANTILE = 0.95  # a carrier is more like the text than this part of the images that do not show it
SURE = 0.2  # of the way from the images without the text to the carriers: a donor lies below
LEAST_DONORS = 4
_BLOCK = 1024

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Draw:
    """n images with the lowest ids, sorted by id: of each class in question, and of all (``general``).

    ``classes`` (n,) are labels, or predictions where there is no label; ``embeddings`` (n, D).
    """

    image_ids: Ints
    classes: Ints
    predictions: Ints
    general: Bools
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """The images of one proof, as ids.

    ``carriers`` show the text, are of the class and predicted as it. ``donors`` do not show it; ``strangers``
    are those of them that are edited themselves.
    """

    carriers: tuple[int, ...]
    donors: tuple[int, ...]
    strangers: tuple[Stranger, ...]

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Back from plain JSON."""
        strangers = tuple(Stranger(**one) for one in plain["strangers"])
        return cls(tuple(plain["carriers"]), tuple(plain["donors"]), strangers)

    @property
    def image_ids(self) -> list[int]:
        """Every image, once."""
        return sorted({*self.carriers, *self.donors})


def draw(bench: Bench, records: Sequence[ShardRecord], class_ids: Sequence[int]) -> Draw:
    """The images among which those of all proofs are chosen."""
    kept = {name: np.zeros((0, 3), np.int64) for name in (None, *class_ids)}
    for record in records:
        rows = read_rows(bench, record, pooled=False, embeddings=False)
        if rows is None:
            continue
        classes = np.where(rows.labels >= 0, rows.labels, rows.predictions)
        table = np.stack([rows.image_ids, classes, rows.predictions], axis=1)  # sorted by id
        for name, before in kept.items():
            limit = GENERAL if name is None else CLASS_IMAGES
            mine = table if name is None else table[classes == name]
            merged = np.concatenate([before, mine[:limit]])
            kept[name] = merged[np.argsort(merged[:, 0])][:limit]
    ids, classes, predictions = np.unique(np.concatenate(list(kept.values())), axis=0).T
    general = np.isin(ids, kept[None][:, 0])
    return Draw(ids, classes, predictions, general, gather_embeddings(bench, records, ids))


def find_samples(
    drawn: Draw,
    pairs: Sequence[tuple[int, int]],
    text_embeddings: Floats,
    kinds: Sequence[str],
    count: int,
) -> list[Sample]:
    """For each pair of class and text (place in the bank) the images of its proof, up to ``count`` a side."""
    texts = np.array([text for _, text in pairs], np.int64)
    presence = ConceptPresence(text_embeddings, sample=drawn.embeddings[drawn.general])
    blocks = list(_blocks(drawn.embeddings))
    present = np.concatenate([presence(block)[:, texts] for block in blocks])  # (n, P)
    wide = np.asarray(text_embeddings, np.float64)[texts]
    likeness = np.concatenate([block.astype(np.float64) @ wide.T for block in blocks])  # (n, P)
    made = []
    for place, (class_id, text) in enumerate(pairs):
        carriers, donors, strangers = choose(drawn, class_id, present[:, place], likeness[:, place], count)
        rivals = rival_texts(drawn.embeddings[strangers], text_embeddings, kinds, text)
        ids, classes = drawn.image_ids, drawn.classes[strangers]
        columns = zip(ids[strangers].tolist(), classes.tolist(), rivals.tolist(), strict=True)
        named = tuple(Stranger(*column) for column in columns)
        made.append(Sample(tuple(ids[carriers].tolist()), tuple(ids[donors].tolist()), named))
    return made


def choose(
    drawn: Draw, class_id: int, present: Bools, likeness: Floats, count: int
) -> tuple[Ints, Ints, Ints]:
    """Rows of carriers, donors and strangers for one class and text, whose presence and similarity (n,) are
    given.

    Donors and strangers are images of the class itself, so that no other class is pasted in; where it has
    fewer than LEAST_DONORS without the text, they are images of the other classes. Rightly predicted ones
    come first, and if there are LEAST_DONORS of them, only they are strangers: carriers are right as well,
    and an edit brings any margin back towards the middle.

    A donor that has the evidence after all takes nothing away (of 9 photographs said to be without a clock,
    6 had one, and a classifier that went by it was acquitted). So donors are not only said to be without the
    text, they are hardly more like it than images in general.
    """
    absent = ~present & drawn.general
    limit = np.quantile(likeness[absent], QUANTILE) if absent.any() else -np.inf
    own, right = drawn.classes == class_id, drawn.predictions == drawn.classes
    carriers = np.flatnonzero(own & right & present & (likeness > limit))[:count]
    if len(carriers) and absent.any():
        usual = np.median(likeness[absent])
        limit = min(limit, usual + SURE * (np.median(likeness[carriers]) - usual))
    lacking = ~present & (likeness <= limit)
    mine, others = np.flatnonzero(lacking & own), np.flatnonzero(lacking & ~own)
    found = mine if len(mine) >= LEAST_DONORS else others
    donors = found[np.argsort(~right[found], kind="stable")][:count]
    strangers = donors[right[donors]]
    return carriers, donors, strangers if len(strangers) >= LEAST_DONORS else donors


def rival_texts(embeddings: Floats, text_embeddings: Floats, kinds: Sequence[str], text: int) -> Ints:
    """For images (m, D) the other text of the text's kind that each shows most, (m,); NO_TEXT where the kind
    has no other, or its texts do not exclude each other."""
    rivals = np.array([at for at, kind in enumerate(kinds) if kind == kinds[text] and at != text], np.int64)
    if not len(rivals) or kinds[text] == "other":
        return np.full(len(embeddings), NO_TEXT)
    wide = np.asarray(text_embeddings, np.float64)[rivals]
    most: Ints = rivals[(np.asarray(embeddings, np.float64) @ wide.T).argmax(axis=1)]
    return most


def _blocks(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, max(len(rows), 1), _BLOCK):
        yield rows[start : start + _BLOCK]
