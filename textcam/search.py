"""What of a store is nearest to a direction in the space of images and texts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from store.reader import Snapshot
from textcam.answers import Match
from textcam.arrays import Floats
from textcam.catalogue import Catalogue
from textcam.explainer import positive_shares

Among = Literal["channels", "groups", "classes", "images", "texts"]
_INDEX_OF = {"channels": "channels", "groups": "groups", "texts": "texts", "images": "embeddings"}
_LABEL_WORDS = 3  # words that name a channel or a group


def nearest(snapshot: Snapshot, catalogue: Catalogue, target: Floats, among: Among, top: int) -> list[Match]:
    """The ``top`` nearest to ``target`` (D,), a unit vector, best first; fewer where there are fewer."""
    if among == "classes":
        return nearest_classes(catalogue, target, top)
    ids, similarities = snapshot.index(_INDEX_OF[among]).search(target[None], top)
    found = [(int(one), float(near)) for one, near in zip(ids[0], similarities[0], strict=True) if one >= 0]
    labels = _labels(snapshot, catalogue, among, [one for one, _ in found])
    return [Match(one, labels[one], near) for one, near in found]


def nearest_classes(catalogue: Catalogue, target: Floats, top: int) -> list[Match]:
    """Classes by how near the words of their images are to ``target`` (D,) (ours).

    A word is as near as its cosine exceeds the mean of the whole bank, between 0 and, for the very text, 1; a
    class's similarity is the mean of its words', weighted by their shares of its evidence. So it tells what
    a class is seen by, not what it is called, and holds for any head.
    """
    texts = catalogue.texts
    cosine = texts.embeddings @ target  # (T,)
    mean = float(cosine.mean())
    near = np.clip((cosine - mean) / max(1 - mean, 1e-6), 0, 1)
    made = []
    for class_id, rows in catalogue.class_texts.items():
        shares = positive_shares(np.array([row["share"] for row in rows], np.float32))
        similarity = float(shares @ near[texts.rows_of(row["text_id"] for row in rows)])
        made.append(Match(class_id, catalogue.classes.names[class_id], similarity))
    return sorted(made, key=lambda match: (-match.similarity, match.id))[:top]


def _labels(snapshot: Snapshot, catalogue: Catalogue, among: Among, ids: Sequence[int]) -> dict[int, str]:
    if among == "images":
        rows = snapshot.rows("images", "image_id", ids, ["image_id", "uri"])
        return dict(zip(rows["image_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    if among == "texts":
        return {one: word.text for one, word in zip(ids, catalogue.texts.words(ids), strict=True)}
    described = catalogue.groups if among == "groups" else dict(enumerate(catalogue.channels.rows))
    words = {one: catalogue.texts.words(described[one]["text_ids"][:_LABEL_WORDS]) for one in ids}
    return {one: ", ".join(word.text for word in named) for one, named in words.items()}
