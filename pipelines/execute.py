"""Executors: the same stage, a plain function, mapped over items in this process or by Ray actors.

A stage is ``stage(bench, item) -> record``, or a generator that yields ``Working`` as it goes and returns its
record. The bench is what a worker holds (models, storages), made once
per worker by ``make_bench``. Records are small; arrays stay in the files that workers write. Both executors
give one outcome per item: a record or a named failure, never silence. This is the only file that imports
ray.

Ray's own actor restarts are not used: an item that killed its worker must be counted, and after
``max_attempts`` set aside, which needs to know which item it was.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from pipelines.config import RunSection
from pipelines.working import Working
from store.errors import ConfigError, ModelError, RunIncomplete, StorageFull, StorageUnavailable

Item = TypeVar("Item")
Stage = Callable[[Any, Any], Any]

# Failures that no other item or attempt can escape: the run stops at once and says so.
_FATAL = (ConfigError, ModelError, StorageFull)
_NEWS_SECONDS, _LISTEN_SECONDS = 1.0, 5.0
_RETRY_SECONDS = 0.5  # doubled at each further attempt, for a storage that is away for a moment


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of one item: its record, or the reason why there is none."""

    item: Item
    record: Any = None
    failure: str | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Underway(Generic[Item]):
    """How far a worker is with one item."""

    item: Item
    working: Working


@dataclass(frozen=True)
class Lost(Generic[Item]):
    """A worker died with this item in hand, or was given up; ``attempts`` counts those so far."""

    item: Item
    reason: str
    attempts: int


News = Outcome[Item] | Underway[Item] | Lost[Item]


class Pool(Protocol):
    """A set of workers. Workers start at the first ``map``: a run with nothing to do starts none."""

    def map(self, stage: Stage, items: Iterable[Item]) -> Iterator[News[Item]]:
        """One outcome per item, as they come, and news on the way. Raises at once what no retry can mend."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_pool(run: RunSection, make_bench: Callable[[], Any]) -> Pool:
    """The pool that the configuration asks for."""
    return RayPool(run, make_bench) if run.executor == "ray" else InlinePool(run, make_bench)


def worker_count(run: RunSection) -> int:
    """Workers that a run on this machine starts if the configuration names no number: one a core."""
    return run.workers or max(1, int(len(os.sched_getaffinity(0)) // run.cpus_per_worker))


class InlinePool:
    """One worker: this process. For tests, notebooks and small sets."""

    def __init__(self, run: RunSection, make_bench: Callable[[], Any]) -> None:
        self._run, self._make_bench = run, make_bench
        self._bench: Any = None

    def map(self, stage: Stage, items: Iterable[Item]) -> Iterator[News[Item]]:
        """See Pool.map. An exception that is not a fatal one costs its item, after ``max_attempts``."""
        for item in items:
            if self._bench is None:
                self._bench = self._make_bench()
            for news in _attempt(stage, self._bench, item, self._run.max_attempts):
                yield Underway(item, news) if isinstance(news, Working) else news

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bench = None


def _attempt(stage: Stage, bench: Any, item: Item, attempts: int) -> Iterator[Working | Outcome[Item]]:
    """Run one item here. Storage that is away is asked again; any other error would only come again."""
    for attempt in range(1, attempts + 1):
        try:
            made = stage(bench, item)
            record = (yield from _paced(made)) if isinstance(made, Generator) else made
            yield Outcome(item, record=record, attempts=attempt)
            return
        except _FATAL:
            raise
        except StorageUnavailable as error:
            failure = str(error)
            if attempt < attempts:
                time.sleep(_RETRY_SECONDS * 2 ** (attempt - 1))
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            break
    yield Outcome(item, failure=failure, attempts=attempt)


def _paced(made: Generator[Working, None, Any]) -> Generator[Working, None, Any]:
    """The same, with news once a second and at the end."""
    told, last = time.monotonic(), None
    while True:
        try:
            last = next(made)
        except StopIteration as end:
            if last is not None:
                yield last
            return end.value
        if time.monotonic() - told >= _NEWS_SECONDS:
            told = time.monotonic()
            yield last
            last = None


class _Worker:
    """The body of a Ray actor."""

    def __init__(self, make_bench: Callable[[], Any], attempts: int) -> None:
        self._bench, self._attempts = make_bench(), attempts

    def ready(self) -> bool:
        """Answers once the worker is there."""
        return True

    def run(self, stage: Stage, item: Any) -> Iterator[Working | Outcome[Any]]:
        """News of the item, its outcome last."""
        yield from _attempt(stage, self._bench, item, self._attempts)


@dataclass
class _Task(Generic[Item]):
    """An item in a worker's hands, and when it was last heard of."""

    worker: Any
    item: Item
    attempt: int
    heard: float


