"""Outcomes into whole part files of `results/` and `failures/`.

A unit arrives as one outcome with all its rows, so all rows of a unit are in one file. A file is written in one atomic
step, so it is there with all its rows or not at all. Between two files at most `flush_s` seconds of finished work are
only in memory: that is what a crash can cost, never more, and never a row twice.

Runs in the driver (see `dataset`). Knows nothing of Ray; the clock and the writer are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.parts import Batch, encode
from pipeline.run.outcome import failure_table, quality_table, result_table

#: Writes bytes to a path below the output folder, whole or not at all.
Write = Callable[[str, bytes], None]

FLUSH_S = 30.0


@dataclass(frozen=True)
class Part:
    """A file that was written."""

    path: str
    rows: int
    units: int
    bytes: int
    seconds: float


class PartWriter:
    """Collects the rows of one kind of file and writes them in parts.

    Args:
        folder: "results", "failures" or "quality", or a partition of them.
        name: start of the file names: unique to this run and writer.
        facts: of the run, by its id, for the footer.
        write: see `Write`.
        max_units, max_bytes: a part is closed at whichever comes first; bytes are those of the file.
        flush_s: a part is also closed when its oldest row is so old.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        facts: Mapping[str, Mapping[str, Any]],
        write: Write,
        max_units: int,
        max_bytes: int,
        flush_s: float = FLUSH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._name = name
        self._facts = facts
        self._write = write
        self._max_units = max_units
        self._flush_s = flush_s
        self._clock = clock
        self._batch = Batch(max_bytes)
        self._units = 0
        self._oldest = 0.0
        self._sequence = 0
        #: Called before a part is written.
        self.before: Callable[[], None] = lambda: None

    @property
    def room(self) -> int:
        """Units until the part is full; at least one."""
        return max(1, self._max_units - self._units)

    def add(self, table: pa.Table, units: int) -> Part | None:
        """Take rows of `units` whole units; returns the part if that completed one."""
        if units == 0:
            return None
        if not self._batch:
            self._oldest = self._clock()
        self._batch.add(table)
        self._units += units
        return self.flush() if self._units >= self._max_units or self._batch.full else self.tick()

    def tick(self) -> Part | None:
        """Close the part if its time has come."""
        if self._batch and self._clock() - self._oldest >= self._flush_s:
            return self.flush()
        return None

    def flush(self) -> Part | None:
        """Write what was collected, if anything.

        Raises:
            LuvcError, OSError: the part could not be written; its rows are kept for another try.
        """
        if not self._batch:
            return None
        self.before()
        started = self._clock()
        table = self._batch.table
        data = encode(table, self._facts)
        path = f"{self._folder}/part-{self._name}-{self._sequence:05d}.parquet"
        self._write(path, data)
        part = Part(path, table.num_rows, self._units, len(data), self._clock() - started)
        self._batch.written(len(data))
        self._units = 0
        self._sequence += 1
        return part


class Sink:
    """Splits outcomes into results, failures and comparisons and writes all three.

    Args:
        results, failures: two writers.
        on_part: called with every part that was written.
        quality: writer of the quality slice. Its rows are on disk before the results of their units are, so that a
            unit that counts as done has its comparison.
    """

    def __init__(
        self,
        results: PartWriter,
        failures: PartWriter,
        on_part: Callable[[Part], None],
        quality: PartWriter | None = None,
    ) -> None:
        self._results = results
        self._failures = failures
        self._quality = quality
        self._on_part = on_part
        if quality:
            results.before = lambda: self._tell(quality.flush())

    def add(self, outcomes: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Take finished units (`[OUTCOME]`); returns their result and failure rows."""
        start = 0
        while start < outcomes.num_rows:
            # No more units at once than the fuller part has room for, so that parts have the size that was asked for.
            piece = outcomes.slice(start, min(self._results.room, self._failures.room))
            start += piece.num_rows
            failures = failure_table(piece)
            if self._quality:
                quality = quality_table(piece)
                self._tell(self._quality.add(quality, len(pc.unique(quality["unit_id"]))))
            self._tell(self._results.add(result_table(piece), piece.num_rows - failures.num_rows))
            self._tell(self._failures.add(failures, failures.num_rows))
        return result_table(outcomes), failure_table(outcomes)

    def tick(self) -> None:
        """Write what has waited long enough."""
        self._tell(self._results.tick())
        self._tell(self._failures.tick())

    def flush(self) -> None:
        """Write everything."""
        self._tell(self._results.flush())
        self._tell(self._failures.flush())

    def _tell(self, part: Part | None) -> None:
        if part:
            self._on_part(part)
