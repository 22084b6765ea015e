"""Executors: the same stage, a plain function, mapped over items in this process or by Ray actors.

A stage is ``stage(bench, item) -> record``, or a generator that yields ``Working`` as it goes and returns its
record. The bench is what a worker holds (models, storages), made once
per worker by ``make_bench``. Records are small; arrays stay in the files that workers write. Both executors
give one outcome per item: a record or a named failure, never silence. This is the only file that imports
ray.

Where a run has ``decoders``, further actors decode for the workers, wherever the cluster has cores. What they
make goes to the worker that asked through Ray's object store. They hold nothing that could be lost: one that
dies is asked no more until Ray has started it again, and another is asked instead.

Ray's own actor restarts are not used for workers: an item that killed its worker must be counted, and after
``max_attempts`` set aside, which needs to know which item it was.
"""

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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
FATAL = (ConfigError, ModelError, StorageFull)
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


class Decoders(Protocol):
    """Others that decode for a worker, ``lanes`` requests at a time."""

    @property
    def lanes(self) -> int:
        """Requests that may be underway at a time."""

    def load(self, request: Any) -> Any:
        """What one of them makes of a request; None where none of them can, and the worker has to."""


def open_pool(
    run: RunSection,
    make_bench: Callable[..., Any],
    make_decoder: Callable[[], Callable[[Any], Any]] | None = None,
) -> Pool:
    """The pool that the configuration asks for.

    ``make_decoder`` gives what answers a request in a decoder's process. If the run has decoders,
    ``make_bench`` is called with ``decoders`` (see ``Decoders``).
    """
    if run.executor == "ray":
        return RayPool(run, make_bench, make_decoder)
    return InlinePool(run, make_bench)


