"""Several classifiers over one decode.

Each classifier has a store of its own, as if it had run alone: the same rows, the same files. What they share
is the work on images: a shard is read, decoded and embedded once, and goes through all classifiers that lack
it. After that each run goes on by itself and finds its shards done. So a classifier that fails costs the
others nothing, one that is added later is the only one that works, and every store can be moved, pruned or
compared without the others. The price: embeddings are kept once a store, 2D bytes an image.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from typing import Any, Self

from pipelines.bench import Bench, digest
from pipelines.config import Config
from pipelines.decoding import Decoder
from pipelines.events import EventLog
from pipelines.execute import Decoders, News, Pool, Stage, open_pool
from pipelines.extract import SHARDS, ShardRecord, extract_for, shard_key
from pipelines.frozen import keep_plan
from pipelines.images import ImagePlan, Shard
from pipelines.ledger import Codec, File, Ledger
from pipelines.run import RunSummary, carry_out, prepare, summary
from pipelines.spread import Progress, Spreader
from pipelines.working import Working
from store.collection import write_names
from store.errors import RunIncomplete, StorageFull, TextcamError
from store.signs import at_work
from store.storage import open_storage


def precompute_together(
    configs: Mapping[str, Config], report: Callable[[str, Progress], None] = lambda name, progress: None
) -> dict[str, RunSummary]:
    """Run several classifiers, by name (see ``config_file.load_configs``), and commit a snapshot for each.

    Raises SourceError, ModelError or ConfigError before any work; RunIncomplete, after the others are
    finished, if some could not be, whatever went wrong with them; StorageFull at once.
    """
    runs = _prepare_all(configs, report)
    write_names(open_storage(_folder(configs)), list(configs))
    made: dict[str, RunSummary] = {}
    failures: dict[str, Exception] = {}
    told = [(bench.config, bench.labels) for bench, _ in runs.values()]
    decoder = bind(Decoder, [config for config, _ in told])
    with open_pool(told[0][0].run, bind(open_benches, told), decoder) as pool:
        extract_together(list(runs.values()), pool, bind(report, "all"))
        for number, (name, (bench, plan)) in enumerate(runs.items()):
            started = time.monotonic()
            try:
                manifest, new = carry_out(bench, plan, bind(report, name), pool=OneOf(pool, number))
                made[name] = summary(bench, manifest, new, time.monotonic() - started)
            except StorageFull:
                raise
            except Exception as error:
                failures[name] = error
    if failures:
        raise RunIncomplete(
            f"{len(failures)} of {len(configs)} classifiers could not be finished; the others are committed.",
            where="\n".join(f"{name}: {_said(error)}" for name, error in failures.items()),
            fix="Run the same command again: it takes up what is missing.",
        ) from next((one for one in failures.values() if not isinstance(one, TextcamError)), None)
    return made


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, TextcamError) else f"{type(error).__name__}: {error}"


def _prepare_all(
    configs: Mapping[str, Config], report: Callable[[str, Progress], None]
) -> dict[str, tuple[Bench, ImagePlan]]:
    runs: dict[str, tuple[Bench, ImagePlan]] = {}
    for name, config in configs.items():
        report("all", Progress("plan", len(runs), len(configs)))
        if not runs:
            bench, plan = prepare(config, bind(report, name))
        else:  # one encoder, in one number format
            first = next(iter(runs.values()))[0]
            own, shared = config.run.format_of("classifier"), first.config.run.format_of("encoder")
            run = config.run.with_formats({"classifier": own, "encoder": shared})
            config = config.model_copy(update={"run": run})
            bench, plan = prepare(config, bind(report, name))
            bench.encoder = first.encoder
        runs[name] = bench, plan
        report("all", Progress("plan", len(runs), len(configs), images=plan.rows.num_rows))
    return runs


def _folder(configs: Mapping[str, Config]) -> str:
    return next(iter(configs.values())).store.rpartition("/")[0]


class OneOf:
    """A pool whose workers hold several benches, as the pool of one of them."""

    def __init__(self, pool: Pool, number: int) -> None:
        self._pool, self._number = pool, number

    def map(self, stage: Stage, items: Iterable[Any]) -> Iterator[News[Any]]:
        """See Pool.map."""
        return self._pool.map(bind(_with_bench, stage, self._number), items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The workers belong to all."""


