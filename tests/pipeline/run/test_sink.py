"""Part files: whole, sorted, of the right size, on time; all rows of a unit in one file."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.parts import run_facts
from pipeline.run.outcome import failure_row, outcomes, result_rows
from pipeline.run.sink import PartWriter, Sink
from pipeline.schemas import RESULTS
from tests.pipeline.run.test_outcome import FACTS, NOW, completion, payload, unit

RUNS = {"run": run_facts("nightly", "luvc-demo", "9f31", {"luvc": "0.1.0"})}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def make(files, clock, max_units=4, max_bytes=1 << 30, flush_s=30.0):
    parts = []

    def writer(folder):
        return PartWriter(folder, "run-driver", RUNS, files.__setitem__, max_units, max_bytes, flush_s, clock)

    return Sink(writer("results"), writer("failures"), parts.append), parts


def outcome(name, prompts):
    if prompts:
        return {"results": result_rows(unit(name, prompts) | payload(1), completion(name, prompts), FACTS, NOW)}
    return {"failure": failure_row(unit(name), "answer", ValueError("x"), 1, "run", NOW)}


def read(files, folder):
    return {path: pq.read_table(io.BytesIO(data)) for path, data in files.items() if path.startswith(folder)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=8), st.integers(1, 7))
def test_each_row_in_one_file_and_units_whole(batches, max_units):
    files = {}
    sink, parts = make(files, Clock(), max_units)
    expected = []
    for number, batch in enumerate(batches):
        rows = [outcome(f"u{number}-{index}", prompts) for index, prompts in enumerate(batch)]
        expected += [(f"u{number}-{index}", prompts) for index, prompts in enumerate(batch)]
        sink.add(outcomes(rows))
    sink.flush()
    where = {}
    for table in read(files, "results").values():
        for name in set(table["unit_id"].to_pylist()):
            assert name not in where, "a unit in two files"
            where[name] = table["unit_id"].to_pylist().count(name)
    assert where == {name: prompts for name, prompts in expected if prompts}
    failed = [name for table in read(files, "failures").values() for name in table["unit_id"].to_pylist()]
    assert sorted(failed) == sorted(name for name, prompts in expected if not prompts)
    assert sum(part.units for part in parts) == len(expected)
    assert len(files) == len(parts)
    assert all(part.units <= max_units for part in parts)


def test_files_are_sorted_compressed_and_described():
    files = {}
    sink, _ = make(files, Clock(), max_units=3)
    sink.add(outcomes([outcome(name, 2) for name in ("c", "a", "b")]))
    (path,) = files
    assert path == "results/part-run-driver-00000.parquet"
    file = pq.ParquetFile(io.BytesIO(files[path]))
    assert file.schema_arrow.equals(RESULTS)
    assert file.schema_arrow.metadata[b"luvc.schema"] == b"results"
    assert all(field.metadata[b"description"] for field in file.schema_arrow)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    (run,) = json.loads(file.metadata.metadata[b"luvc.runs"])
    assert run == {"run_id": "run", **RUNS["run"], "rows": 6, "units": 3}
    table = file.read()
    assert table["uri"].to_pylist() == sorted(table["uri"].to_pylist())
    assert table["prompt_id"].to_pylist() == ["p0", "p1"] * 3


def test_a_part_is_written_when_its_time_has_come():
    files, clock = {}, Clock()
    sink, parts = make(files, clock, max_units=100, flush_s=30)
    sink.add(outcomes([outcome("a", 1)]))
    clock.now = 29
    sink.tick()
    assert not files
    clock.now = 30
    sink.tick()
    assert [part.units for part in parts] == [1]
    sink.tick()
    sink.flush()
    assert len(files) == 1


def test_a_part_is_written_when_it_is_large():
    files = {}
    sink, _ = make(files, Clock(), max_units=100, max_bytes=1)
    sink.add(outcomes([outcome("a", 1)]))
    assert len(files) == 1


def test_rows_are_kept_when_a_write_fails():
    files, full = {}, [True]

    def write(path, data):
        if full[0]:
            raise OSError(28, "No space left on device")
        files[path] = data

    writer = PartWriter("results", "r", {}, write, 1, 1 << 30)
    table = pa.Table.from_pylist(outcome("a", 1)["results"], schema=RESULTS)
    with pytest.raises(OSError, match="No space"):
        writer.add(table, 1)
    full[0] = False
    part = writer.flush()
    assert part.rows == 1
    assert list(files) == ["results/part-r-00000.parquet"]
