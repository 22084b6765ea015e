"""Work spread over workers: what has a record is taken from it, the rest goes through the pool.

How far a stage is, is told as it goes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.execute import Pool, Stage
from pipelines.ledger import Codec, Ledger
from store.errors import RunIncomplete


@dataclass(frozen=True)
class Progress:
    """Where a stage is: ``done`` of ``total`` units of work; images and errors so far."""

    stage: str
    done: int
    total: int
    images: int = 0
    errors: int = 0


Report = Callable[[Progress], None]


class Spreader:
    """The workers of a run, its records, and whom it tells."""

    def __init__(self, pool: Pool, ledger: Ledger, report: Report) -> None:
        self.pool, self.ledger, self.report = pool, ledger, report

    def spread(
        self,
        name: str,
        stage: Stage,
        items: Iterable[tuple[str, Any]],
        total: int,
        codec: Codec,
        count: Callable[[Any], tuple[int, int]] = lambda record: (0, 0),
    ) -> list[Any]:
        """One record per (key, item): from the ledger where it holds, else from a worker.

        Raises RunIncomplete, after all other items are finished, if some could not be.
        """
        records: dict[str, Any] = {}
        order: list[str] = []
        missing: list[_Keyed] = []
        for key, item in items:
            order.append(key)
            found = self.ledger.get(name, key)
            if found is None:
                missing.append(_Keyed(key, item))
            else:
                records[key] = codec.load(found)
        failures: list[str] = []
        self._tell(name, records, total, count)
        for outcome in self.pool.map(_Unkeyed(stage), missing):
            if outcome.failure is not None:
                failures.append(f"{outcome.item.label()}: {outcome.failure}")
                continue
            dumped = codec.dump(outcome.record)
            self.ledger.put(name, outcome.item.key, dumped, codec.files(outcome.record))
            records[outcome.item.key] = outcome.record
            self._tell(name, records, total, count)
        if failures:
            raise RunIncomplete(
                f"{len(failures)} of {total} units of '{name}' could not be finished; the others are kept.",
                where="; ".join(failures[:5]),
                fix="Run the same command again: it takes up what is missing.",
            )
        return [records[key] for key in order]

    def _tell(
        self, name: str, records: dict[str, Any], total: int, count: Callable[[Any], tuple[int, int]]
    ) -> None:
        counts = [count(record) for record in records.values()]
        images, errors = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        self.report(Progress(name, len(records), total, images, errors))


@dataclass(frozen=True)
class _Keyed:
    """An item and the key of its record."""

    key: str
    item: Any

    def label(self) -> str:
        """The item's name in a message."""
        shard = getattr(self.item, "shard", None) or getattr(self.item, "record", None) or self.item
        return f"shard {shard.index}"


@dataclass(frozen=True)
class _Unkeyed:
    """A stage over keyed items."""

    stage: Stage

    def __call__(self, bench: Any, keyed: _Keyed) -> Any:
        """The stage's record of the item."""
        return self.stage(bench, keyed.item)
