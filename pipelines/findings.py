"""Findings: the audit over all images, streamed shard by shard from the store's own tables.

Candidates come from shares of evidence; presence of a concept from the image embeddings; flips from the
stored activations. No image is opened and memory does not grow with N.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.describe import Described
from pipelines.extract import ShardRecord
from pipelines.ledger import read_arrays
from pipelines.shard_rows import read_rows, sample_embeddings, stream_rows
from store.manifest import PartRecord
from store.reader import read_part
from store.writer import write_part
from textcam.audit import Finding, candidates, carrying_groups, core_texts, find_shortcuts, supported
from textcam.confidence import class_confidence
from textcam.presence import ConceptCounts, ConceptPresence
from textcam.records import class_text_rows, confidence_rows, finding_rows, make_rows
from textcam.shares import ClassMeans, TextShares
from textcam.texts import TextBank
from textcam.whatif import WhatIf


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


def sure_classes(
    bench: Bench, parts: Sequence[PartRecord]
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Classes (n,) that have images, and the confidence in their words; None where images have none."""
    shard_of = lambda part: part.path.rpartition("/")[2].partition("-")[0]  # noqa: E731
    of_shard = {shard_of(one): one for one in parts if one.table == "confidences"}
    count = np.zeros(len(bench.classifier.class_names), np.int64)
    total = np.zeros(len(count))
    for part in parts:
        other = of_shard.get(shard_of(part))
        if part.table != "explanations" or other is None:
            continue
        rows, known = read_part(bench.store, part, ["image_id", "class_id"]), read_part(bench.store, other)
        class_ids = rows["class_id"].to_numpy()
        place = np.searchsorted(known["id"].to_numpy(), rows["image_id"].to_numpy())
        sure = known["confidence"].to_numpy()[place]
        count += np.bincount(class_ids, minlength=len(count))
        total += np.bincount(class_ids, weights=sure, minlength=len(count))
    there = np.flatnonzero(count)
    return None if not len(there) else (there, class_confidence(total[there] / count[there]))


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
    sure = sure_classes(bench, described.parts)
    if sure is not None:
        rows["confidences"] = confidence_rows(tables["confidences"], **{"class": sure})
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
    for rows in stream_rows(bench, records, embeddings=False):
        means.update(rows.predictions, rows.pooled)
        labelled |= bool((rows.labels >= 0).any())
    contributions = means.mean if head is None else means.mean * head.weights
    pairs = carrying_groups(
        class_id, text_index, contributions, shared["directions"], shared["group_of"], text_embeddings
    )
    presence = ConceptPresence(text_embeddings, sample=sample_embeddings(bench, records))
    counts = ConceptCounts(len(names), len(bank.texts), labelled=labelled)
    flips = None
    if head is not None:
        flips = WhatIf(head.weights, head.bias, shared["group_of"], shared["mean_pooled"], pairs)
    for rows in stream_rows(bench, records, embeddings=True):
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