class RayPool:
    """Ray actors, one bench each: on this machine, or on the cluster at ``run.address``.

    Only workers that are there are given items. So where a node is lost and has no successor, the others
    finish the work.
    """

    def __init__(self, run: RunSection, make_bench: Callable[[], Any]) -> None:
        self._run, self._make_bench = run, make_bench
        self._starting: dict[Any, Any] = {}  # a worker by the reference to its first answer
        self._idle: list[Any] = []
        self._busy: dict[Any, _Task[Any]] = {}  # by the stream of news
        self._false_starts = 0
        self._started_ray = False
        self._size = 0

    def map(self, stage: Stage, items: Iterable[Item]) -> Iterator[News[Item]]:
        """See Pool.map. One item in hand per worker, so a worker that dies costs the work on one item."""
        waiting: deque[tuple[Item, int]] = deque()
        fresh = iter(items)
        while True:
            if not waiting:
                waiting.extend((item, 1) for item in islice(fresh, 1))
            if not waiting and not self._busy:
                return
            if waiting:
                self._start()
            if waiting and self._idle:
                self._give(stage, *waiting.popleft())
                continue
            for news in self._listen():
                if isinstance(news, Lost) and news.attempts < self._run.max_attempts:
                    waiting.append((news.item, news.attempts + 1))
                    yield news
                elif isinstance(news, Lost):
                    reason = f"its worker died {news.attempts} times ({news.reason})"
                    yield Outcome(news.item, failure=reason, attempts=news.attempts)
                else:
                    yield news

    def _give(self, stage: Stage, item: Any, attempt: int) -> None:
        worker = self._idle.pop()
        stream = worker.run.options(num_returns="streaming").remote(stage, item)
        self._busy[stream] = _Task(worker, item, attempt, time.monotonic())

    def _listen(self) -> list[News[Any]]:
        """Wait a little; what was heard from workers. Raises what no retry can mend."""
        import ray

        ready, _ = ray.wait([*self._busy, *self._starting], num_returns=1, timeout=_LISTEN_SECONDS)
        if not ready:
            self._give_up_silent()
            return []
        if ready[0] in self._starting:
            self._take_in(ready[0])
            return []
        task = self._busy[ready[0]]
        try:
            news = ray.get(next(ready[0]))
        except ray.exceptions.RayTaskError as error:
            del self._busy[ready[0]]
            self._idle.append(task.worker)
            raise _cause(error) from None
        except (ray.exceptions.RayError, StopIteration) as error:
            # The worker died with the item in hand: killed, out of memory, lost node, the item's own doing.
            del self._busy[ready[0]]
            self._new_worker()
            silent = time.monotonic() - task.heard > self._run.silence
            reason = f"silent for {self._run.silence:g} s" if silent else type(error).__name__
            return [Lost(task.item, reason, task.attempt)]
        task.heard = time.monotonic()
        if isinstance(news, Working):
            return [Underway(task.item, news)]
        del self._busy[ready[0]]
        self._idle.append(task.worker)
        return [replace(news, item=task.item, attempts=task.attempt + news.attempts - 1)]

    def _give_up_silent(self) -> None:
        """Kill workers that have not been heard of for too long: nothing else ends an image without end."""
        import ray

        for task in self._busy.values():
            if time.monotonic() - task.heard > self._run.silence:
                ray.kill(task.worker)

    def _take_in(self, answer: Any) -> None:
        """A new worker answered, or died before it could."""
        import ray

        worker = self._starting.pop(answer)
        try:
            ray.get(answer)
        except ray.exceptions.RayError as error:
            self._false_starts += 1
            if self._false_starts >= self._run.max_attempts * self._size:
                raise RunIncomplete(f"No worker can be started: {error}") from None
            self._new_worker()
            return
        self._false_starts = 0
        self._idle.append(worker)

    def _start(self) -> None:
        if self._size:
            return
        import ray

        if not ray.is_initialized():
            _start_ray(self._run.address)
            self._started_ray = True
        self._size = self._run.workers or self._fitting(ray.cluster_resources())
        for _ in range(self._size):
            self._new_worker()

    def _fitting(self, resources: dict[str, float]) -> int:
        """How many workers the cluster has room for."""
        room = resources.get("CPU", 1) / self._run.cpus_per_worker
        if self._run.gpus_per_worker:
            room = min(room, resources.get("GPU", 0) / self._run.gpus_per_worker)
        if room < 1:
            raise ConfigError(
                "The cluster has no room for one worker.",
                where=f"CPU {resources.get('CPU', 0):g}, GPU {resources.get('GPU', 0):g}",
                fix="Lower run.cpus_per_worker or run.gpus_per_worker.",
            )
        return int(room)

    def _new_worker(self) -> None:
        import ray

        remote = ray.remote(_Worker).options(
            num_cpus=self._run.cpus_per_worker, num_gpus=self._run.gpus_per_worker, max_restarts=0
        )
        worker = remote.remote(self._make_bench, self._run.max_attempts)
        self._starting[worker.ready.remote()] = worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for worker in (*self._idle, *self._starting.values(), *(task.worker for task in self._busy.values())):
            with contextlib.suppress(Exception):
                ray.kill(worker)
        self._idle, self._size = [], 0
        self._starting.clear()
        self._busy.clear()
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Ray on this machine for several runs in a row, so that it starts once."""
    import ray

    _start_ray(None)
    try:
        yield
    finally:
        ray.shutdown()


def _start_ray(address: str | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        ray.init(address=address, **quiet)
        return
    # Without this Ray hides GPUs from workers that ask for none, and warns about it at every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # "local": without it Ray joins whatever cluster was last started on this machine, whoever's it is.
    ray.init(address="local", include_dashboard=False, **quiet)


def _cause(error: Any) -> BaseException:
    """The named error that a worker raised, free of Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else RunIncomplete(f"A worker failed: {error}")