def worker_count(run: RunSection) -> int:
    """Workers that a run on this machine starts if the configuration names no number: one a core."""
    cores = usable_cores() - run.decoders * run.cpus_per_decoder
    return run.workers or max(1, int(cores // run.cpus_per_worker))


def usable_cores() -> int:
    """Cores that this process may use; all of the machine where its system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        except FATAL:
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

    def __init__(
        self, make_bench: Callable[..., Any], attempts: int, decoders: "_RayDecoders | None"
    ) -> None:
        self._bench = make_bench() if decoders is None else make_bench(decoders=decoders.begin())
        self._attempts = attempts

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

    def __init__(
        self,
        run: RunSection,
        make_bench: Callable[..., Any],
        make_decoder: Callable[[], Callable[[Any], Any]] | None = None,
    ) -> None:
        self._run, self._make_bench, self._make_decoder = run, make_bench, make_decoder
        self._decoders: list[Any] = []
        self._decoders_coming: list[Any] = []  # their first answers
        self._starting: dict[Any, Any] = {}  # a worker by the reference to its first answer
        self._idle: list[Any] = []
        self._busy: dict[Any, _Task[Any]] = {}  # by the stream of news
        self._false_starts = 0
        self._started_ray = False
        self._size = 0

    def map(self, stage: Stage, items: Iterable[Item]) -> Iterator[News[Item]]:
        """See Pool.map. One item in hand per worker, so a worker that dies costs the work on one item."""
        try:
            yield from self._outcomes(stage, items)
        finally:
            self._abandon()

    def _outcomes(self, stage: Stage, items: Iterable[Item]) -> Iterator[News[Item]]:
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

        told = [*self._busy, *self._starting, *self._decoders_coming]
        ready, _ = ray.wait(told, num_returns=1, timeout=_LISTEN_SECONDS)
        heard = self._hear(ready[0]) if ready else []
        self._give_up_silent()  # every time: one that hangs is not saved by others that speak
        return heard

    def _hear(self, speaker: Any) -> list[News[Any]]:
        """What was said by one that has something to say."""
        import ray

        if speaker in self._decoders_coming:
            self._decoders_coming.remove(speaker)
            _expect_decoder(speaker)
            return []
        if speaker in self._starting:
            self._take_in(speaker)
            return []
        task = self._busy[speaker]
        try:
            news = ray.get(next(speaker))
        except ray.exceptions.RayTaskError as error:
            del self._busy[speaker]
            self._idle.append(task.worker)
            raise _cause(error) from None
        except (ray.exceptions.RayError, StopIteration) as error:
            # The worker died with the item in hand: killed, out of memory, lost node, the item's own doing.
            del self._busy[speaker]
            self._new_worker()
            silent = time.monotonic() - task.heard > self._run.silence
            reason = f"silent for {self._run.silence:g} s" if silent else type(error).__name__
            return [Lost(task.item, reason, task.attempt)]
        task.heard = time.monotonic()
        if isinstance(news, Working):
            return [Underway(task.item, news)]
        del self._busy[speaker]
        self._idle.append(task.worker)
        return [replace(news, item=task.item, attempts=task.attempt + news.attempts - 1)]

    def _give_up_silent(self) -> None:
        """Kill workers that have not been heard of for too long: nothing else ends an image without end."""
        import ray

        now = time.monotonic()
        silent = {stream: one for stream, one in self._busy.items() if now - one.heard > self._run.silence}
        if silent:  # those whose news nobody has listened to yet are not
            _, mute = ray.wait(list(silent), num_returns=len(silent), timeout=0)
            for stream in mute:
                ray.kill(silent[stream].worker)

    def _abandon(self) -> None:
        """Replace workers that are still at work when the work has stopped: what they have to say is not for
        whoever comes next."""
        import ray

        for task in self._busy.values():
            ray.kill(task.worker)
            self._new_worker()
        self._busy.clear()

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
        if self._make_decoder is not None:
            self._decoders = [self._new_decoder() for _ in range(self._run.decoders)]
            self._decoders_coming = [_first_answer(one) for one in self._decoders]
        for _ in range(self._size):
            self._new_worker()

    def _fitting(self, resources: dict[str, float]) -> int:
        """How many workers the cluster has room for."""
        decoding = self._run.decoders * self._run.cpus_per_decoder if self._make_decoder else 0
        room = (resources.get("CPU", 1) - decoding) / self._run.cpus_per_worker
        if self._run.gpus_per_worker:
            room = min(room, resources.get("GPU", 0) / self._run.gpus_per_worker)
        if room < 1:
            raise ConfigError(
                "The cluster has no room for one worker.",
                where=f"CPU {resources.get('CPU', 0):g}, GPU {resources.get('GPU', 0):g}",
                fix="Lower run.cpus_per_worker, run.gpus_per_worker or run.decoders.",
            )
        return int(room)

    def _new_worker(self) -> None:
        import ray

        remote = ray.remote(_Worker).options(
            num_cpus=self._run.cpus_per_worker, num_gpus=self._run.gpus_per_worker, max_restarts=0
        )
        decoders = None
        if self._decoders:
            share = self._run.decoders * max(1, int(self._run.cpus_per_decoder)) / self._size
            decoders = _RayDecoders(self._decoders, math.ceil(share) + 1, self._run.silence / 2)
        worker = remote.remote(self._make_bench, self._run.max_attempts, decoders)
        self._starting[worker.ready.remote()] = worker

    def _new_decoder(self) -> Any:
        import ray

        cores = self._run.cpus_per_decoder
        remote = ray.remote(_Decoder).options(
            num_cpus=cores, max_restarts=-1, max_concurrency=max(1, int(cores)), scheduling_strategy="SPREAD"
        )
        return remote.remote(self._make_decoder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        workers = (*self._idle, *self._starting.values(), *(task.worker for task in self._busy.values()))
        for actor in (*workers, *self._decoders):
            with contextlib.suppress(Exception):
                ray.kill(actor)
        self._idle, self._decoders, self._decoders_coming, self._size = [], [], [], 0
        self._starting.clear()
        self._busy.clear()
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False


class _Decoder:
    """The body of a Ray actor that decodes for workers."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._load = make()

    def ready(self) -> bool:
        """Answers once the decoder is there."""
        return True

    def load(self, request: Any) -> Any:
        """The answer to one request."""
        return self._load(request)


def _first_answer(decoder: Any) -> Any:
    """What is there once the decoder is, or is again; an error only if it never will be."""
    return decoder.ready.options(max_task_retries=-1).remote()


def _expect_decoder(answer: Any) -> None:
    """Raises RunIncomplete if the decoder cannot be made: a run that is told to have some does not go on
    more slowly without."""
    import ray

    try:
        ray.get(answer)
    except ray.exceptions.RayError as error:
        raise RunIncomplete(
            f"No decoder can be started: {_last_line(error)}",
            where="run.decoders",
            fix="Mend that, or set run.decoders: 0, and run the same command again.",
        ) from None


def _last_line(error: Exception) -> str:
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


class _RayDecoders:
    """``Decoders`` as a worker has them. Only those that have answered are asked, in turn.

    ``patience``: seconds after which one that does not answer is started anew.
    """

    def __init__(self, actors: Sequence[Any], lanes: int, patience: float) -> None:
        self._actors, self._lanes, self._patience = list(actors), lanes, patience
        self._lock: threading.Lock | None = None  # made where it is used: a lock cannot travel
        self._ready: deque[Any] = deque()
        self._starting: dict[Any, Any] = {}

    @property
    def lanes(self) -> int:
        """See ``Decoders``."""
        return self._lanes

    def begin(self) -> Self:
        """Ask who is there; in the worker's process, before ``load``."""
        self._lock = threading.Lock()
        for actor in self._actors:
            self._await(actor)
        return self

    def load(self, request: Any) -> Any:
        """See ``Decoders``. Every decoder is asked at most once."""
        import ray

        for _ in self._actors:
            actor = self._next()
            if actor is None:
                return None
            try:
                return ray.get(actor.load.remote(request), timeout=self._patience)
            except ray.exceptions.GetTimeoutError:
                ray.kill(actor, no_restart=False)
                self._lost(actor)
                return None
            except ray.exceptions.RayTaskError:
                return None  # the worker comes upon the same error, and says whose it is
            except ray.exceptions.RayError:
                self._lost(actor)
        return None

    def _await(self, actor: Any) -> None:
        self._starting[_first_answer(actor)] = actor

    def _next(self) -> Any:
        import ray

        assert self._lock is not None
        with self._lock:
            if self._starting:
                answers = list(self._starting)
                for answer in ray.wait(answers, num_returns=len(answers), timeout=0)[0]:
                    actor = self._starting.pop(answer)
                    with contextlib.suppress(ray.exceptions.RayError):  # it cannot be started: no more of it
                        ray.get(answer)
                        self._ready.append(actor)
            self._ready.rotate(-1)
            return self._ready[-1] if self._ready else None

    def _lost(self, actor: Any) -> None:
        assert self._lock is not None
        with self._lock:
            if actor in self._ready:
                self._ready.remove(actor)
                self._await(actor)


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
