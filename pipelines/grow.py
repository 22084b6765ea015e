"""Growth: new images into a new snapshot of a store, without doing its old shards again.

The old images' rows stay the very same files; the new ones get shards with the numbers that follow. What is
about all images together (examples, directions, words, explanations, audit) is made anew, from the stored
vectors. Old originals are opened again only for the maps that pages show, and for the second pass where an
image becomes an example that was none before; one that is gone is then passed over, as its picture could not
be shown either.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.bench import Bench
from pipelines.config import SHAPING, Config, ImagesSection, RunSection
from pipelines.extract import ShardRecord
from pipelines.frozen import kept_plan, rebuilt_plan, shards_of
from pipelines.images import ImagePlan, check_ids, cut, in_order
from pipelines.labels import class_ids_of, read_aliases
from pipelines.run import Run, carry_out
from pipelines.sources import list_source, named
from pipelines.spread import Progress, Report
from store.addresses import scheme_of
from store.errors import ConfigError, ModelError, RunIncomplete, SnapshotConflict
from store.manifest import Manifest, read_manifest
from store.reader import Snapshot
from store.storage import Storage, open_storage
from textcam.source_images import below, lies_in, root_of
from textcam.trust import check_trusted

ANEW = "Restore work/ or the images; or run `textcam precompute` over the images that there are."


@dataclass(frozen=True)
class GrowthSummary:
    """What an addition made. ``listed`` images were found, ``known`` of them were in the store already, and
    ``added`` of the others could be used; ``new`` is False where nothing was left to add.
    """

    store: str
    snapshot: int
    listed: int
    known: int
    added: int
    images: int
    errors: int
    findings: int
    seconds: float
    new: bool


def add(
    store: str,
    images: ImagesSection,
    run: RunSection | None = None,
    report: Report = lambda progress: None,
    *,
    trust_code: bool = False,
) -> GrowthSummary:
    """Add images to the newest snapshot of a store, and commit the next one.

    Models and settings are those that the store remembers; ``run`` says how the work is spread. Images that
    the store has, by URI, are left as they are. Models that are code of the store's own are loaded only with
    ``trust_code`` (see ``textcam.trust``). Raises StoreNotFound, SourceError, ModelError and ConfigError
    before any work; RunIncomplete if too many of the new images failed or an old one would be lost; and
    SnapshotConflict if somebody else committed meanwhile. Then nothing was committed.
    """
    started = time.monotonic()
    report(Progress("plan", 0, 1))
    if not scheme_of(images.uri):
        images = images.model_copy(update={"uri": str(Path(images.uri).resolve())})
    storage = open_storage(store)
    base = read_manifest(storage)
    config, listed = list_new(remembered(base, store, run or RunSection()), images)
    bench = Bench(config)
    old = old_plan(config, storage, base)
    fresh = listed.filter(pc.invert(pc.is_in(listed["uri"], value_set=old.rows["uri"])))
    report(Progress("plan", 1, 1, images=fresh.num_rows))
    manifest, new = base, False
    if fresh.num_rows:
        check_trusted(base.config, "classifier", "encoder", trust_code=trust_code)
        check_models(bench, base)
        plan = grown(old, fresh, config.run.shard_size)
        bench.labels = same_labels(bench, old, plan)
        manifest, new = carry_out(bench, plan, report, bind(Growth, base=base, fresh=fresh.num_rows))
    counts = {name: sum(part.rows for part in manifest.of(name)) for name in ("images", "errors", "findings")}
    return GrowthSummary(
        store=config.store,
        snapshot=manifest.snapshot,
        listed=listed.num_rows,
        known=listed.num_rows - fresh.num_rows,
        added=counts["images"] - sum(part.rows for part in base.of("images")),
        **counts,
        seconds=time.monotonic() - started,
        new=new,
    )


# --- what is added to what --------------------------------------------------------------------------------


def remembered(base: Manifest, store: str, run: RunSection) -> Config:
    """The configuration that made a snapshot, with those settings of its run that shape numbers, and no other
    of what it says of a run: a store does not choose where work is done or what is written.
    """
    told = {name: value for name, value in base.config.items() if name in Config.model_fields}
    shaping = {name: value for name, value in told.pop("run", {}).items() if name in SHAPING}
    told["classifier"] = {"two_sided": False, **told["classifier"]}  # an older store does not say
    return Config.model_validate({**told, "store": store, "run": {**run.model_dump(), **shaping}})


def list_new(config: Config, images: ImagesSection) -> tuple[Config, pa.Table]:
    """The images to be added, under the URIs that they get, and the configuration that knows their source.

    A folder inside one that the store has its images from is no new source. Raises SourceError.
    """
    sources = [config.images, *config.added]
    uris = [one.uri for one in sources]
    for at, source in enumerate(sources):
        if source.format == images.format == "folder" and lies_in(root_of(images.uri), root_of(source.uri)):
            way = below(root_of(images.uri), root_of(source.uri))
            whole = source.model_copy(update={"limit": images.limit, "labels": images.labels})
            return config, named(list_source(whole, f"{way}/" if way else ""), at, uris)
    if images not in sources:
        config = config.model_copy(update={"added": (*config.added, images)})
        uris.append(images.uri)
    at = [*sources, images].index(images)
    return config, named(list_source(images), at, uris)


def old_plan(config: Config, storage: Storage, base: Manifest) -> ImagePlan:
    """The plan of a snapshot: as it was kept, or else from the snapshot's tables and its sources.

    Raises SourceError or RunIncomplete where neither is complete.
    """
    plan = kept_plan(storage, base.fingerprints["plan"])
    if plan is not None:
        return plan
    before = config.model_copy(update={"added": config.added[: len(base.config.get("added", ()))]})
    plan, gone = rebuilt_plan(before, storage, base)
    if gone:
        raise RunIncomplete(
            f"The plan of this store is lost, and {gone} of its images are no longer where they were, "
            "so that it cannot be made again.",
            where=storage.uri,
            fix=ANEW,
        )
    return plan


def grown(old: ImagePlan, fresh: pa.Table, shard_size: int) -> ImagePlan:
    """The plan of old and new images together. Raises SourceError if two of them share an id."""
    columns = [name for name in old.rows.schema.names if name != "shard"]
    rows = pa.concat_tables([old.rows.select(columns), fresh.select(columns)])
    rows = in_order(rows)
    check_ids(rows, "the store and the new images")
    return cut(rows, shard_size, old.rows.select(["uri", "shard"]))


# --- what must not change ---------------------------------------------------------------------------------


def check_models(bench: Bench, base: Manifest) -> None:
    """Raise ModelError unless both models are those that made the store."""
    for name, model in {"classifier": bench.classifier, "encoder": bench.encoder}.items():
        if not model.made(base.fingerprints[name]):
            raise ModelError(
                f"The {name} is not the one that made this store: weights, layer or preprocessing differ.",
                where=bench.config.store,
                fix="Give the old one back its place, or make a new store with `textcam precompute`.",
            )


def same_labels(bench: Bench, old: ImagePlan, plan: ImagePlan) -> dict[str, int]:
    """Which class each label is, with the new images. Raises ConfigError if an old label would change."""
    names = bench.classifier.class_names
    aliases = read_aliases(bench.config.classifier.class_names)
    before, now = (class_ids_of(one.labels, names, aliases) for one in (old, plan))
    changed = [label for label in old.labels if before.get(label) != now.get(label)]
    if changed:
        raise ConfigError(
            f"With these images, {len(changed)} old labels would be other classes than before.",
            where=", ".join(changed[:5]),
            fix="Add them without labels (--labels none), or precompute all images together anew.",
        )
    return now


class Growth(Run):
    """A run that builds on the snapshot ``base``, with ``fresh`` new images."""

    def __init__(self, *arguments: object, base: Manifest, fresh: int) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.base, self.fresh = base, fresh
        snapshot = Snapshot(self.bench.store, base)
        self.old_shards = set(pc.unique(shards_of(snapshot)["shard"]).to_pylist())
        self.good_before = Counter(snapshot.table("images", ["shard"])["shard"].to_pylist())

    def check_counts(self, shards: Sequence[ShardRecord], planned: int) -> None:
        """No old image lost, and not too many of the new ones unusable."""
        old = [shard for shard in shards if shard.index in self.old_shards]
        short = [shard for shard in old if shard.images < self.good_before[shard.index]]
        if short:
            for shard in short:
                self.ledger.forget("extract", shard.key)
            lost = sum(self.good_before[shard.index] - shard.images for shard in short)
            raise RunIncomplete(
                f"{lost} images of snapshot {self.base.snapshot} can no longer be read, and the records of "
                "their shards are gone or of another version; nothing was committed.",
                where=self._some_errors(short),
                fix=ANEW,
            )
        super().check_counts([one for one in shards if one.index not in self.old_shards], self.fresh)

    def check_newest(self, now: Manifest | None) -> None:
        """That the snapshot which this run adds to is still the newest. Raises SnapshotConflict."""
        if now is None or now.snapshot != self.base.snapshot:
            raise SnapshotConflict(
                f"Somebody else committed after snapshot {self.base.snapshot}; nothing was committed.",
                where=self.config.store,
                fix="Run the same command again: it builds on the newer snapshot.",
            )
