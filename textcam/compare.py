"""Two classifiers, explained with the same encoder: do they look for the same things? (ours)

The directions of both lie in the encoder's space, so channels of different networks can be compared: a
*twin* of a channel is the channel of the other that is nearest to it, where each is the nearest of the
other. Classes are compared by name, images by id. To compare two states of one classifier see
``textcam.diff``.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from store.errors import EncoderMismatch, QueryError
from store.reader import Snapshot
from textcam.arrays import Floats
from textcam.catalogue import Catalogue

LEAST_TWIN = 0.5  # cosine from which two channels count as twins


@dataclass(frozen=True)
class Twins:
    """A channel of the first classifier and its twin in the second, by the cosine of their directions."""

    channel_a: int
    channel_b: int
    similarity: float
    words_a: tuple[str, ...]
    words_b: tuple[str, ...]


@dataclass(frozen=True)
class ClassAgreement:
    """A class that both have. ``agreement`` is the part of the evidence that both give to the same words, 0
    to 1; words are the first few by share.
    """

    name: str
    agreement: float
    words_a: tuple[str, ...]
    words_b: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What two classifiers have in common.

    ``twins`` by falling similarity; ``alike`` is the mean cosine of the channels of the first with their
    nearest in the second, ``by_chance`` the same after the second's directions were mirrored at random, which
    keeps how they lie to each other and nothing else. ``only_a`` and ``only_b`` are the texts that name a
    channel of the one and no channel of the other, strongest first. ``same_prediction`` and
    ``same_first_word`` are shares of the ``images`` both have explained (the latter, of those with the same
    prediction).
    """

    store_a: str
    store_b: str
    channels_a: int
    channels_b: int
    twins: tuple[Twins, ...]
    alike: float
    by_chance: float
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    classes: tuple[ClassAgreement, ...]
    images: int
    same_prediction: float | None
    same_first_word: float | None


def compare(a: Snapshot, b: Snapshot) -> Comparison:
    """Compare the classifiers of two stores. Raises EncoderMismatch where their directions lie in different
    spaces, QueryError where their texts differ, Damaged where a file that is read is.
    """
    prints = a.manifest.fingerprints, b.manifest.fingerprints
    if prints[0].get("encoder") != prints[1].get("encoder"):
        raise EncoderMismatch(
            "These stores were made with different encoders: their directions cannot be compared.",
            where=f"{a.storage.uri} and {b.storage.uri}",
            fix="Explain both classifiers with the same encoder; if it is, run the older precompute again.",
        )
    if prints[0].get("texts") != prints[1].get("texts"):
        raise QueryError(
            "These stores have different text banks: their words cannot be compared.",
            where=f"{a.storage.uri} and {b.storage.uri}",
            fix="Run both with the same texts; nothing but the words is made again.",
        )
    first, second = Catalogue.of(a), Catalogue.of(b)
    cosine = first.channels.directions @ second.channels.directions.T
    named = _strength(first), _strength(second)
    images, same_prediction, same_word = _images(a, b, first, second)
    return Comparison(
        store_a=a.storage.uri,
        store_b=b.storage.uri,
        channels_a=len(cosine),
        channels_b=cosine.shape[1],
        twins=_twins(cosine, first, second),
        alike=_nearest(cosine),
        by_chance=_nearest(first.channels.directions @ _mirrored(second.channels.directions).T),
        only_a=_only(named[0], named[1]),
        only_b=_only(named[1], named[0]),
        classes=_classes(first, second),
        images=images,
        same_prediction=same_prediction,
        same_first_word=same_word,
    )


def _nearest(cosine: Floats) -> float:
    alive = cosine.any(axis=1)  # a channel that never fires has no direction
    return float(cosine[alive].max(axis=1).mean()) if alive.any() else 0.0


def _mirrored(directions: Floats) -> Floats:
    signs = np.random.default_rng(0).choice((-1.0, 1.0), directions.shape[1])
    return (directions * signs).astype(np.float32)


