"""The frozen plan: an image that has a shard keeps it, so that shards are done once and sets can grow.

Which image is in which shard stands in the snapshot itself: the column ``shard`` of ``images``, and, for the
images that could not be used, the number that the name of their part of ``errors`` begins with. Where each
image lies in its source, and the stamp of its file, is kept with the run's records, under the plan's own
fingerprint.
"""

import hashlib
import io
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import Config, ImagesSection
from pipelines.images import ImagePlan, plan_shards
from pipelines.ledger import Ledger, WorkFile
from store.manifest import Manifest, read_manifest, snapshots
from store.prune import plan_path
from store.reader import Snapshot, read_part
from store.storage import Storage

STAGE = "plan"


def newest(storage: Storage) -> Manifest | None:
    """The newest snapshot's manifest, if anything was committed."""
    return read_manifest(storage) if snapshots(storage) else None


def with_added(config: Config, base: Manifest | None) -> Config:
    """The configuration with what `textcam add` added to the store, if it is about the same images.

    So a rerun with other settings does not lose them.
    """
    if base is None or base.config.get("images", {}).get("uri") != config.images.uri:
        return config
    before = [ImagesSection.model_validate(one) for one in base.config.get("added", ())]
    return config.model_copy(update={"added": (*before, *(one for one in config.added if one not in before))})


def plan_run(config: Config, storage: Storage, base: Manifest | None) -> ImagePlan:
    """The images of a run: those that the newest snapshot has, or a run that was begun before, stay in their
    shards; the others get new ones. Raises SourceError.
    """
    ledger = Ledger(storage)
    frozen = None
    if base is not None:
        kept = kept_plan(storage, base.fingerprints.get("plan", ""))
        frozen = shards_of(Snapshot(storage, base)) if kept is None else kept.rows.select(["uri", "shard"])
    elif (begun := _read(storage, ledger.get(STAGE, _begun(config)))) is not None:
        frozen = begun.rows.select(["uri", "shard"])
    return plan_shards(config.images, config.run.shard_size, config.added, frozen)


def shards_of(snapshot: Snapshot) -> pa.Table:
    """The shard of every image (uri, shard), used or not."""
    tables = [snapshot.table("images", ["uri", "shard"])]
    for part in snapshot.parts("errors"):
        number = part.path.rpartition("/")[2].partition("-")[0]
        uris = read_part(snapshot.storage, part, ["uri"])
        if number.isdecimal():
            shard = pa.array([int(number)] * uris.num_rows, pa.int32())
            tables.append(uris.append_column(pa.field("shard", pa.int32(), nullable=False), shard))
    return pa.concat_tables([one.cast(tables[0].schema) for one in tables]).combine_chunks()


# --- kept between runs ------------------------------------------------------------------------------------


def _begun(config: Config) -> str:
    """The key of the plan that was begun last; before a first commit, another shard size begins anew."""
    return f"begun-{config.run.shard_size}"


def keep_plan(config: Config, storage: Storage, plan: ImagePlan) -> None:
    """Write the plan down, unless it is there: under its fingerprint, and as the one that was begun last."""
    ledger, name = Ledger(storage), plan.fingerprint
    sink = io.BytesIO()
    pq.write_table(plan.rows.replace_schema_metadata(None), sink, compression="zstd")
    data = sink.getvalue()
    file = WorkFile(plan_path(name), len(data), hashlib.sha256(data).hexdigest())
    if ledger.get(STAGE, name) != asdict(file):
        storage.put(file.path, data)
        ledger.put(STAGE, name, asdict(file), [file])
    if ledger.get(STAGE, _begun(config)) != asdict(file):
        ledger.put(STAGE, _begun(config), asdict(file), [file])


def kept_plan(storage: Storage, fingerprint: str) -> ImagePlan | None:
    """The plan with this fingerprint, or None where it is lost."""
    return _read(storage, Ledger(storage).get(STAGE, fingerprint))


def _read(storage: Storage, record: dict[str, object] | None) -> ImagePlan | None:
    if record is None:
        return None
    try:
        data = storage.read(str(record["path"]))
    except FileNotFoundError:
        return None  # pruned since the record was read
    return ImagePlan(pq.read_table(io.BytesIO(data)).combine_chunks())


def rebuilt_plan(config: Config, storage: Storage, base: Manifest) -> tuple[ImagePlan, int]:
    """The plan of a snapshot from its tables and its sources, and how many of its images are gone there.

    Raises SourceError where a whole source is.
    """
    frozen = shards_of(Snapshot(storage, base))
    plan = plan_shards(config.images, config.run.shard_size, config.added, frozen)
    rows = plan.rows.filter(pc.is_in(plan.rows["uri"], value_set=frozen["uri"]))
    return ImagePlan(rows.combine_chunks()), frozen.num_rows - rows.num_rows
