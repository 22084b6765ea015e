"""Findings: the audit over all images, streamed shard by shard from the store's own tables.

Candidates come from shares of evidence; presence of a concept from the image embeddings; flips from the
stored activations. No image is opened and memory does not grow with N.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.describe import Described
from pipelines.extract import ShardRecord
from pipelines.ledger import read_arrays
from store.manifest import PartRecord
from store.reader import as_matrix, read_part
from store.writer import write_part
from textcam.audit import Finding, candidates, carrying_groups, core_texts, find_shortcuts, supported
from textcam.presence import ConceptCounts, ConceptPresence
from textcam.records import class_text_rows, finding_rows, make_rows
from textcam.shares import ClassMeans, TextShares
from textcam.texts import TextBank
from textcam.whatif import WhatIf

SAMPLE = 4096  # image embeddings from which thresholds of texts without rivals are taken


@dataclass(frozen=True)
class ShardRows:
    """Some images of one shard, joined by id: (B,) ids, labels (-1 for none), predictions, right or not."""

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32]
    pooled: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def read_rows(
    bench: Bench, record: ShardRecord, *, pooled: bool = True, embeddings: bool = True
) -> ShardRows | None:
    """A shard's images with their numbers, sorted by id."""
    images = record.part("images")
    if images is None:
        return None
    rows = read_part(bench.store, images, ["image_id", "label", "prediction", "confidence"])
    ids = rows["image_id"].to_numpy()

    def joined(table: str, column: str, wanted: bool, width: int) -> NDArray[np.float32]:
        part = record.part(table)
        if not wanted or part is None:
            return np.zeros((len(ids), 0 if not wanted else width), np.float32)
        found = read_part(bench.store, part)
        place = np.searchsorted(found["image_id"].to_numpy(), ids)  # both are sorted by id
        return as_matrix(found[column].combine_chunks())[place]

    return ShardRows(
        ids,
        rows["label"].fill_null(-1).to_numpy().astype(np.int64),
        rows["prediction"].to_numpy().astype(np.int64),
        rows["confidence"].to_numpy(),
        joined("activations", "pooled", pooled, bench.dims.channels),
        joined("embeddings", "embedding", embeddings, bench.dims.embedding),
    )


def text_shares(
    bench: Bench, parts: Sequence[PartRecord], text_ids: NDArray[np.int64], classes: int
) -> TextShares:
    """Shares of evidence by class and text, from the explanations of all images."""
    shares = TextShares(classes, len(text_ids))
    order = np.argsort(text_ids)
    for part in parts:
        rows = read_part(bench.store, part, ["class_id", "text_ids", "coefficients"])
        lists = rows["text_ids"].combine_chunks()
        lengths = np.diff(lists.offsets.to_numpy())
        width = max(1, int(lengths.max(initial=0)))
        filled = np.arange(width) < lengths[:, None]  # (B, width)
        index = np.full(filled.shape, -1, np.int64)
        coefficients = np.zeros(filled.shape, np.float32)
        index[filled] = order[np.searchsorted(text_ids, lists.flatten().to_numpy(), sorter=order)]
        coefficients[filled] = rows["coefficients"].combine_chunks().flatten().to_numpy()
        shares.update(rows["class_id"].to_numpy().astype(np.int64), index, coefficients)
    return shares


def audit(bench: Bench, records: Sequence[ShardRecord], described: Described, key: str) -> list[PartRecord]:
    """Write ``classes``, ``class_texts`` and ``findings``."""
    tables, bank = bench.tables, described.bank
    explained = [part for part in described.parts if part.table == "explanations"]
    shares = text_shares(bench, explained, bank.text_ids, len(bench.classifier.class_names))
    found = find(bench, records, shares, bank, read_arrays(bench.store, described.shared))
    rows = {
        "classes": class_rows(bench, records),
        "class_texts": class_text_rows(tables["class_texts"], shares, bank.text_ids),
        "findings": finding_rows(tables["findings"], found[: bench.config.report.findings]),
    }
    return [write_part(bench.store, tables[name], made, key[:12]) for name, made in rows.items()]


