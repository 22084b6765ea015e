"""The small tables of a snapshot, each read once, on first use. Nothing here grows with the number of
images.
"""

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.errors import Damaged, QueryError
from store.reader import Snapshot, as_matrix
from textcam.answers import Word
from textcam.arrays import Floats, Ids
from textcam.explain import word_directions
from textcam.naming import named_directions

Confidences = dict[str, dict[int, float]]


def confidences_of(snapshot: Snapshot) -> Confidences:
    """Those of the first words of channels, classes and groups, by subject and id; an older store
    has none.
    """
    found: Confidences = {"channel": {}, "class": {}, "group": {}}
    if snapshot.has("confidences"):
        for row in snapshot.rows("confidences", "subject", list(found)).to_pylist():
            found[row["subject"]][row["id"]] = row["confidence"]
    return found


@dataclass(frozen=True)
class Texts:
    """The text bank as stored: ids (T,), texts, kinds, unit embeddings (T, D)."""

    ids: Ids
    texts: list[str]
    kinds: list[str]
    embeddings: Floats

    def word(self, row: int, **amounts: float | None) -> Word:
        """The text in ``row`` as a word."""
        return Word(int(self.ids[row]), self.texts[row], self.kinds[row], **amounts)

    def words(self, text_ids: Iterable[int], **amounts: Iterable[float]) -> tuple[Word, ...]:
        """Texts by id, each with its amount of every kind given."""
        rows = self.rows_of(text_ids)
        made = [dict(zip(amounts, values, strict=True)) for values in zip(*amounts.values(), strict=True)]
        return tuple(
            self.word(int(row), **one) for row, one in zip(rows, made or [{}] * len(rows), strict=True)
        )

    def rows_of(self, text_ids: Iterable[int]) -> Ids:
        """Rows of texts by their ids. Damaged if the store names a text that it does not have."""
        wanted = np.fromiter(text_ids, np.int64)
        rows = np.searchsorted(self.ids, wanted)
        missing = wanted[self.ids[np.minimum(rows, len(self.ids) - 1)] != wanted]
        if missing.size:
            raise Damaged(f"There is no text with the id {missing[0]}.", where="texts")
        return rows

    def row_of(self, text: str) -> int | None:
        """The row of a text of the bank, whatever its case and spaces; None if it is not in the bank."""
        return self._rows_by_text.get(comparison_key(text))

    @cached_property
    def _rows_by_text(self) -> dict[str, int]:
        return {comparison_key(text): row for row, text in enumerate(self.texts)}


@dataclass(frozen=True)
class Channels:
    """All channels: directions as words are chosen by them (K, D), group of each (K,), and the other
    columns.
    """

    directions: Floats
    group_of: NDArray[np.int32]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Classes:
    """All classes: names, counts, and the head's weights (C, K) and biases (C,) where it is linear."""

    names: list[str]
    n_images: list[int]
    accuracy: list[float | None]
    weights: Floats | None
    bias: Floats | None

    def find(self, class_id: int | str) -> int:
        """The number of a class, given as number or name (case does not matter unless it has to).

        Raises QueryError that names the nearest classes.
        """
        wanted = str(class_id)
        if isinstance(class_id, str):
            if wanted in self.names:
                return self.names.index(wanted)
            folded = [name.casefold() for name in self.names]
            if folded.count(wanted.casefold()) == 1:
                return folded.index(wanted.casefold())
        if wanted.isdecimal() and int(wanted) < len(self.names):
            return int(wanted)
        by_name = {name.casefold(): name for name in self.names}
        near = [by_name[one] for one in difflib.get_close_matches(wanted.casefold(), by_name, n=3)]
        guess = (
            f"Did you mean {' or '.join(near)}?" if near else f"Classes go from 0 to {len(self.names) - 1}."
        )
        raise QueryError(f"There is no class {wanted!r}.", where="classes", fix=guess)


