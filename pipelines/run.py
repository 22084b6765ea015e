"""The whole run: plan, extract, directions, describe, publish. Resumes by itself; commits once, at the end.

Each piece of work has a record under a key of all that shaped it (see ``ledger``), so a second call does
what is missing and nothing else. *n in = n ok + n errors* is checked before anything is committed.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial as bind
from typing import Any

from pipelines import describe, directions, extract, findings, proofs, publish, regions
from pipelines.banks import doubts
from pipelines.bench import Bench, digest
from pipelines.config import Config
from pipelines.decoding import Decoder
from pipelines.events import EventLog
from pipelines.execute import Pool, open_pool
from pipelines.extract import SHARDS, ShardRecord, extract_shard
from pipelines.formats import cam_doubts, decide
from pipelines.frozen import keep_plan, newest, plan_run, with_added
from pipelines.images import ImagePlan
from pipelines.labels import class_ids_of, read_aliases
from pipelines.ledger import MAYBE_PARTS, PART_LISTS, PARTS, WORK_FILES, File, Ledger, WorkFile
from pipelines.proof_images import Sample
from pipelines.spread import Progress, Report, Spreader
from store.errors import RunIncomplete, SnapshotConflict
from store.manifest import Manifest, PartRecord, snapshots
from store.reader import read_part
from store.signs import at_work
from store.storage import open_storage
from store.trial import try_storage
from textcam.texts import TextBank, load_bank


@dataclass(frozen=True)
class RunSummary:
    """What a finished run made, and what of its text bank (see ``pipelines.banks``) and of its CAMs (see
    ``pipelines.formats``) is worth another look."""

    store: str
    snapshot: int
    images: int
    errors: int
    findings: int
    seconds: float
    new: bool
    duplicate_texts: tuple[str, ...] = ()
    near_duplicate_texts: tuple[str, ...] = ()
    truncated_texts: tuple[str, ...] = ()
    cam_doubts: tuple[str, ...] = ()


def precompute(config: Config, report: Report = lambda progress: None) -> RunSummary:
    """Run everything that is not done yet, and commit a snapshot.

    Raises SourceError, ModelError or ConfigError before any work; RunIncomplete if too many images failed or
    some shards could not be finished: then nothing is committed and the next call goes on from there.
    """
    started = time.monotonic()
    report(Progress("plan", 0, 1))
    bench, plan = prepare(config, report)
    report(Progress("plan", 1, 1, images=plan.rows.num_rows))
    manifest, new = carry_out(bench, plan, report)
    return summary(bench, manifest, new, time.monotonic() - started)


def prepare(config: Config, report: Report = lambda progress: None) -> tuple[Bench, ImagePlan]:
    """The models, in number formats that are decided, and the images of a run. Raises SourceError, ModelError
    or ConfigError."""
    base = newest(open_storage(config.store))
    config = with_added(config, base)
    load_bank(config.texts.bank, config.texts.templates)  # a bad bank is refused now, not after the images
    bench = Bench(config)
    plan = plan_run(config, bench.store, base)
    bench.classifier.cam_method(config.cam.method)  # and so is a way that this classifier does not have
    aliases = read_aliases(config.classifier.class_names)
    bench.labels = class_ids_of(plan.labels, bench.classifier.class_names, aliases)
    bench.use_sides()
    decide(bench, plan, base, report)
    bench.cam_doubts = cam_doubts(bench, plan)
    return bench, plan


def summary(bench: Bench, manifest: Manifest, new: bool, seconds: float) -> RunSummary:
    """What a run made."""
    rows = {name: sum(part.rows for part in manifest.of(name)) for name in ("images", "errors", "findings")}
    return RunSummary(
        store=bench.config.store,
        snapshot=manifest.snapshot,
        images=rows["images"],
        errors=rows["errors"],
        findings=rows["findings"],
        seconds=seconds,
        new=new,
        cam_doubts=bench.cam_doubts,
        **doubts(bench, manifest),
    )


class Run(Spreader):
    """One run: the stages in order, each a method that gives what the next one needs."""

    def __init__(self, bench: Bench, plan: ImagePlan, pool: Pool, ledger: Ledger, report: Report) -> None:
        super().__init__(pool, ledger, report, EventLog(bench.config.run.events))
        self.bench, self.plan, self.config, self.ledger = bench, plan, bench.config, ledger

    def logged(self) -> tuple[Manifest, bool]:
        """``everything``, with its beginning and its end in the event log."""
        planned = self.plan.rows.num_rows
        self.log.write("run", store=self.config.store, images=planned, shards=len(self.plan))
        try:
            manifest, new = self.everything()
            self.log.write("end", snapshot=manifest.snapshot, new=new)
            return manifest, new
        except BaseException as error:
            self.log.write("stopped", error=type(error).__name__, what=getattr(error, "what", str(error)))
            raise
        finally:
            self.log.close()

    def everything(self) -> tuple[Manifest, bool]:
        """All stages. Returns the committed manifest and whether it is a new one."""
        shards = self.extract_shards()
        self.check_counts(shards, self.plan.rows.num_rows)
        key, examples, fitted, examples_part = self.fit_directions(shards)
        described = self.explain(shards, key, examples, fitted)
        parts = [part for shard in shards for part in shard.parts if self.kept(part)]
        parts += [
            examples_part,
            *described.parts,
            *self.prove(shards, described, self.audit(shards, described)),
            *self.maps(shards, described),
        ]
        self.report(Progress("commit", 0, 1))
        before = snapshots(self.bench.store)
        prints = self.fingerprints(described.bank)
        manifest = publish.publish(self.bench, prints, parts, self.check_newest)
        self.report(Progress("commit", 1, 1))
        return manifest, manifest.snapshot not in before

    def kept(self, part: PartRecord) -> bool:
        """Whether a part of a shard goes into the snapshot. Without ``activations`` theirs stay with the
        run's own files, for its later stages and the next run, until the store is pruned."""
        return part.table != "activations" or self.config.activations

    def check_newest(self, now: Manifest | None) -> None:
        """That nobody added images meanwhile: this run does not have them. Raises SnapshotConflict."""
        if with_added(self.config, now).added != self.config.added:
            raise SnapshotConflict(
                "Images were added to this store while the run was at work; nothing was committed.",
                where=self.config.store,
                fix="Run the same command again: it takes them up.",
            )

    def fingerprints(self, bank: TextBank) -> dict[str, str]:
        """What made this store."""
        return {
            "classifier": self.bench.classifier.fingerprint,
            "encoder": self.bench.encoder.fingerprint,
            "texts": bank.fingerprint,
            "plan": self.plan.fingerprint,
            "configuration": digest(self.config.resolved()),
        }

    # --- the stages -----------------------------------------------------------------------------------------

    def extract_shards(self) -> list[ShardRecord]:
        """Both models over all images."""
        items = ((extract.shard_key(self.bench, shard), shard) for shard in self.plan.shards())
        count: Callable[[ShardRecord], tuple[int, int]] = lambda record: (record.images, record.errors)  # noqa: E731
        planned = self.plan.rows.num_rows
        return self.spread("extract", extract_shard, items, len(self.plan), SHARDS, count, planned)

    def check_counts(self, shards: Sequence[ShardRecord], planned: int) -> None:
        """Nothing of the planned images lost, and not too much unusable."""
        good, bad = sum(shard.images for shard in shards), sum(shard.errors for shard in shards)
        if good + bad != planned:
            raise RunIncomplete(
                f"{planned} images went in, {good} + {bad} came out.", where=self.config.store
            )
        if bad > self.config.run.max_error_rate * planned or good == 0:
            reasons = self._some_errors(shards)
            raise RunIncomplete(
                f"{bad} of {planned} images could not be used; "
                f"run.max_error_rate allows {self.config.run.max_error_rate:.2%}. Nothing was committed.",
                where=reasons,
                fix="Mend or remove these files, or raise run.max_error_rate.",
            )

    def _some_errors(self, shards: Sequence[ShardRecord], most: int = 5) -> str:
        lines: list[str] = []
        for shard in shards:
            part = shard.part("errors")
            if part is not None and len(lines) < most:
                rows = read_part(self.bench.store, part).slice(0, most - len(lines)).to_pylist()
                lines += [f"{row['uri']} ({row['stage']}: {row['reason']})" for row in rows]
        return "; ".join(lines)

    def fit_directions(
        self, shards: Sequence[ShardRecord]
    ) -> tuple[str, directions.Examples, directions.Fitted, PartRecord]:
        """Examples, and directions from whole images and from regions; and the key of it all."""
        settings, bench = self.config.directions, self.bench
        key = digest([shard.key for shard in shards], settings.model_dump(mode="json"))

        def merge() -> tuple[Any, list[File]]:
            self.report(Progress("examples", 0, 1))
            file, part = directions.merge_examples(bench, self.merged_partials(shards), key)
            return [WORK_FILES.dump(file), PARTS.dump(part)], [file, part]

        merged, part = self.ledger.once("examples", key, merge)
        self.report(Progress("examples", 1, 1))
        examples = directions.read_examples(bench, WORK_FILES.load(merged))
        examples_part = PARTS.load(part)

        def fit() -> tuple[Any, list[File]]:
            vectors = self.region_vectors(shards, examples)
            self.report(Progress("directions", 0, 1))
            file = directions.fit(bench, shards, examples, vectors, key)
            return WORK_FILES.dump(file), [file, examples_part]

        fitted = WORK_FILES.load(self.ledger.once("directions", key, fit))
        self.report(Progress("directions", 1, 1))
        return key, examples, directions.read_fitted(bench, fitted), examples_part

    def merged_partials(self, shards: Sequence[ShardRecord]) -> list[WorkFile]:
        """At most ``FAN_IN`` partials instead of one a shard: workers merge them, level by level."""
        partials = [shard.partial for shard in shards]
        while len(partials) > directions.FAN_IN:
            items = [(one.key, one) for one in directions.bundles(partials)]
            partials = self.spread("merge", directions.merge_bundle, items, len(items), WORK_FILES)
        return partials

    def region_vectors(
        self, shards: Sequence[ShardRecord], examples: directions.Examples
    ) -> list[regions.RegionVectors]:
        """The second pass, over the examples that it was not yet done for."""
        if not (self.config.directions.regions and self.bench.encoder.has_dense):
            return []
        known = regions.known_vectors(self.ledger, shards)
        missing = regions.region_items(self.bench, self.plan, shards, examples.pairs, known)
        items = [(item.key, item) for item in missing]
        if not items:
            return known
        made = self.spread(regions.STAGE, regions.region_vectors, items, len(items), regions.REGIONS)
        return [*known, *made]

    def explain(
        self, shards: Sequence[ShardRecord], directions_key: str, examples: directions.Examples, fitted: Any
    ) -> describe.Described:
        """Words for channels and groups, and explanations of all images."""
        bench = self.bench
        bank = load_bank(self.config.texts.bank, self.config.texts.templates)
        texts_key = digest(bench.model_key("encoder"), bank.fingerprint, bench.classifier.class_names)

        def embed() -> tuple[Any, list[File]]:
            self.report(Progress("texts", 0, 1))
            file = describe.embed_texts(bench, bank, texts_key)
            return WORK_FILES.dump(file), [file]

        texts = WORK_FILES.load(self.ledger.once("texts", texts_key, embed))
        self.report(Progress("texts", 1, 1))
        sections = [self.config.words, self.config.groups]
        shaping = [one.model_dump(mode="json") for one in sections]
        key = digest(directions_key, texts_key, shaping, describe.METHOD)

        def name_channels() -> tuple[Any, Sequence[File]]:
            self.report(Progress("words", 0, 1))
            shared, parts = describe.describe_channels(bench, shards, examples, fitted, bank, texts, key)
            return [WORK_FILES.dump(shared), [PARTS.dump(part) for part in parts]], [shared, texts, *parts]

        shared_plain, plain_parts = self.ledger.once("words", key, name_channels)
        self.report(Progress("words", 1, 1))
        shared, parts = WORK_FILES.load(shared_plain), [PARTS.load(part) for part in plain_parts]
        items = [
            (digest(key, one.record.key), one) for one in describe.explanation_items(shards, shared, key)
        ]
        explained = self.spread("explain", describe.explain_shard, items, len(items), PART_LISTS)
        parts += [part for of_shard in explained for part in of_shard]
        return describe.Described(key, bank, shared, tuple(parts))

    def audit(self, shards: Sequence[ShardRecord], described: describe.Described) -> list[PartRecord]:
        """Classes, their texts, and findings."""
        bench = self.bench
        key = digest(described.key, self.config.report.model_dump(mode="json"))

        def work() -> tuple[Any, Sequence[File]]:
            self.report(Progress("audit", 0, 1))
            parts = findings.audit(bench, shards, described, key)
            return [PARTS.dump(part) for part in parts], parts

        plain = self.ledger.once("audit", key, work)
        self.report(Progress("audit", 1, 1))
        return [PARTS.load(part) for part in plain]

    def prove(
        self, shards: Sequence[ShardRecord], described: describe.Described, parts: list[PartRecord]
    ) -> list[PartRecord]:
        """The same parts, with the first findings put to the proof. Opens their images again."""
        bench, settings = self.bench, self.config.proof
        if not (settings.findings and bench.encoder.has_dense and len(bench.classifier.class_names) > 1):
            return parts
        found = proofs.to_prove(bench, parts)
        if not found:
            return parts
        pairs = [(one.class_id, one.text_id, one.group_id) for one in found]
        key = digest(described.key, pairs, settings.images)

        def choose() -> tuple[Any, list[File]]:
            samples = proofs.choose_samples(bench, shards, described, found)
            return [asdict(one) for one in samples], []

        samples = [Sample.from_dict(one) for one in self.ledger.once("proof images", key, choose)]
        units = proofs.proof_items(bench, self.plan, described, found, samples)
        self.report(Progress("proof", 0, len(units), images=sum(len(unit.shard) for unit in units)))
        items = [(unit.shard.digest, unit) for unit in units]
        count: Callable[[proofs.Asked], tuple[int, int]] = lambda record: (record.images, 0)  # noqa: E731
        asked = self.spread("proof", proofs.prove_finding, items, len(items), proofs.ASKED, count)
        return proofs.with_proofs(bench, parts, found, asked, described.key)

    def maps(self, shards: Sequence[ShardRecord], described: describe.Described) -> list[PartRecord]:
        """The maps that pages show."""
        settings = [self.config.report.exemplars, [shard.key for shard in shards]]
        chosen = self.ledger.once(
            "exemplars", digest(*settings), lambda: (publish.choose_exemplars(self.bench, shards), [])
        )
        exemplars = [(int(image_id), int(class_id)) for image_id, class_id in chosen]
        key = digest(described.key, exemplars, self.config.cam.model_dump(mode="json"))
        units = publish.map_items(self.plan, exemplars, described.shared, key)
        items = [(digest(key, unit.shard.index), unit) for unit in units]
        made = self.spread("maps", publish.draw_maps, items, len(items), MAYBE_PARTS)
        return [part for part in made if part is not None]


def _own_pool(bench: Bench) -> Pool:
    make, decoder = bind(Bench, bench.config, bench.labels), bind(Decoder, [bench.config])
    return open_pool(bench.config.run, make, decoder)


def carry_out(
    bench: Bench,
    plan: ImagePlan,
    report: Report,
    make: Callable[[Bench, ImagePlan, Pool, Ledger, Report], Run] = Run,
    pool: Pool | None = None,
) -> tuple[Manifest, bool]:
    """All stages of a run (see ``Run.everything``), its plan kept and prunes kept away.

    Its workers are its own, unless it is given a ``pool``.
    """
    config = bench.config
    with ExitStack() as stack:
        stack.enter_context(at_work(bench.store))
        try_storage(bench.store)
        own = pool or stack.enter_context(_own_pool(bench))
        keep_plan(config, bench.store, plan)
        return make(bench, plan, own, Ledger(bench.store), report).logged()
