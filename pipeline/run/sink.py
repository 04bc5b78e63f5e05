"""Outcomes into whole part files of `results/` and `failures/`.

A unit arrives as one outcome with all its rows, so all rows of a unit are in one file. A file is written in one atomic
step, so it is there with all its rows or not at all. Between two files at most `flush_s` seconds of finished work are
only in memory: that is what a crash can cost, never more, and never a row twice.

Runs in the driver (see `dataset`). Knows nothing of Ray; the clock and the writer are given.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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


def encode(table: pa.Table) -> bytes:
    """Parquet bytes; rows sorted by uri and start, so a reader of one folder's videos reads few row groups."""
    keys = [("uri", "ascending"), ("start_s", "ascending"), ("unit_id", "ascending")]
    if "prompt_id" in table.column_names:
        keys.append(("prompt_id", "ascending"))
    buffer = io.BytesIO()
    pq.write_table(table.sort_by(keys).replace_schema_metadata(table.schema.metadata), buffer, compression="zstd")
    return buffer.getvalue()


class PartWriter:
    """Collects the rows of one kind of file and writes them in parts.

    Args:
        folder: "results" or "failures".
        name: start of the file names: unique to this run and writer.
        write: see `Write`.
        max_units, max_bytes: a part is closed at whichever comes first.
        flush_s: a part is also closed when its oldest row is so old.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        write: Write,
        max_units: int,
        max_bytes: int,
        flush_s: float = FLUSH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._name = name
        self._write = write
        self._max_units = max_units
        self._max_bytes = max_bytes
        self._flush_s = flush_s
        self._clock = clock
        self._tables: list[pa.Table] = []
        self._units = 0
        self._bytes = 0
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
        if not self._tables:
            self._oldest = self._clock()
        self._tables.append(table)
        self._units += units
        self._bytes += table.nbytes
        full = self._units >= self._max_units or self._bytes >= self._max_bytes
        return self.flush() if full else self.tick()

    def tick(self) -> Part | None:
        """Close the part if its time has come."""
        if self._tables and self._clock() - self._oldest >= self._flush_s:
            return self.flush()
        return None

    def flush(self) -> Part | None:
        """Write what was collected, if anything.

        Raises:
            LuvcError, OSError: the part could not be written; its rows are kept for another try.
        """
        if not self._tables:
            return None
        self.before()
        started = self._clock()
        table = pa.concat_tables(self._tables)
        data = encode(table)
        path = f"{self._folder}/part-{self._name}-{self._sequence:05d}.parquet"
        self._write(path, data)
        part = Part(path, table.num_rows, self._units, len(data), self._clock() - started)
        self._tables, self._units, self._bytes = [], 0, 0
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
