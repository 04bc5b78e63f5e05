"""What is done, failed and pending: set arithmetic on unit ids read from the output itself.

The files in `results/` and `failures/` are the only source of truth; there is no separate
checkpoint that could disagree with them. Ids stay in Arrow arrays and meet in Arrow's hash join,
so a million units cost about a second. Knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.parts import Open, read_live

Retry = Literal["retryable", "all"] | None

FAILED_COLUMNS = ("unit_id", "retryable", "attempts", "failed_at")

#: One row per failed unit, its latest.
FAILED = pa.schema([("unit_id", pa.string()), ("retryable", pa.bool_()), ("attempts", pa.int32())])


@dataclass(frozen=True)
class Ledger:
    """Where every planned unit stands. The masks are aligned with the manifest's rows.

    Attributes:
        done: the unit has results.
        failed: it has a failure and no results.
        pending: neither.
        retryable: failed, and its latest failure says that trying again can help.
        attempts: how often failed units were tried before; 0 for all others.
    """

    done: pa.BooleanArray
    failed: pa.BooleanArray
    pending: pa.BooleanArray
    retryable: pa.BooleanArray
    attempts: pa.Int32Array

    @property
    def counts(self) -> dict[str, int]:
        """Units planned, done, failed and pending."""
        return {
            "planned": len(self.done),
            "done": _count(self.done),
            "failed": _count(self.failed),
            "pending": _count(self.pending),
        }

    def work(self, retry: Retry = None) -> pa.BooleanArray:
        """Which units a run takes: the pending, and on request failed ones."""
        if retry == "all":
            return pc.or_(self.pending, self.failed)
        if retry == "retryable":
            return pc.or_(self.pending, self.retryable)
        return self.pending


def _count(mask: pa.BooleanArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def reckon(planned: pa.Array | pa.ChunkedArray, done: pa.Array | pa.ChunkedArray, failures: pa.Table) -> Ledger:
    """Sort planned units into done, failed and pending.

    Args:
        planned: unit ids of the manifest, each once.
        done: unit ids in results, in any order and number; ids that are not planned are not counted.
        failures: table with the columns of `FAILED`, one row a unit (see `latest_failures`).

    Raises:
        ValueError: a unit is planned twice, or the three do not add up.
    """
    ids = planned.combine_chunks() if isinstance(planned, pa.ChunkedArray) else planned
    if pc.count_distinct(ids).as_py() != len(ids):
        raise ValueError("the manifest names a unit twice")
    is_done = pc.is_in(ids, value_set=_flat(done))
    row = pc.index_in(ids, value_set=_flat(failures["unit_id"]))
    is_failed = pc.and_not(pc.is_valid(row), is_done)
    pending = pc.invert(pc.or_(is_done, is_failed))
    retryable = pc.fill_null(pc.take(_flat(failures["retryable"]), row), False)
    attempts = pc.fill_null(pc.take(_flat(failures["attempts"]), row), pa.scalar(0, pa.int32()))
    ledger = Ledger(
        done=is_done,
        failed=is_failed,
        pending=pending,
        retryable=pc.and_(is_failed, retryable),
        attempts=pc.if_else(is_failed, attempts, pa.scalar(0, pa.int32())),
    )
    check_invariant(**ledger.counts)
    return ledger


def check_invariant(*, planned: int, done: int, failed: int, pending: int) -> None:
    """Every planned unit is in exactly one place.

    Raises:
        ValueError: it is not.
    """
    if planned != done + failed + pending:
        raise ValueError(f"planned {planned} != done {done} + failed {failed} + pending {pending}")


def latest_failures(rows: pa.Table) -> pa.Table:
    """The newest row of each unit, from rows with `FAILED_COLUMNS` in any order: `[FAILED]`."""
    if rows.num_rows == 0:
        return FAILED.empty_table()
    # A stable sort and "last": of rows with equal times the later file wins.
    newest_last = rows.take(pc.sort_indices(rows, sort_keys=[("failed_at", "ascending")]))
    latest = newest_last.group_by("unit_id", use_threads=False).aggregate([("retryable", "last"), ("attempts", "last")])
    return latest.select(["unit_id", "retryable_last", "attempts_last"]).rename_columns(FAILED.names).cast(FAILED)


def read_done(list_parts: Callable[[], Sequence[str]], open_file: Open) -> pa.Array:
    """Distinct unit ids in the part files of `results/`; only that column is read."""
    table = read_live(list_parts, open_file, pa.schema([("unit_id", pa.string())]), ["unit_id"])
    return pc.unique(_flat(table["unit_id"]))


def read_failed(list_parts: Callable[[], Sequence[str]], open_file: Open) -> pa.Table:
    """The latest failure of each unit in the part files of `failures/`: `[FAILED]`."""
    schema = pa.schema([*FAILED, ("failed_at", pa.timestamp("ms", tz="UTC"))])
    return latest_failures(read_live(list_parts, open_file, schema, FAILED_COLUMNS))


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
