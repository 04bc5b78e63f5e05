"""The log of a run: one JSON object a line, appended as things happen.

On a local disk a line is there at once. Object stores cannot append: there the whole log is put again now and then and
at the end; a killed run loses the last lines of its log, nothing else. Knows nothing of what the events mean.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PUT_EVERY_S = 60.0


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


class EventLog:
    """Appends events of one run.

    Args:
        run_id: stands in every event.
        path: of a local file, or None.
        put: writes the whole log elsewhere; used when `path` is None.
        clock, now: replaced in tests.
    """

    def __init__(
        self,
        run_id: str,
        path: Path | None = None,
        put: Callable[[bytes], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._run_id = run_id
        self._put = put
        self._clock = clock
        self._now = now
        self._lines: list[bytes] = []
        self._last_put = clock()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab") if path else None

    def append(self, event: str, **fields: Any) -> None:
        """Write one event.

        Raises:
            OSError: the log cannot be written.
        """
        stamp = self._now().isoformat(timespec="milliseconds")
        record = {"t": stamp, "event": event, "run_id": self._run_id, **fields}
        line = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        if self._file:
            self._file.write(line)
            self._file.flush()
            return
        self._lines.append(line)
        if self._clock() - self._last_put >= PUT_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Bring an object store up to date."""
        if self._put and self._lines:
            self._put(b"".join(self._lines))
            self._last_put = self._clock()

    def close(self) -> None:
        self.sync()
        if self._file:
            self._file.close()
