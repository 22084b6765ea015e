"""What a stage tells while it works on one item, and what bounds its pace."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

# Seconds are summed over threads; "waiting" is the time in which the models had nothing to do.
READING, DECODING, DEVICE, WRITING, WAITING = "reading", "decoding", "device", "writing", "waiting"


@dataclass(frozen=True)
class Working:
    """How far one item is: its images and errors so far, and seconds by what they were spent on.

    ``halved``: images that go through the models at a time, where memory has no room for a batch.
    """

    images: int
    errors: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    halved: int | None = None


class Clock:
    """Seconds by what they were spent on; threads may share one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((READING, DECODING, DEVICE, WRITING, WAITING), 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the seconds of the block for ``what``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            with self._lock:
                self.seconds[what] += spent

    def add(self, seconds: Mapping[str, float]) -> None:
        """Seconds that others spent for this."""
        with self._lock:
            for what, spent in seconds.items():
                self.seconds[what] += spent


def bound(seconds: Mapping[str, float]) -> str:
    """What bounds the pace: reading, decoding, device or writing; "" where nothing is known (ours).

    If the models wait a tenth of their time for images, it is what feeds them that takes longest.
    """
    busy = seconds.get(DEVICE, 0.0) + seconds.get(WRITING, 0.0)
    if seconds.get(WAITING, 0.0) + busy == 0:
        return ""
    starved = seconds.get(WAITING, 0.0) > 0.1 * (busy + seconds.get(WAITING, 0.0))
    return max((READING, DECODING) if starved else (DEVICE, WRITING), key=lambda what: seconds.get(what, 0.0))
