"""Executors: the same stage, a plain function, mapped over items in this process or by Ray actors.

A stage is ``stage(bench, item) -> record``. The bench is what a worker holds (models, storages), made once
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from pipelines.config import RunSection
from store.errors import ConfigError, ModelError, RunIncomplete, StorageFull, StorageUnavailable

Item = TypeVar("Item")
Stage = Callable[[Any, Any], Any]

# Failures that no other item or attempt can escape: the run stops at once and says so.
_FATAL = (ConfigError, ModelError, StorageFull)
_RETRY_SECONDS = 0.5  # doubled at each further attempt, for a storage that is away for a moment


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of one item: its record, or the reason why there is none."""

    item: Item
    record: Any = None
    failure: str | None = None
    attempts: int = 1


class Pool(Protocol):
    """A set of workers. Workers start at the first ``map``: a run with nothing to do starts none."""

    def map(self, stage: Stage, items: Iterable[Item]) -> Iterator[Outcome[Item]]:
        """One outcome per item, as they come. Raises at once what no retry can mend."""
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

    def map(self, stage: Stage, items: Iterable[Item]) -> Iterator[Outcome[Item]]:
        """See Pool.map. An exception that is not a fatal one costs its item, after ``max_attempts``."""
        for item in items:
            if self._bench is None:
                self._bench = self._make_bench()
            yield _attempt(stage, self._bench, item, self._run.max_attempts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bench = None


def _attempt(stage: Stage, bench: Any, item: Item, attempts: int) -> Outcome[Item]:
    """Run one item here. Storage that is away is asked again; any other error would only come again."""
    for attempt in range(1, attempts + 1):
        try:
            return Outcome(item, record=stage(bench, item), attempts=attempt)
        except _FATAL:
            raise
        except StorageUnavailable as error:
            failure = str(error)
            if attempt < attempts:
                time.sleep(_RETRY_SECONDS * 2 ** (attempt - 1))
        except Exception as error:
            return Outcome(item, failure=f"{type(error).__name__}: {error}", attempts=attempt)
    return Outcome(item, failure=failure, attempts=attempts)


class _Worker:
    """The body of a Ray actor."""

    def __init__(self, make_bench: Callable[[], Any], attempts: int) -> None:
        self._bench, self._attempts = make_bench(), attempts

    def run(self, stage: Stage, item: Any) -> Outcome[Any]:
        return _attempt(stage, self._bench, item, self._attempts)


class RayPool:
    """Ray actors, one bench each: on this machine, or on the cluster at ``run.address``."""

    def __init__(self, run: RunSection, make_bench: Callable[[], Any]) -> None:
        self._run, self._make_bench = run, make_bench
        self._idle: list[Any] = []
        self._started_ray = False
        self._size = 0

    def map(self, stage: Stage, items: Iterable[Item]) -> Iterator[Outcome[Item]]:
        """See Pool.map. One item in hand per worker, so a worker that dies costs the work on one item."""
        import ray

        waiting: deque[tuple[Item, int]] = deque()
        fresh = iter(items)
        busy: dict[Any, tuple[Any, Item, int]] = {}
        while True:
            while len(busy) < max(1, self._size or 1):
                upcoming = waiting.popleft() if waiting else next(((one, 1) for one in fresh), None)
                if upcoming is None:
                    break
                self._start()
                worker = self._idle.pop()
                busy[worker.run.remote(stage, upcoming[0])] = (worker, *upcoming)
            if not busy:
                return
            ready, _ = ray.wait(list(busy), num_returns=1)
            worker, item, attempt = busy.pop(ready[0])
            try:
                outcome = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                self._idle.append(worker)
                raise _cause(error) from None
            except ray.exceptions.RayActorError as error:
                # The worker died with the item in hand: killed, out of memory, lost node, or the item's own
                # doing.
                self._idle.append(self._new_worker())
                if attempt < self._run.max_attempts:
                    waiting.append((item, attempt + 1))
                else:
                    reason = f"its worker died {attempt} times ({type(error).__name__})"
                    yield Outcome(item, failure=reason, attempts=attempt)
                continue
            self._idle.append(worker)
            yield Outcome(item, outcome.record, outcome.failure, attempts=attempt + outcome.attempts - 1)

    def _start(self) -> None:
        if self._size:
            return
        import ray

        if not ray.is_initialized():
            _start_ray(self._run.address)
            self._started_ray = True
        self._size = self._run.workers or self._fitting(ray.cluster_resources())
        self._idle = [self._new_worker() for _ in range(self._size)]

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

    def _new_worker(self) -> Any:
        import ray

        remote = ray.remote(_Worker).options(
            num_cpus=self._run.cpus_per_worker, num_gpus=self._run.gpus_per_worker, max_restarts=0
        )
        return remote.remote(self._make_bench, self._run.max_attempts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for worker in self._idle:
            with contextlib.suppress(Exception):
                ray.kill(worker)
        self._idle, self._size = [], 0
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
    ray.init(include_dashboard=False, **quiet)


def _cause(error: Any) -> BaseException:
    """The named error that a worker raised, free of Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else RunIncomplete(f"A worker failed: {error}")