def find(
    bench: Bench,
    records: Sequence[ShardRecord],
    shares: TextShares,
    bank: TextBank,
    shared: dict[str, NDArray[Any]],
) -> list[Finding]:
    """Ranked findings of all classes. ``shared`` is what explanations were made from (see ``describe``)."""
    names, text_embeddings = bench.classifier.class_names, shared["text_embeddings"]
    similarity = shared["name_embeddings"] @ text_embeddings.T
    core = core_texts(names, bank.texts, similarity)
    class_id, text_index = candidates(shares, core, bank.kinds)
    if class_id.size == 0:
        return []
    head = bench.classifier.head
    means = ClassMeans(len(names), bench.dims.channels)
    labelled = False
    for rows in _stream(bench, records, embeddings=False):
        means.update(rows.predictions, rows.pooled)
        labelled |= bool((rows.labels >= 0).any())
    contributions = means.mean if head is None else means.mean * head.weights
    pairs = carrying_groups(
        class_id, text_index, contributions, shared["directions"], shared["group_of"], text_embeddings
    )
    presence = ConceptPresence(text_embeddings, bank.kinds, sample=_sample(bench, records))
    counts = ConceptCounts(len(names), len(bank.texts), labelled=labelled)
    flips = None
    if head is not None:
        flips = WhatIf(head.weights, head.bias, shared["group_of"], shared["mean_pooled"], pairs)
    for rows in _stream(bench, records, embeddings=True):
        present = presence(rows.embeddings)
        counts.update(rows.predictions, present, rows.labels if labelled else None)
        if flips is not None:
            flips.update(rows.pooled, present, rows.labels if labelled else None)
    found = find_shortcuts(
        pairs,
        shares,
        counts,
        flips,
        class_names=names,
        texts=bank.texts,
        text_ids=bank.text_ids.tolist(),
        kinds=bank.kinds,
    )
    return supported(found)


def _stream(bench: Bench, records: Sequence[ShardRecord], *, embeddings: bool) -> Iterator[ShardRows]:
    for record in records:
        rows = read_rows(bench, record, embeddings=embeddings)
        if rows is not None:
            yield rows


def _sample(bench: Bench, records: Sequence[ShardRecord]) -> NDArray[np.float32]:
    """(n, D): the images with the lowest ids. Ids are hashes, so these are a random draw, the same for any
    sharding."""
    ids, embeddings = np.zeros(0, np.int64), np.zeros((0, bench.dims.embedding), np.float32)
    for record in records:
        part = record.part("embeddings")
        if part is None:
            continue
        rows: pa.Table = read_part(bench.store, part).slice(0, SAMPLE)  # sorted by id
        ids = np.concatenate([ids, rows["image_id"].to_numpy()])
        embeddings = np.concatenate([embeddings, as_matrix(rows["embedding"].combine_chunks())])
        keep = np.argsort(ids)[:SAMPLE]
        ids, embeddings = ids[keep], embeddings[keep]
    return embeddings


# --- classes --------------------------------------------------------------------------------------------


def count_classes(
    bench: Bench, records: Sequence[ShardRecord]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Images (C,) of each class, by label or, without labels, by prediction; and accuracy (C,), NaN if
    unknown."""
    classes = len(bench.classifier.class_names)
    labelled, right, predicted = (np.zeros(classes, np.int64) for _ in range(3))
    for record in records:
        rows = read_rows(bench, record, pooled=False, embeddings=False)
        if rows is None:
            continue
        known = rows.labels >= 0
        labelled += np.bincount(rows.labels[known], minlength=classes)
        right += np.bincount(rows.labels[known & (rows.labels == rows.predictions)], minlength=classes)
        predicted += np.bincount(rows.predictions, minlength=classes)
    accuracy = np.divide(right, labelled, out=np.full(classes, np.nan), where=labelled > 0)
    return (labelled if labelled.any() else predicted), accuracy


def class_rows(bench: Bench, records: Sequence[ShardRecord]) -> pa.Table:
    """Rows of ``classes``."""
    head, names = bench.classifier.head, bench.classifier.class_names
    n_images, accuracy = count_classes(bench, records)
    return make_rows(
        bench.tables["classes"],
        class_id=np.arange(len(names)),
        name=names,
        weights=[None] * len(names) if head is None else head.weights,
        bias=[None] * len(names) if head is None else head.bias.tolist(),
        n_images=n_images,
        accuracy=[None if np.isnan(one) else float(one) for one in accuracy],
    )
