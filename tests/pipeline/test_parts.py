"""Part files: what stands in them, how large they become, and that a reader beside a compaction counts rows once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import parts, schemas
from pipeline.errors import StorageError
from pipeline.parts import Batch, compacted_name, encode, facts_of, is_compacted, is_part, read_live, run_facts
from tests.pipeline.report import outputs

SCHEMA = pa.schema([("unit_id", pa.string()), ("run_id", pa.string())])


def rows(*unit_ids: str, run_id: str = "r") -> pa.Table:
    return pa.table({"unit_id": unit_ids, "run_id": [run_id] * len(unit_ids)}, schema=SCHEMA)


def answers(units: int) -> pa.Table:
    return outputs.results(outputs.manifest(units, {"a": "What?", "b": "Why?"}), np.arange(units), pictures=False)


def test_a_footer_says_which_runs_wrote_the_rows():
    table = pa.concat_tables([answers(3), outputs.results(outputs.manifest(2, {"a": "?"}), np.arange(2), "other-run")])
    facts = {outputs.RUN_ID: run_facts("nightly", "luvc-demo", "9f31", {"luvc": "0.1.0"}), "unknown": {}}
    file = pq.ParquetFile(io.BytesIO(encode(table, facts)))
    assert json.loads(file.metadata.metadata[parts.RUNS]) == [
        {"run_id": outputs.RUN_ID, **facts[outputs.RUN_ID], "rows": 6, "units": 3},
        {"run_id": "other-run", "rows": 2, "units": 2},
    ]
    assert facts_of(file.metadata.metadata) == {outputs.RUN_ID: facts[outputs.RUN_ID], "other-run": {}}
    assert file.metadata.metadata[b"luvc.schema"] == b"results"
    assert parts.REPLACES not in file.metadata.metadata
    assert file.schema_arrow.equals(schemas.RESULTS)
    assert file.read().equals(table.sort_by([(name, "ascending") for name in ("uri", "unit_id", "prompt_id")]))


def test_files_that_know_nothing_of_footers():
    assert facts_of(None) == {}
    assert facts_of({b"luvc.schema": b"results"}) == {}


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("out/results/part-1.parquet", True),
        ("s3://b/results/dt=2026-03-04/part-1.parquet", True),
        ("out/results/_part-1.parquet", False),
        ("out/results/.part-1.parquet.7.tmp", False),
        ("out/results/notes.txt", False),
    ],
)
def test_which_files_are_data(path: str, data: bool):
    assert is_part(path) == data


def test_a_compacted_file_is_known_by_its_name_and_sorts_with_its_first_source():
    name = compacted_name("20260304-010000-ab12", "0123")
    assert is_compacted(f"out/results/{name}")
    assert not is_compacted("out/results-compact-x/part-20260304-010000-ab12-driver-00000.parquet")
    assert "part-20260303-010000-ab12-driver-00009" < name < "part-20260305-010000-ab12-driver-00000"


def test_a_batch_is_full_when_the_file_will_be():
    """Not when the rows in memory are so large: those of this table are many times the file."""
    table, target = answers(20_000), 120_000
    batch, sizes = Batch(target), []
    for start in range(0, len(table), 200):
        batch.add(table.slice(start, 200))
        if batch.full:
            data = encode(batch.table)
            sizes.append(len(data))
            assert batch.table.nbytes > 2 * len(data)
            batch.written(len(data))
    assert len(sizes) >= 2
    assert all(0.8 * target < size < 1.25 * target for size in sizes)


def test_a_batch_never_grows_beyond_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "MOST_ARROW_BYTES", 1000)
    batch = Batch(1 << 30)
    batch.add(rows("a"))
    assert not batch.full
    batch.add(rows(*["a"] * 100))
    assert batch.full


# -- readers beside a compaction


def files_of_a_night() -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    """All files that ever are, and in which order a compaction makes and deletes them."""
    plain = {f"dt=1/part-{name}.parquet": encode(rows(name, name * 2)) for name in "abcdef"}
    first, second, third = (f"dt=1/{compacted_name(name, '0')}" for name in ("a", "aa", "d"))

    def joined(*names: str, units: str) -> bytes:
        return encode(rows(*units, *(unit * 2 for unit in units)), None, [Path(name).name for name in names])

    a, b, c, d, e, _ = plain
    made = {
        first: joined(a, b, units="ab"),
        second: joined(first, c, units="abc"),
        third: joined(d, e, units="de"),
    }
    steps = [("put", first), ("delete", a), ("delete", b), ("put", second), ("delete", first), ("delete", c)]
    return plain | made, [*steps, ("put", third), ("delete", d), ("delete", e)]


FILES, STEPS = files_of_a_night()


class Store:
    """A store that changes while it is looked at: before each look, some steps of a compaction happen."""

    def __init__(self, order: list[str], steps: list[int]) -> None:
        self.there = {name for name in FILES if not is_compacted(name)}
        self._order = order
        self._steps = iter(steps)
        self._left = iter(STEPS)

    def _look(self) -> None:
        for _ in range(next(self._steps, 0)):
            kind, name = next(self._left, ("", ""))
            if kind == "put":
                self.there.add(name)
            elif kind:
                self.there.remove(name)

    def list_parts(self) -> list[str]:
        """Not at one moment: each name is seen or not when its turn comes."""
        listed = []
        for name in self._order:
            self._look()
            if name in self.there:
                listed.append(name)
        return listed

    def open(self, name: str) -> io.BytesIO:
        self._look()
        if name not in self.there:
            raise FileNotFoundError(name)
        return io.BytesIO(FILES[name])


@settings(max_examples=100, deadline=None)
@given(st.permutations(sorted(FILES)), st.lists(st.integers(0, 3), max_size=40))
def test_a_reader_beside_a_compaction_counts_each_row_once(order, steps):
    store = Store(order, steps)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "READERS", 1)
        found = read_live(store.list_parts, store.open, SCHEMA, ["unit_id"], sleep=lambda _: None)
    assert sorted(found["unit_id"].to_pylist()) == sorted(name * times for name in "abcdef" for times in (1, 2))


def read(list_parts: Callable[[], list[str]]) -> pa.Table:
    return read_live(list_parts, lambda name: io.BytesIO(FILES[name]), SCHEMA, ["unit_id"], sleep=lambda _: None)


def test_what_is_replaced_does_not_count_while_it_is_there():
    assert read(lambda: sorted(FILES)).num_rows == 12


def test_the_same_name_in_another_folder_is_another_file():
    names = [name for name in FILES if is_compacted(name)] + ["dt=2/part-a.parquet"]
    FILES["dt=2/part-a.parquet"] = FILES["dt=1/part-a.parquet"]
    try:
        assert read(lambda: names).num_rows == 2 * (3 + 2 + 1)
    finally:
        del FILES["dt=2/part-a.parquet"]


def test_no_files_no_rows():
    assert read(list).equals(rows().select(["unit_id"]))


def test_a_file_that_is_listed_and_never_there_is_an_error():
    def gone(name: str) -> io.BytesIO:
        raise FileNotFoundError(name)

    with pytest.raises(StorageError, match="keep changing"):
        read_live(lambda: ["part-x.parquet"], gone, SCHEMA, ["unit_id"], sleep=lambda _: None)
