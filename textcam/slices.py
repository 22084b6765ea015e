"""Which images a finding is about: those that follow the shortcut, that break it, and that fail by it.

For a finding of class c and text t (ours):

    follows  of class c, with t, and called c
    fails    the cue led astray: of class c, without t, not called c; or of another class, with t, called c
    breaks   the cue is on the wrong side and did no harm: of class c, without t, called c; or of another
             class, with t, not called c

What is left has nothing to do with the finding: other classes without t, and images of class c with t that
are called something else in spite of it. Without labels an image counts for the class that it is called:
then only ``follows`` and ``breaks`` (called c without t) are known.

A label is suspect where a confident prediction differs from it, the words of its explanation name the
predicted class and none names the label, and the encoder, which knows nothing of labels, agrees: it sees a
text that is the predicted class, and none that is the label.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.reader import Snapshot
from textcam.audit import core_texts
from textcam.image_rows import ImageRows, concept_presence, has_labels, image_rows
from textcam.presence import ConceptPresence

if TYPE_CHECKING:
    from textcam.audit import Finding

FOLLOWS, BREAKS, FAILS = "follows", "breaks", "fails"
CONFIDENT = 0.8

Ints = NDArray[np.int64]

SLICES = pa.schema(
    {
        "finding_id": pa.int64(),
        "class_name": pa.string(),
        "text": pa.string(),
        "role": pa.string(),
        "has_text": pa.bool_(),
        "image_id": pa.int64(),
        "uri": pa.string(),
        "label": pa.string(),
        "prediction": pa.string(),
        "confidence": pa.float32(),
    }
)
SUSPECTS = pa.schema(
    {
        "image_id": pa.int64(),
        "uri": pa.string(),
        "label": pa.string(),
        "prediction": pa.string(),
        "confidence": pa.float32(),
        "words": pa.list_(pa.string()),
    }
)


def roles(
    class_id: int, present: NDArray[np.bool_], predictions: Ints, labels: Ints | None
) -> NDArray[np.str_]:
    """(B,) roles of images for a finding of ``class_id``, "" for none: presence of its text (B,), predictions
    (B,), labels (B,) with -1 for none, or no labels at all."""
    called = predictions == class_id
    if labels is None:
        return np.select([called & present, called & ~present], [FOLLOWS, BREAKS], "")
    own, other = labels == class_id, (labels != class_id) & (labels >= 0)
    conflict = (own & ~present) | (other & present)
    wrong = np.where(own, ~called, called)
    return np.select([own & present & called, conflict & wrong, conflict], [FOLLOWS, FAILS, BREAKS], "")


@dataclass(frozen=True)
class SliceNames:
    """Names that the rows of slices need: of all classes, and of a finding's text."""

    classes: Sequence[str]
    texts: Sequence[str]


def slice_batches(
    snapshot: Snapshot, findings: "Sequence[Finding]", names: SliceNames
) -> Iterator[pa.RecordBatch]:
    """Rows of ``SLICES`` for these findings (``names.texts`` one for each), shard by shard; in a shard by
    finding and image id."""
    text_ids = snapshot.table("texts", ["text_id"])["text_id"].to_numpy()
    place = np.searchsorted(text_ids, [one.text_id for one in findings])
    presence, labelled = concept_presence(snapshot), has_labels(snapshot)
    for rows in image_rows(snapshot, embeddings=True):
        present = presence(rows.embeddings)[:, place]  # (B, F)
        for at, finding in enumerate(findings):
            role = roles(
                finding.class_id, present[:, at], rows.predictions, rows.labels if labelled else None
            )
            chosen = np.flatnonzero(role != "")
            if len(chosen):
                yield _slice_rows(rows, chosen, role, present[:, at], finding, names.texts[at], names.classes)


def _slice_rows(
    rows: ImageRows,
    chosen: Ints,
    role: NDArray[np.str_],
    present: NDArray[np.bool_],
    finding: "Finding",
    text: str,
    classes: Sequence[str],
) -> pa.RecordBatch:
    columns = {
        "finding_id": [finding.finding_id] * len(chosen),
        "class_name": [classes[finding.class_id]] * len(chosen),
        "text": [text] * len(chosen),
        "role": role[chosen].tolist(),
        "has_text": present[chosen].tolist(),
        **_image_columns(rows, chosen, classes),
    }
    return pa.RecordBatch.from_pydict(columns, SLICES)


def _image_columns(rows: ImageRows, chosen: Ints, classes: Sequence[str]) -> dict[str, list[object]]:
    labels = rows.labels[chosen].tolist()
    return {
        "image_id": rows.image_ids[chosen].tolist(),
        "uri": [rows.uris[one] for one in chosen],
        "label": [None if one < 0 else classes[one] for one in labels],
        "prediction": [classes[one] for one in rows.predictions[chosen].tolist()],
        "confidence": rows.confidences[chosen].tolist(),
    }


def slices(snapshot: Snapshot, findings: "Sequence[Finding]", names: SliceNames) -> pa.Table:
    """All rows of ``slice_batches``: by finding in the order given, role and image id."""
    whole = pa.Table.from_batches(slice_batches(snapshot, findings, names), SLICES)
    order = {one.finding_id: at for at, one in enumerate(findings)}
    ranks = pa.array([order[one] for one in whole["finding_id"].to_pylist()], pa.int64())
    keys = [(name, "ascending") for name in ("rank", "role", "image_id")]
    return whole.append_column("rank", ranks).sort_by(keys).drop_columns("rank")


def label_suspects(
    snapshot: Snapshot, classes: Sequence[str], texts: Sequence[str], confident: float = CONFIDENT
) -> pa.Table:
    """Rows of ``SUSPECTS``, the most confident first. ``texts`` (T,) in the order of their ids."""
    text_ids = snapshot.table("texts", ["text_id"])["text_id"].to_numpy()
    core = core_texts(classes, texts)  # (C, T)
    presence = concept_presence(snapshot)
    found = [
        _suspects(snapshot, rows, presence, classes, texts, text_ids, core, confident)
        for rows in image_rows(snapshot, embeddings=True)
    ]
    whole = pa.concat_tables([SUSPECTS.empty_table(), *found])
    return whole.sort_by([("confidence", "descending"), ("image_id", "ascending")])


def _suspects(
    snapshot: Snapshot,
    rows: ImageRows,
    presence: ConceptPresence,
    classes: Sequence[str],
    texts: Sequence[str],
    text_ids: Ints,
    core: NDArray[np.bool_],
    confident: float,
) -> pa.Table:
    doubted = (rows.labels >= 0) & (rows.labels != rows.predictions) & (rows.confidences >= confident)
    chosen = np.flatnonzero(doubted)
    explained = snapshot.rows("explanations", "image_id", rows.image_ids[chosen].tolist())
    named = dict(zip(explained["image_id"].to_pylist(), explained["text_ids"].to_pylist(), strict=True))
    seen = presence(rows.embeddings[chosen])
    kept: list[int] = []
    words: list[list[str]] = []
    for row, shown in zip(chosen.tolist(), seen, strict=True):
        mine = np.searchsorted(text_ids, np.array(named.get(int(rows.image_ids[row]), []), np.int64))
        called, label = core[rows.predictions[row]], core[rows.labels[row]]  # (T,)
        if called[mine].any() and called[shown].any() and not (label[mine].any() or label[shown].any()):
            kept.append(row)
            words.append([texts[one] for one in mine.tolist()])
    columns = {**_image_columns(rows, np.array(kept, np.int64), classes), "words": words}
    return pa.Table.from_pydict(columns, SUSPECTS)
