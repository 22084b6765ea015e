"""Description: words for channels and groups, and an explanation of every image.

All of it comes from the store's own tables; no image is opened. Changing the text bank or the number of
groups redoes this and nothing before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.config import GroupsSection
from pipelines.directions import Examples, Fitted
from pipelines.extract import ShardRecord
from pipelines.ledger import File, WorkFile, read_arrays, write_arrays
from pipelines.partial import read_weights
from pipelines.shard_rows import sample_embeddings, stream_rows
from store.manifest import PartRecord
from store.reader import as_matrix, read_part
from store.writer import write_part
from textcam.confidence import explanation_confidence, group_confidence
from textcam.explain import explain, mean_baseline, word_directions
from textcam.groups import group_by_text, group_channels, group_directions
from textcam.names import SHRINKAGES, Names, NamingSums, name_channels
from textcam.naming import foretelling_shrinkage, named_directions
from textcam.presence import ConceptPresence
from textcam.records import channel_text_rows, class_effect_rows, confidence_rows, make_rows
from textcam.select import NO_TEXT, Selection, nearest_texts, similarity, smaller_of_both
from textcam.texts import TextBank, embed_bank

Array = NDArray[Any]
METHOD = "two questions by standing"  # part of every key: change it when the same settings give other words


@dataclass(frozen=True)
class Described:
    """The texts, the groups, the parts that were written, and the file of what all shards share."""

    key: str
    bank: TextBank
    shared: WorkFile
    parts: tuple[PartRecord, ...]


def embed_texts(bench: Bench, bank: TextBank, key: str) -> WorkFile:
    """Unit embeddings (T, D) of the bank and (C, D) of the class names, as a work file."""
    names = TextBank(
        bench.classifier.class_names, ("object",) * len(bench.classifier.class_names), bank.templates
    )
    arrays = {
        "texts": embed_bank(bank, bench.encoder.encode_texts),
        "names": embed_bank(names, bench.encoder.encode_texts),
    }
    return write_arrays(bench.store, f"work/texts/{key}.safetensors", arrays)


def describe_channels(
    bench: Bench,
    records: Sequence[ShardRecord],
    examples: Examples,
    fitted: Fitted,
    bank: TextBank,
    texts: File,
    key: str,
) -> tuple[WorkFile, list[PartRecord]]:
    """Group the channels, and give channels and groups their words.

    Writes their tables, ``texts``, ``channel_texts``, ``class_effects`` and ``confidences`` of channels and
    groups, and a work file for explanations.
    """
    words, head = bench.config.words, bench.classifier.head
    embedded = read_arrays(bench.store, texts)
    text_embeddings, text_ids = embedded["texts"], bank.text_ids
    coefficients = np.zeros((len(fitted.whole), len(text_ids)), np.float32)
    effects = np.zeros((len(bench.classifier.class_names), len(text_ids)), np.float32)
    names: Names | None = None
    if words.form == "named":
        sums = naming_sums(bench, records, bank, text_embeddings)
        names = name_channels(sums, text_embeddings)
        coefficients = names.coefficients
        if head is not None:
            shrinkage = foretelling_shrinkage(sums.presence, SHRINKAGES)
            effects = sums.all_presence().effects(head.weights, shrinkage)
    named = named_directions(coefficients, text_embeddings)
    directions = word_directions(fitted.whole, fitted.region, words.form, centre=words.centre, named=named)
    group_of = group(bench.config.groups, directions, names)
    groups = int(group_of.max()) + 1
    by_group = group_directions(directions, group_of, groups)
    of_channels = channel_words(bench, fitted, directions, coefficients, text_embeddings)
    of_groups = nearest_texts(by_group, text_embeddings, top=words.top)
    tables, name = bench.tables, key[:12]
    made = {
        "texts": make_rows(
            tables["texts"], text_id=text_ids, text=bank.texts, kind=bank.kinds, embedding=text_embeddings
        ),
        "channels": make_rows(
            tables["channels"],
            channel=np.arange(len(directions)),
            direction=fitted.whole,
            region_direction=fitted.region,
            separation=fitted.separation,
            active_fraction=examples.active_fraction,
            group_id=group_of,
            text_ids=_named(of_channels.text_index, text_ids),
            similarities=_kept(of_channels.text_index, of_channels.similarities),
        ),
        "channel_texts": channel_text_rows(tables["channel_texts"], coefficients, text_ids),
        "class_effects": class_effect_rows(tables["class_effects"], effects, text_ids),
        "groups": make_rows(
            tables["groups"],
            group_id=np.arange(groups),
            direction=by_group,
            channels=[np.flatnonzero(group_of == group) for group in range(groups)],
            text_ids=_named(of_groups.text_index, text_ids),
            similarities=_kept(of_groups.text_index, of_groups.similarities),
        ),
    }
    if names is not None:
        of_group = group_confidence(names.confidence, names.first, group_of, of_groups.text_index[:, 0])
        made["confidences"] = confidence_rows(
            tables["confidences"],
            channel=(np.arange(len(directions)), names.confidence),
            group=(np.arange(groups), of_group),
        )
    parts = [write_part(bench.store, tables[table], rows, name) for table, rows in made.items()]
    shared: dict[str, Array] = {
        "directions": directions,
        "group_of": group_of,
        "text_ids": text_ids,
        "text_embeddings": text_embeddings,
        "name_embeddings": embedded["names"],
        "mean_pooled": examples.mean_pooled,
    }
    if head is not None:
        shared["head"] = head.weights
    if names is not None:
        shared["confidence"] = names.confidence
    return write_arrays(bench.store, f"work/shared/{key}.safetensors", shared), parts


def group(settings: GroupsSection, directions: Array, names: Names | None) -> NDArray[np.int32]:
    """Group ids (K,); by names where channels have them and it is asked for."""
    if settings.method == "names" and names is not None:
        return group_by_text(names.first, directions, settings.count)
    method = "kmeans" if settings.method == "names" else settings.method
    return group_channels(directions, settings.count, method=method)


def naming_sums(
    bench: Bench, records: Sequence[ShardRecord], bank: TextBank, text_embeddings: Array
) -> NamingSums:
    """What channels do when texts are present, and where embeddings are then, from all stored images."""
    presence = ConceptPresence(text_embeddings, sample=sample_embeddings(bench, records))
    sums = NamingSums(len(bank.texts), bench.dims.channels, bench.dims.embedding)
    for rows in stream_rows(bench, records, embeddings=True):
        sums.update(rows.image_ids, presence.probability(rows.embeddings), rows.pooled, rows.embeddings)
    return sums


def channel_words(
    bench: Bench, fitted: Fitted, directions: Array, coefficients: Array, text_embeddings: Array
) -> Selection:
    """The words of each channel: the texts whose presence goes with it, or, where there are none, the nearest
    to its directions.
    """
    words, scores = bench.config.words, None
    if words.form in ("named", "both") and fitted.region.any():
        whole, region = (
            word_directions(fitted.whole, fitted.region, form, centre=words.centre)
            for form in ("whole", "region")
        )
        scores = smaller_of_both(similarity(whole, text_embeddings), similarity(region, text_embeddings))
    near = nearest_texts(directions, text_embeddings, top=words.top, scores=scores)
    by_presence = nearest_texts(directions, text_embeddings, top=words.top, scores=coefficients)
    present = np.take_along_axis(coefficients, np.maximum(by_presence.text_index, 0), axis=1) > 0
    found = coefficients.any(axis=1, keepdims=True)
    return Selection(
        np.where(found, np.where(present, by_presence.text_index, NO_TEXT), near.text_index),
        np.where(found, by_presence.coefficients, near.coefficients),
        np.where(found, by_presence.similarities, near.similarities),
    )


def _named(index: Array, text_ids: Array) -> list[Array]:
    return [text_ids[row[row >= 0]] for row in index]


def _kept(index: Array, values: Array) -> list[Array]:
    return [value[row >= 0] for row, value in zip(index, values, strict=True)]


# --- every image ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExplainItem:
    """One shard to explain, and the file of what all shards share (directions, texts, groups, head)."""

    record: ShardRecord
    shared: File
    key: str


def explain_shard(bench: Bench, item: ExplainItem) -> list[PartRecord]:
    """Explanations of one shard's images, for their predicted classes, and how sure they are. A stage for
    ``execute``.
    """
    shared = read_arrays(bench.store, item.shared)
    ids, class_ids, pooled, weights = _evidence(bench, item.record, shared)
    config = bench.config
    baseline, contrasted = None, weights
    if config.words.contrast and "head" in shared:
        baseline = mean_baseline(shared["head"], pooled, shared["directions"])
        contrasted = weights - shared["head"].mean(axis=0)
    made = explain(
        weights * pooled,
        shared["directions"],
        shared["text_embeddings"],
        shared["group_of"],
        baseline=baseline,
        top=max(config.words.top, 2),  # how sure the first word is depends on the second
        screen=config.words.screen,
        sparsity=config.words.sparsity,
        relative_sparsity=config.words.relative_sparsity,
        decorrelation=config.words.decorrelation,
    )
    order = np.argsort(-made.group_contributions, axis=1, kind="stable")[:, : config.groups.per_image]
    chosen = made.selection.text_index[:, : config.words.top]
    tables, name = bench.tables, f"{item.record.index:06d}-{item.key[:12]}"
    rows = make_rows(
        tables["explanations"],
        image_id=ids,
        class_id=class_ids,
        text_ids=_named(chosen, shared["text_ids"]),
        coefficients=_kept(chosen, made.selection.coefficients[:, : config.words.top]),
        group_ids=list(order),
        group_contributions=list(np.take_along_axis(made.group_contributions, order, axis=1)),
    )
    parts = [write_part(bench.store, tables["explanations"], rows, name)]
    if "confidence" in shared:
        sure = explanation_confidence(contrasted * pooled, shared["confidence"], made.selection)
        table = tables["confidences"]
        parts.append(write_part(bench.store, table, confidence_rows(table, image=(ids, sure)), name))
    return parts


def _evidence(
    bench: Bench, record: ShardRecord, shared: dict[str, Array]
) -> tuple[Array, Array, NDArray[np.float32], NDArray[np.float32]]:
    """A shard's ids (B,), predicted classes (B,), pooled activations (B, K) and channel weights (B, K)."""
    images, activations = record.part("images"), record.part("activations")
    if images is None or activations is None:
        raise ValueError(f"shard {record.index} has no images to explain")
    rows = read_part(bench.store, images, ["image_id", "prediction"])
    ids, class_ids = rows["image_id"].to_numpy(), rows["prediction"].to_numpy()
    found = read_part(bench.store, activations)
    pooled = as_matrix(found["pooled"].combine_chunks())[np.searchsorted(found["image_id"].to_numpy(), ids)]
    if "head" in shared:
        return ids, class_ids, pooled, shared["head"][class_ids]
    weight_ids, weights = read_weights(bench.store, record.partial)
    order = np.argsort(weight_ids)
    return ids, class_ids, pooled, weights[order][np.searchsorted(weight_ids[order], ids)]


def explanation_items(records: Sequence[ShardRecord], shared: File, key: str) -> list[ExplainItem]:
    """One item per shard that has images."""
    return [ExplainItem(record, shared, key) for record in records if record.images]