def _with_bench(stage: Stage, number: int, benches: Sequence[Bench], item: Any) -> Any:
    return stage(benches[number], item)


# --- the shards that several lack ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SharedShard:
    """A shard, and the numbers of the classifiers that lack it."""

    shard: Shard
    numbers: tuple[int, ...]


def extract_together(
    runs: Sequence[tuple[Bench, ImagePlan]],
    pool: Pool,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Extract the shards that at least two of the runs lack, and write them into the records of each.

    A shard that cannot be finished so is left to the runs, and so are all if the work stops: they find out
    whose fault it is.
    """
    for bench, plan in runs:
        keep_plan(bench.config, bench.store, plan)
    items = shared_shards(runs)
    if not items:
        return
    config = runs[0][0].config
    images = sum(len(item.shard) for _, item in items)
    with contextlib.ExitStack() as stack:
        ledgers = []
        for bench, _ in runs:
            stack.enter_context(at_work(bench.store))
            ledgers.append(Ledger(bench.store))
        log = EventLog(config.run.events)
        stack.callback(log.close)
        spreader = Spreader(pool, _Shared(ledgers), report, log)
        with contextlib.suppress(Exception):
            spreader.spread("extract", extract_shared, items, len(items), RECORDS, _counts, images)


def shared_shards(runs: Sequence[tuple[Bench, ImagePlan]]) -> list[tuple[str, SharedShard]]:
    """Shards that two or more of the runs have and lack, with a key each."""
    lacking: dict[tuple[int, str], list[int]] = {}
    shards: dict[tuple[int, str], Shard] = {}
    for number, (bench, plan) in enumerate(runs):
        keyed = {shard_key(bench, shard): shard for shard in plan.shards()}
        done = Ledger(bench.store).get_all("extract", list(keyed))
        for shard in (shard for key, shard in keyed.items() if key not in done):
            shards[shard.index, shard.digest] = shard
            lacking.setdefault((shard.index, shard.digest), []).append(number)
    return [
        (digest(index, content, numbers), SharedShard(shards[index, content], tuple(numbers)))
        for (index, content), numbers in lacking.items()
        if len(numbers) > 1
    ]


def open_benches(
    told: Sequence[tuple[Config, dict[str, int]]], decoders: Decoders | None = None
) -> list[Bench]:
    """What one worker holds: a bench for each classifier, with one encoder."""
    benches = [Bench(config, labels, decoders) for config, labels in told]
    for bench in benches[1:]:
        bench.encoder = benches[0].encoder
    return benches


def extract_shared(
    benches: Sequence[Bench], item: SharedShard
) -> Generator[Working, None, list[tuple[int, ShardRecord]]]:
    """One shard for all classifiers that lack it. A stage for ``execute``."""
    records = yield from extract_for([benches[number] for number in item.numbers], item.shard)
    return list(zip(item.numbers, records, strict=True))


def _counts(records: Sequence[tuple[int, ShardRecord]]) -> tuple[int, int]:
    return min(one.images for _, one in records), max(one.errors for _, one in records)


RECORDS = Codec(
    lambda records: [[number, SHARDS.dump(one)] for number, one in records],
    lambda plain: [(number, SHARDS.load(one)) for number, one in plain],
    lambda records: [],
)


class _Shared:
    """The ledgers of all runs: each gets its own record of a shared shard."""

    def __init__(self, ledgers: Sequence[Ledger]) -> None:
        self._ledgers = ledgers

    def get_all(self, stage: str, keys: Sequence[str]) -> dict[str, Any]:
        """Nothing: what is done was left out before."""
        return {}

    def put(self, stage: str, key: str, result: Any, files: Sequence[File]) -> None:
        """Write down a shard for each run that it was extracted for."""
        for number, record in RECORDS.load(result):
            self._ledgers[number].put(stage, record.key, SHARDS.dump(record), SHARDS.files(record))
