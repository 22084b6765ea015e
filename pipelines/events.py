"""The event log of a run: one JSON object a line, added to a file as things happen.

Every line has ``time`` (UTC, ISO 8601), ``seconds`` since the run began, and ``event``:

- ``run``: a run begins (store, images, shards);
- ``progress``: every few seconds, and when a stage begins and ends (stage, done, total, images, errors,
  planned, resumed, bound);
- ``done``: a unit of work is finished (stage, unit, images, errors, seconds by what they were spent on);
- ``lost``: a worker died with a unit in hand, which is tried again (stage, unit, reason, attempts);
- ``failed``: a unit is set aside (stage, unit, reason);
- ``halved``: memory has no room for a batch, and fewer images go through the models at a time (unit, images);
- ``end``: the snapshot is there (snapshot, new); ``stopped``: the run failed or was ended (error, what).
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO


class EventLog:
    """Adds lines to a file, each at once; without a path it does nothing."""

    def __init__(self, path: str | None) -> None:
        self._started = time.monotonic()
        self._file: TextIO | None = None
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close)

    def write(self, event: str, **fields: Any) -> None:
        """Add one line."""
        if self._file is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        seconds = round(time.monotonic() - self._started, 3)
        self._file.write(json.dumps({"time": now, "seconds": seconds, "event": event, **fields}) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
