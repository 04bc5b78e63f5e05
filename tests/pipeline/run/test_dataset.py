"""How work is cut, how much memory it may take, and whose storage options a video gets."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.sources import storage_of
from pipeline.run.dataset import (
    LARGEST_BLOCK_UNITS,
    SMALLEST_STORE_BYTES,
    InputBlocks,
    block_sizes,
    calls,
    gpus_per_actor,
    store_bytes,
)
from pipeline.run.outcome import UNIT, unpacked


@given(st.integers(0, 20_000), st.integers(1, 300))
def test_blocks_cover_all_units(units, workers):
    sizes = block_sizes(units, workers)
    assert sum(sizes) == units
    assert all(1 <= size <= LARGEST_BLOCK_UNITS for size in sizes)
    assert sizes == sorted(sizes, reverse=True)


def test_a_million_units_are_not_a_million_tasks():
    assert len(block_sizes(1_000_000, 64)) < 20_000


def test_few_units_reach_all_workers():
    assert block_sizes(8, 4) == [1] * 8


def test_blocks_keep_rows_in_order():
    table = pa.table({"unit_id": [f"u{i}" for i in range(100)]})
    blocks = InputBlocks(table, 3)
    assert all(block.num_rows == 1 for block in blocks)
    assert [unpacked(block).num_rows for block in blocks] == block_sizes(100, 3)
    assert pa.concat_tables(unpacked(block) for block in blocks)["unit_id"].to_pylist() == table["unit_id"].to_pylist()


def test_calls_hold_the_units_asked_for(bench, videos):
    assert calls(bench.config(videos, run={"in_flight_units": 16, "engine_options": {"decode": False}})) == 5
    assert calls(bench.config(videos, run={"in_flight_units": 16})) == 16


def units(*sizes):
    rows = [
        dict.fromkeys(UNIT.names) | {"unit_id": str(i), "uri": "x", "sample": False}
        | {"frames": f, "frame_height_px": h, "frame_width_px": w}
        for i, (f, h, w) in enumerate(sizes)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=UNIT)


def test_the_store_has_room_for_frames_in_flight(bench, videos):
    config = bench.config(videos, run={"actors": 4, "in_flight_units": 16})
    assert (
        store_bytes(units((64, 448, 448), (8, 224, 224)), config, decoders=8)
        == 4 * (4 * 16 + 2 * 8) * 3 * 64 * 448 * 448
    )
    assert store_bytes(units((None, None, None)), config, decoders=8) == SMALLEST_STORE_BYTES
    blank = bench.config(videos, run={"actors": 4, "engine_options": {"decode": False}})
    assert store_bytes(units((64, 448, 448)), blank, decoders=8) == SMALLEST_STORE_BYTES


@pytest.mark.parametrize(
    ("asked", "cluster", "given_"), [("auto", 0, 0.0), ("auto", 8, 1.0), (0.5, 8, 0.5), (0, 8, 0.0)]
)
def test_gpus(bench, videos, asked, cluster, given_):
    assert gpus_per_actor(bench.config(videos, run={"gpus_per_actor": asked}).run.gpus_per_actor, cluster) == given_


def test_a_video_gets_the_options_of_its_own_input(bench):
    config = bench.config(
        [
            {"path": "s3://one/in", "storage": {"key": "one"}},
            {"path": "s3://two/in", "storage": {"key": "two"}},
            {"path": "/disk", "storage": {"auto_mkdir": True}},
        ]
    )
    assert storage_of(config.inputs, "s3://one/in/deep/a.mp4") == {"key": "one"}
    assert storage_of(config.inputs, "s3://two/elsewhere.mp4") == {"key": "two"}
    assert storage_of(config.inputs, "/other/a.mp4") == {"auto_mkdir": True}
    assert storage_of(config.inputs, "https://host/a.mp4") == {}