class Catalogue:
    """The small tables of ``snapshot``; ``form`` and ``centre`` say which channel directions words are chosen
    by (see ``textcam.explain.word_directions``).
    """

    def __init__(self, snapshot: Snapshot, form: str, *, centre: bool) -> None:
        self._snapshot, self._form, self._centre = snapshot, form, centre

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """With the directions that the run which made the store chose words by."""
        words = snapshot.manifest.config.get("words", {})
        return cls(snapshot, words.get("form", "both"), centre=bool(words.get("centre", False)))

    @cached_property
    def texts(self) -> Texts:
        """The text bank, by ascending id."""
        rows = self._snapshot.table("texts")
        return Texts(
            rows["text_id"].to_numpy(),
            rows["text"].to_pylist(),
            rows["kind"].to_pylist(),
            _matrix(rows["embedding"]),
        )

    @cached_property
    def channels(self) -> Channels:
        """Every channel, in order."""
        rows = self._snapshot.table("channels")
        whole, region = _matrix(rows["direction"]), _matrix(rows["region_direction"])
        plain = rows.drop_columns(["direction", "region_direction"])
        named = self._named(len(whole)) if self._form == "named" else None
        directions = word_directions(whole, region, self._form, centre=self._centre, named=named)
        return Channels(directions, rows["group_id"].to_numpy(), plain.to_pylist())

    def _named(self, channels: int) -> Floats:
        """Directions (K, D) of the texts whose presence goes with each channel."""
        rows = self._snapshot.table("channel_texts")
        coefficients = np.zeros((channels, len(self.texts.ids)), np.float32)
        columns = self.texts.rows_of(rows["text_id"].to_pylist())
        coefficients[rows["channel"].to_numpy(), columns] = rows["coefficient"].to_numpy()
        return named_directions(coefficients, self.texts.embeddings)

    @cached_property
    def groups(self) -> dict[int, dict[str, Any]]:
        """Channels, text_ids and similarities of every group, by id."""
        rows = self._snapshot.table("groups", ["group_id", "channels", "text_ids", "similarities"])
        return {row["group_id"]: row for row in rows.to_pylist()}

    @cached_property
    def confidences(self) -> Confidences:
        """See ``confidences_of``."""
        return confidences_of(self._snapshot)

    @cached_property
    def channel_confidence(self) -> Floats | None:
        """(K,), or None where the store has none."""
        found = self.confidences["channel"]
        return np.array([found[one] for one in sorted(found)], np.float32) if found else None

    @cached_property
    def classes(self) -> Classes:
        """Every class, in order."""
        rows = self._snapshot.table("classes")
        linear = rows.num_rows > 0 and not rows["weights"].null_count and not rows["bias"].null_count
        return Classes(
            rows["name"].to_pylist(),
            rows["n_images"].to_pylist(),
            rows["accuracy"].to_pylist(),
            _matrix(rows["weights"]) if linear else None,
            rows["bias"].to_numpy() if linear else None,
        )

    @cached_property
    def class_texts(self) -> dict[int, list[dict[str, Any]]]:
        """Of every class that has any, its rows of ``class_texts`` by falling share."""
        found: dict[int, list[dict[str, Any]]] = {}
        for row in self._snapshot.table("class_texts").to_pylist():
            found.setdefault(row["class_id"], []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: (-row["share"], row["text_id"]))
        return found


def facts(snapshot: Snapshot) -> dict[str, Any]:
    """What a snapshot holds, as plain values."""
    manifest = snapshot.manifest
    return {
        "store": snapshot.storage.uri,
        "snapshot": manifest.snapshot,
        "parent": manifest.parent,
        "format_version": manifest.format_version,
        "dims": asdict(manifest.dims),
        "tables": {
            name: {
                "rows": snapshot.count(name),
                "files": len(snapshot.parts(name)),
                "bytes": sum(part.bytes for part in snapshot.parts(name)),
            }
            for name in snapshot.tables
        },
        "indexes": [index.table for index in manifest.indexes],
        "fingerprints": manifest.fingerprints,
        "config": manifest.config,
    }


def comparison_key(text: str) -> str:
    """What makes two texts the same: not case, not spaces, not how accents are encoded (as in the text
    bank).
    """
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def _matrix(column: pa.ChunkedArray) -> Floats:
    return as_matrix(column.combine_chunks())
