"""Work spread over workers: what has a record is taken from it, the rest goes through the pool.

How far a stage is, is told as it goes.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pipelines.events import EventLog
from pipelines.execute import Lost, Outcome, Pool, Stage, Underway
from pipelines.ledger import Codec, File
from pipelines.working import Working, bound
from store.errors import RunIncomplete

LOGGED = 5.0  # seconds between two lines of progress in the event log


@dataclass(frozen=True)
class Progress:
    """Where a stage is: ``done`` of ``total`` units of work; images and errors so far, of ``planned`` images.

    ``resumed`` images were done before this call. ``bound`` is what bounds the pace: reading, decoding,
    device or writing.
    """

    stage: str
    done: int
    total: int
    images: int = 0
    errors: int = 0
    planned: int = 0
    resumed: int = 0
    bound: str = ""


Report = Callable[[Progress], None]


class Records(Protocol):
    """Where finished work is written down: a ``Ledger``, or several."""

    def get_all(self, stage: str, keys: Sequence[str]) -> dict[str, Any]:
        """Results of finished work by key."""

    def put(self, stage: str, key: str, result: Any, files: Sequence[File]) -> None:
        """Write down finished work."""


class Spreader:
    """The workers of a run, its records, whom it tells, and where it writes down what happens."""

    def __init__(self, pool: Pool, records: Records, report: Report, log: EventLog | None = None) -> None:
        self.pool, self.records, self._report, self.log = pool, records, report, log or EventLog(None)
        self._logged = ("", 0.0)

    def report(self, progress: Progress) -> None:
        """Tell where a stage is."""
        stage, when = self._logged
        if progress.stage != stage or progress.done == progress.total or time.monotonic() - when > LOGGED:
            self._logged = progress.stage, time.monotonic()
            self.log.write("progress", **asdict(progress))
        self._report(progress)

    def spread(
        self,
        name: str,
        stage: Stage,
        items: Iterable[tuple[str, Any]],
        total: int,
        codec: Codec,
        count: Callable[[Any], tuple[int, int]] = lambda record: (0, 0),
        planned: int = 0,
    ) -> list[Any]:
        """One record per (key, item): from the ledger where it holds, else from a worker.

        ``count`` gives a record's images and errors. Raises RunIncomplete, after all other items are
        finished, if some could not be.
        """
        keyed = [_Keyed(key, item) for key, item in items]
        found = self.records.get_all(name, [one.key for one in keyed])
        records = {key: codec.load(one) for key, one in found.items()}
        tally = _Tally(name, total, planned, [count(record) for record in records.values()])
        missing = [one for one in keyed if one.key not in records]
        failures: list[str] = []
        self.report(tally.progress())
        for news in self.pool.map(_Unkeyed(stage), missing):
            if isinstance(news, Outcome) and news.failure is None:
                dumped = codec.dump(news.record)
                self.records.put(name, news.item.key, dumped, codec.files(news.record))
                records[news.item.key] = news.record
            elif isinstance(news, Outcome):
                failures.append(f"{news.item.label()}: {news.failure}")
            self._write_down(name, news, tally, count)
            self.report(tally.progress())
        if failures:
            raise RunIncomplete(
                f"{len(failures)} of {total} units of '{name}' could not be finished; the others are kept.",
                where="; ".join(failures[:5]),
                fix="Run the same command again: it takes up what is missing.",
            )
        return [records[one.key] for one in keyed]

    def _write_down(
        self, name: str, news: Any, tally: "_Tally", count: Callable[[Any], tuple[int, int]]
    ) -> None:
        """Count the news, and log them."""
        key, told = news.item.key, {"stage": name, "unit": news.item.label()}
        if isinstance(news, Underway):
            before = tally.underway.get(key)
            tally.underway[key] = news.working
            if news.working.halved and (before is None or before.halved != news.working.halved):
                self.log.write("halved", **told, images=news.working.halved)
        elif isinstance(news, Lost):
            tally.drop(key)
            self.log.write("lost", **told, reason=news.reason, attempts=news.attempts)
        elif news.failure is not None:
            tally.drop(key)
            self.log.write("failed", **told, reason=news.failure)
        else:
            images, errors = count(news.record)
            seconds = tally.drop(key)
            tally.add(images, errors)
            spent = {what: round(value, 3) for what, value in seconds.items()}
            self.log.write("done", **told, images=images, errors=errors, seconds=spent)


class _Tally:
    """Running totals of a stage: finished units, and those underway."""

    def __init__(self, stage: str, total: int, planned: int, done: list[tuple[int, int]]) -> None:
        self.stage, self.total, self.planned = stage, total, planned
        self.underway: dict[str, Working] = {}
        self._done, self._images, self._errors = (
            len(done),
            sum(one[0] for one in done),
            sum(one[1] for one in done),
        )
        self._resumed = self._images + self._errors
        self._seconds: Counter[str] = Counter()

    def add(self, images: int, errors: int) -> None:
        """A unit is finished."""
        self._done += 1
        self._images += images
        self._errors += errors

    def drop(self, key: str) -> dict[str, float]:
        """A unit is no longer underway; the seconds that it told of."""
        last = self.underway.pop(key, None)
        seconds = dict(last.seconds) if last else {}
        self._seconds.update(seconds)
        return seconds

    def progress(self) -> Progress:
        """Where the stage is."""
        going = list(self.underway.values())
        seconds = self._seconds.copy()
        for one in going:
            seconds.update(one.seconds)
        return Progress(
            self.stage,
            self._done,
            self.total,
            self._images + sum(one.images for one in going),
            self._errors + sum(one.errors for one in going),
            self.planned,
            self._resumed,
            bound(seconds),
        )


@dataclass(frozen=True)
class _Keyed:
    """An item and the key of its record."""

    key: str
    item: Any

    def label(self) -> str:
        """The item's name in a message."""
        if hasattr(self.item, "label"):
            return str(self.item.label)
        shard = getattr(self.item, "shard", None) or getattr(self.item, "record", None) or self.item
        return f"shard {shard.index}"


@dataclass(frozen=True)
class _Unkeyed:
    """A stage over keyed items."""

    stage: Stage

    def __call__(self, bench: Any, keyed: _Keyed) -> Any:
        """The stage's record of the item."""
        return self.stage(bench, keyed.item)
