"""Publication: maps for the pages, the classes table, the indexes, and the commit that makes it all
visible."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.bench import Bench
from pipelines.config import IndexSection
from pipelines.extract import ShardRecord
from pipelines.feed import Batch, add_image, stack
from pipelines.images import ImagePlan, Shard
from pipelines.ledger import File, read_arrays
from pipelines.shard_rows import read_rows
from store.errors import Damaged
from store.index import INDEXED, index_table, read_card
from store.manifest import IndexRecord, Manifest, PartRecord, read_manifest, snapshots
from store.reader import Snapshot
from store.schema import WHOLE_MAP
from store.vectors import tier_for
from store.writer import commit, write_part
from textcam.cam import channel_contributions, group_maps, pool
from textcam.explain import group_contributions
from textcam.records import make_rows

GROUP_MAPS = 4  # groups of an image whose maps are kept, those that contribute most
MAP_IMAGES = 256  # images in one unit of work


# --- which images pages show ----------------------------------------------------------------------------


def choose_exemplars(bench: Bench, records: Sequence[ShardRecord]) -> list[tuple[int, int]]:
    """(image_id, class_id) pairs to keep maps of, sorted: per class the surest right images and the surest
    wrong ones, so that pages show what convinces the classifier and what misleads it."""
    count = bench.config.report.exemplars
    if count == 0:
        return []
    kept: dict[tuple[int, bool], list[tuple[float, int]]] = {}
    for record in records:
        rows = read_rows(bench, record, pooled=False, embeddings=False)
        if rows is None:
            continue
        wrong = (rows.labels >= 0) & (rows.labels != rows.predictions)
        for class_id in np.unique(rows.predictions):
            for misled in (False, True):
                mine = np.flatnonzero((rows.predictions == class_id) & (wrong == misled))
                best = mine[np.lexsort((rows.image_ids[mine], -rows.confidences[mine]))][:count]
                merged = kept.get((int(class_id), misled), [])
                merged += [(-float(rows.confidences[row]), int(rows.image_ids[row])) for row in best]
                kept[int(class_id), misled] = sorted(merged)[:count]
    return sorted({(image_id, class_id) for (class_id, _), best in kept.items() for _, image_id in best})


@dataclass(frozen=True)
class MapItem:
    """Some images, the class that each is explained for, and the file with the groups of the channels."""

    shard: Shard
    class_ids: dict[int, int]
    shared: File
    key: str


def map_items(
    plan: ImagePlan, exemplars: Sequence[tuple[int, int]], shared: File, key: str
) -> Iterator[MapItem]:
    """Units of work over the exemplars, in the order of the plan."""
    class_ids = dict(exemplars)
    planned = plan.rows["image_id"].to_numpy()
    rows = plan.rows.filter(pa.array(np.isin(planned, np.array(list(class_ids), np.int64))))
    for index in range(-(-rows.num_rows // MAP_IMAGES)):
        piece = rows.slice(index * MAP_IMAGES, MAP_IMAGES)
        mine = {int(one): class_ids[int(one)] for one in piece["image_id"].to_pylist()}
        yield MapItem(Shard(index, piece, key), mine, shared, key)


def draw_maps(bench: Bench, item: MapItem) -> PartRecord | None:
    """Whole map and largest group maps of some images, as rows of ``maps``. A stage for ``execute``."""
    return bench.with_room(lambda size: _draw_maps(bench, item, size))


def _draw_maps(bench: Bench, item: MapItem, size: int) -> PartRecord | None:
    group_of = read_arrays(bench.store, item.shared)["group_of"]
    groups = int(group_of.max()) + 1
    refs = list(item.shard.refs())
    rows: list[tuple[int, int, int, NDArray[np.uint8], float]] = []
    for first in range(0, len(refs), size):
        batch = Batch()
        for ref in refs[first : first + size]:
            add_image(bench, ref, batch, refs)
        if not len(batch):
            continue
        ids = [ref.image_id for ref in batch.refs]
        class_ids = np.array([item.class_ids[one] for one in ids])
        pixels = stack(batch.for_classifier(), size)
        padded = np.concatenate([class_ids, np.zeros(len(pixels) - len(ids), class_ids.dtype)])
        seen, weights = bench.classifier.forward_cam(pixels, padded, bench.config.cam.method, maps=True)
        assert seen.maps is not None
        maps, weights = seen.maps[: len(ids)], weights[: len(ids)]  # (B, K, h, w), (B, K)
        by_group = group_maps(maps, weights, group_of, groups)  # (B, G, h, w)
        share = group_contributions(channel_contributions(weights, pool(maps)), group_of, groups)
        for row, image_id in enumerate(ids):
            if not np.isfinite(by_group[row]).all():
                continue
            chosen = np.argsort(-share[row], kind="stable")[:GROUP_MAPS]
            rows.append((image_id, int(class_ids[row]), WHOLE_MAP, *quantise(by_group[row].sum(0))))
            rows += [
                (image_id, int(class_ids[row]), int(group), *quantise(by_group[row, group]))
                for group in chosen
            ]
    if not rows:
        return None
    table = bench.tables["maps"]
    of_images, classes, group_ids, drawn, scales = zip(*rows, strict=True)
    made = make_rows(
        table,
        image_id=of_images,
        class_id=classes,
        group_id=group_ids,
        map=np.stack(drawn),
        scale=list(scales),
    )
    return write_part(bench.store, table, made, f"{item.shard.index:06d}-{item.key[:12]}")


def quantise(saliency: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float]:
    """A map (h, w) as bytes (h*w,) and the value of 255. Only what speaks for the class is kept."""
    positive = np.maximum(saliency, 0).ravel()
    scale = float(positive.max())
    if scale == 0:
        return np.zeros(positive.size, np.uint8), 0.0
    return np.round(positive / scale * 255).astype(np.uint8), scale


# --- indexes and commit ---------------------------------------------------------------------------------


def publish(
    bench: Bench,
    fingerprints: dict[str, str],
    parts: Sequence[PartRecord],
    check: Callable[[Manifest | None], None] = lambda newest: None,
) -> Manifest:
    """Commit a snapshot of these parts; the newest one is kept if it already says the same.

    ``check`` may refuse to build on the newest one. Raises SnapshotConflict if another run committed first.
    """
    numbers = snapshots(bench.store)
    newest = read_manifest(bench.store, numbers[-1]) if numbers else None
    check(newest)
    bare = Manifest(
        snapshot=newest.snapshot + 1 if newest else 1,
        parent=newest.snapshot if newest else None,
        dims=bench.dims,
        fingerprints=fingerprints,
        config={
            **bench.config.resolved(),
            "map_size": list(bench.classifier.map_size),
            "view_share": bench.classifier.view_share,
        },
        parts=tuple(parts),
    )
    made = replace(bare, indexes=build_indexes(Snapshot(bench.store, bare), newest, bench.config.index))
    same = newest and replace(made, snapshot=newest.snapshot, parent=newest.parent)
    if newest and same and (same == newest or same.to_json() == newest.to_json()):
        return newest
    return commit(bench.store, made)


def build_indexes(
    snapshot: Snapshot, newest: Manifest | None, wanted: IndexSection
) -> tuple[IndexRecord, ...]:
    """One vector index for each indexed table that has rows; those of unchanged tables are taken over if
    they are as wanted. Raises IndexMismatch where one finds less than the limit.
    """
    made = []
    for table in INDEXED:
        rows = snapshot.count(table)
        tier = wanted.tier if wanted.tier != "auto" and tier_for(rows) != "flat" else tier_for(rows)
        known = newest.index_of(table) if newest and newest.of(table) == snapshot.parts(table) else None
        if known and _is_good(snapshot, known, tier, wanted.min_recall):
            made.append(known)
        elif rows:
            made.append(index_table(snapshot, table, tier=tier, min_recall=wanted.min_recall))
    return tuple(made)


def _is_good(snapshot: Snapshot, known: IndexRecord, tier: str, min_recall: float) -> bool:
    try:
        card = read_card(snapshot.storage, known)
    except Damaged:
        return False  # it is built anew
    return card.tier == tier and card.recall_at_10 >= min_recall