def _twins(cosine: Floats, first: Catalogue, second: Catalogue) -> tuple[Twins, ...]:
    of_a, of_b = cosine.argmax(axis=1), cosine.argmax(axis=0)
    mutual = [
        channel
        for channel, other in enumerate(of_a)
        if of_b[other] == channel and cosine[channel, other] >= LEAST_TWIN
    ]
    made = [
        Twins(
            channel,
            int(of_a[channel]),
            float(cosine[channel, of_a[channel]]),
            _words(first, channel),
            _words(second, int(of_a[channel])),
        )
        for channel in mutual
    ]
    return tuple(sorted(made, key=lambda one: (-one.similarity, one.channel_a)))


def _words(catalogue: Catalogue, channel: int, most: int = 3) -> tuple[str, ...]:
    ids = catalogue.channels.rows[channel]["text_ids"][:most]
    return tuple(word.text for word in catalogue.texts.words(ids))


def _strength(catalogue: Catalogue) -> dict[str, float]:
    """Texts that name a channel, and how strongly: the sum over channels of 1 / place among its words."""
    made: dict[str, float] = defaultdict(float)
    for channel in range(len(catalogue.channels.rows)):
        for place, text in enumerate(_words(catalogue, channel), start=1):
            made[text] += 1 / place
    return made


def _only(mine: Mapping[str, float], other: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted((text for text in mine if text not in other), key=lambda text: (-mine[text], text)))


def _classes(first: Catalogue, second: Catalogue) -> tuple[ClassAgreement, ...]:
    shares = _shares(first), _shares(second)
    both = [name for name in first.classes.names if name in shares[0] and name in shares[1]]
    made = []
    for name in both:
        one, other = shares[0][name], shares[1][name]
        agreement = sum(min(share, other.get(text, 0.0)) for text, share in one.items())
        made.append(ClassAgreement(name, agreement, _first(one), _first(other)))
    return tuple(sorted(made, key=lambda one: (one.agreement, one.name)))


def _shares(catalogue: Catalogue) -> dict[str, dict[str, float]]:
    made = {}
    for class_id, rows in catalogue.class_texts.items():
        words = catalogue.texts.words([row["text_id"] for row in rows])
        made[catalogue.classes.names[class_id]] = {
            word.text: row["share"] for word, row in zip(words, rows, strict=True)
        }
    return made


def _first(shares: Mapping[str, float], most: int = 3) -> tuple[str, ...]:
    return tuple(text for text, share in list(shares.items())[:most] if share > 0)


def _images(
    a: Snapshot, b: Snapshot, first: Catalogue, second: Catalogue
) -> tuple[int, float | None, float | None]:
    """Images explained in both, the share with the same predicted class, and of these with the same first
    word. Three numbers of each image are held.
    """
    one, other = _explained(a, first), _explained(b, second)
    both = one.join(other, "image_id", right_suffix="_b", join_type="inner")
    if not both.num_rows:
        return 0, None, None
    same = np.array(both["class"].to_pylist(), object) == np.array(both["class_b"].to_pylist(), object)
    word = (both["word"].to_numpy() == both["word_b"].to_numpy())[same]
    return both.num_rows, float(same.mean()), float(word.mean()) if len(word) else None


def _explained(snapshot: Snapshot, catalogue: Catalogue) -> pa.Table:
    """image_id, name of the class and id of the first word (-1 for none)."""
    pieces = []
    for batch in snapshot.batches("explanations", ["image_id", "class_id", "text_ids"]):
        names = [catalogue.classes.names[one] for one in batch.column("class_id").to_pylist()]
        words = [ids[0] if ids else -1 for ids in batch.column("text_ids").to_pylist()]
        pieces.append(
            pa.table(
                {"image_id": batch.column("image_id"), "class": names, "word": pa.array(words, pa.int64())}
            )
        )
    empty = pa.schema([("image_id", pa.int64()), ("class", pa.string()), ("word", pa.int64())]).empty_table()
    return pa.concat_tables([empty, *pieces])
