"""Set arithmetic on unit ids: every planned unit is in exactly one place."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.ledger import FAILED, check_invariant, latest_failures, read_done, read_failed, reckon

START = datetime(2026, 1, 1, tzinfo=UTC)
IDS = st.text("abcdef", min_size=1, max_size=2)


def failed(**rows: tuple[bool, int]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"unit_id": i, "retryable": retryable, "attempts": n} for i, (retryable, n) in rows.items()], schema=FAILED
    )


def test_every_unit_in_one_place():
    ledger = reckon(
        pa.array(["a", "b", "c", "d"]), pa.array(["a", "a", "x"]), failed(a=(True, 1), b=(False, 2), c=(True, 3))
    )
    assert ledger.counts == {"planned": 4, "done": 1, "failed": 2, "pending": 1}
    assert ledger.work().to_pylist() == [False, False, False, True]
    assert ledger.work("retryable").to_pylist() == [False, False, True, True]
    assert ledger.work("all").to_pylist() == [False, True, True, True]
    assert ledger.attempts.to_pylist() == [0, 2, 3, 0]


def test_no_units_at_all():
    empty = pa.array([], pa.string())
    assert reckon(empty, empty, FAILED.empty_table()).counts == {"planned": 0, "done": 0, "failed": 0, "pending": 0}


def test_a_unit_planned_twice_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        reckon(pa.array(["a", "a"]), pa.array([], pa.string()), FAILED.empty_table())


def test_the_invariant_is_checked():
    with pytest.raises(ValueError, match="planned 3 != done 1"):
        check_invariant(planned=3, done=1, failed=1, pending=0)


@given(
    planned=st.sets(IDS),
    done=st.lists(IDS),
    failures=st.lists(st.tuples(IDS, st.booleans(), st.integers(1, 9), st.integers(0, 5))),
)
def test_against_python_sets(planned, done, failures):
    """Whatever stands in the files, the ledger says what plain sets say."""
    rows = [
        {"unit_id": unit, "retryable": retryable, "attempts": attempts, "failed_at": START + timedelta(seconds=at)}
        for unit, retryable, attempts, at in failures
    ]
    schema = pa.schema([*FAILED, ("failed_at", pa.timestamp("ms", tz="UTC"))])
    latest = latest_failures(pa.Table.from_pylist(rows, schema=schema))
    newest = {row["unit_id"]: row for row in sorted(rows, key=lambda row: row["failed_at"])}
    ids = sorted(planned)
    ledger = reckon(pa.array(ids, pa.string()), pa.array(done, pa.string()), latest)
    for index, unit in enumerate(ids):
        is_done, is_failed = unit in done, unit in newest and unit not in done
        assert ledger.done[index].as_py() == is_done
        assert ledger.failed[index].as_py() == is_failed
        assert ledger.pending[index].as_py() == (not is_done and not is_failed)
        assert ledger.retryable[index].as_py() == (is_failed and newest[unit]["retryable"])
        assert ledger.attempts[index].as_py() == (newest[unit]["attempts"] if is_failed else 0)


def test_reads_only_what_it_needs_from_part_files():
    def part(rows):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return buffer.getvalue()

    def at(seconds):
        return START + timedelta(seconds=seconds)

    files = {
        "results/part-1.parquet": part([{"unit_id": "a", "text": "x"}, {"unit_id": "a", "text": "y"}]),
        "results/part-2.parquet": part([{"unit_id": "b", "text": "z"}]),
        "failures/part-1.parquet": part(
            [{"unit_id": "c", "retryable": True, "attempts": 1, "failed_at": at(1), "stage": "s"}]
        ),
        "failures/part-2.parquet": part(
            [{"unit_id": "c", "retryable": False, "attempts": 3, "failed_at": at(2), "stage": "s"}]
        ),
    }
    names = sorted(files)
    done = read_done(lambda: names[2:], lambda path: io.BytesIO(files[path]))
    failures = read_failed(lambda: names[:2], lambda path: io.BytesIO(files[path]))
    assert sorted(done.to_pylist()) == ["a", "b"]
    assert failures.to_pylist() == [{"unit_id": "c", "retryable": False, "attempts": 3}]


def test_a_million_units_are_quick():
    ids = pa.array([f"unit-{i:07d}" for i in range(1_000_000)])
    done = ids.slice(0, 600_000)
    failures = pa.table({"unit_id": ids.slice(600_000, 1000), "retryable": [True] * 1000, "attempts": [1] * 1000}).cast(
        FAILED
    )
    assert reckon(ids, done, failures).counts == {
        "planned": 1_000_000,
        "done": 600_000,
        "failed": 1000,
        "pending": 399_000,
    }
