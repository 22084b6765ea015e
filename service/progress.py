"""Progress of a run on stderr: bars on a terminal, elsewhere a plain line every few seconds."""

import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from service.output import say
from service.printing import duration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from pipelines.spread import Progress

EVERY = 5.0  # seconds between plain lines of one stage


class ProgressDisplay:
    """A context manager that is called with each ``Progress`` of a run."""

    def __init__(self) -> None:
        self._display: _Bars | _Lines | None = None

    def __enter__(self) -> Self:
        from rich.console import Console

        console = Console(stderr=True)  # minds NO_COLOR and TERM
        fancy = console.is_terminal and not console.is_dumb_terminal
        self._display = _Bars(console) if fancy else _Lines()
        return self

    def __call__(self, progress: "Progress") -> None:
        """Show where a stage is."""
        self.named("", progress)

    def named(self, run: str, progress: "Progress") -> None:
        """The same where there are several runs."""
        if self._display is not None:
            self._display.show(replace(progress, stage=f"{run} {progress.stage}".strip()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.close()


class _Lines:
    """A line when a stage begins, every few seconds, and when it ends."""

    def __init__(self) -> None:
        self._stage, self._started, self._said = "", 0.0, 0.0

    def show(self, progress: "Progress") -> None:
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._started, self._said = progress.stage, now, float("-inf")
        if now - self._said < EVERY and progress.done < progress.total:
            return
        self._said = now
        counted = _counted(progress, now - self._started)
        say(f"{progress.stage}: {progress.done}/{progress.total}{counted}", err=True)

    def close(self) -> None:
        """Nothing is left open."""


class _Bars:
    """One bar a stage, over images where it counts them: rate, time left, errors so far, what bounds it."""

    def __init__(self, console: object) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[counted]}"),
            console=console,  # type: ignore[arg-type]
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._bars.start()

    def show(self, progress: "Progress") -> None:
        now = time.monotonic()
        if progress.stage not in self._tasks:
            self._started[progress.stage] = now
            self._tasks[progress.stage] = self._bars.add_task(
                progress.stage, total=progress.total, counted=""
            )
        counted = _counted(progress, now - self._started[progress.stage]).removeprefix(", ")
        seen = progress.images + progress.errors
        done, total = (seen, progress.planned) if progress.planned else (progress.done, progress.total)
        self._bars.update(self._tasks[progress.stage], completed=done, total=total, counted=counted)

    def close(self) -> None:
        self._bars.stop()


def _counted(progress: "Progress", seconds: float) -> str:
    """', 4096 images, 210/s, 12 min left, 3 errors, bound by decoding': what there is to say."""
    said = ""
    seen = progress.images + progress.errors
    fresh = seen - progress.resumed
    if progress.images:
        said += f", {progress.images} images"
        if seconds >= 1 and fresh > 0:
            rate = fresh / seconds
            said += f", {rate:.0f}/s" if rate >= 10 else f", {rate:.1f}/s"
            if progress.planned > seen:
                said += f", {duration((progress.planned - seen) / rate)} left"
    if progress.errors:
        said += f", {progress.errors} errors"
    if progress.bound and progress.done < progress.total:
        said += f", bound by {progress.bound}"
    return said
