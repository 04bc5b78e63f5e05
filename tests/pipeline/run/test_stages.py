"""The stages by themselves: which units share a block, in what order, and what trouble costs. No Ray, a plain board."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.decode.protocol import DecodedClip
from pipeline.errors import CorruptVideo
from pipeline.run import engine_stage, stages
from pipeline.run.board import Board
from pipeline.run.outcome import DECODED, OUTCOME, UNIT, Facts, failure_table, packed, result_table, unpacked


class Local:
    """Calls a board as if it were a Ray actor."""

    def __init__(self) -> None:
        self.board = Board(attempts=2, engine_starts=5)

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.board, name))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Local:
    ray = SimpleNamespace(
        get=lambda value: value,
        get_gpu_ids=list,
        get_runtime_context=lambda: SimpleNamespace(get_worker_id=lambda: "w", get_actor_id=lambda: "a"),
    )
    monkeypatch.setattr(engine_stage, "ray", ray)
    monkeypatch.setattr(stages, "ray", ray)
    monkeypatch.setattr(engine_stage, "RayRecord", lambda name: lambda *_, **__: None)
    return Local()


def units(*names: str, prompts: dict[str, str] | None = None) -> pa.Table:
    rows = [
        dict.fromkeys(UNIT.names)
        | {"unit_id": name, "uri": f"/{name}.mp4", "duration_s": 1.0, "timestamps_s": [0.5], "frames": 1, "tried": 0}
        | {"frame_height_px": 28, "frame_width_px": 28, "sample": False}
        | {"prompts": [{"prompt_id": "p", "text": (prompts or {}).get(name, "What?")}]}
        | ({"error_class": "NotAVideo", "error_message": "no"} if name.startswith("unplanned") else {})
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=UNIT)


def decode(row: dict[str, Any], settings: Any, storage_options: Any = None) -> DecodedClip:
    if row["unit_id"].startswith("corrupt"):
        raise CorruptVideo("damaged")
    return DecodedClip(np.full((1, 28, 28, 3), len(row["unit_id"]), np.uint8), (0.5,), 1, 1, 0, 0.0)


def test_units_leave_the_decoder_in_blocks_that_the_plan_decides(bench, board):
    stage = stages.DecodeStage(
        bench.config("/videos", run={"in_flight_units": 12, "engine_options": {"decode": False}}), "run", board, decode
    )
    names = ["a", "unplanned", "corrupt", "b", "c", "d", "e"]
    blocks = list(stage(packed(units(*names))))
    assert [block.num_rows for block in blocks] == [1, 1, 1]
    tables = [unpacked(block) for block in blocks]
    assert [table["unit_id"].to_pylist() for table in tables] == [names[:3], names[3:6], names[6:]]
    assert all(table.schema.equals(DECODED) for table in tables)
    causes = [None if row is None else row["error_class"] for row in tables[0]["failure"].to_pylist()]
    assert causes == [None, "NotAVideo", "CorruptVideo"]
    assert board.board.snapshot().in_flight == {}
    stage = stages.DecodeStage(bench.config("/videos", run={"in_flight_units": 12}), "run", board, decode)
    assert [unpacked(block).num_rows for block in stage(packed(units("a", "b")))] == [1, 1]


def test_trouble_in_a_block_costs_only_who_makes_it(bench, board, tmp_path):
    """Several units a call: one refused, one that breaks the engine once, one that failed before."""
    config = bench.config("/videos", run={"in_flight_units": 32, "engine_options": {"decode": False}})
    asked = {"bad": "[fake:error]", "breaks": f"[fake:raise-once={tmp_path / 'raised'}]"}
    (block,) = stages.DecodeStage(config, "run", board, decode)(
        packed(units("a", "bad", "corrupt", "breaks", "b", prompts=asked))
    )
    stage = stages.AnswerStage(config, Facts("run", "model", "off"), board)
    ended = unpacked(stage(block))
    assert ended.schema.equals(OUTCOME)
    assert result_table(ended)["unit_id"].to_pylist() == ["a", "breaks", "b"]
    failures = failure_table(ended)
    assert failures["unit_id"].to_pylist() == ["bad", "corrupt"]
    assert failures["stage"].to_pylist() == ["answer", "video_decode"]
    assert board.board.snapshot().in_flight == {}
    assert ended["worker"].to_pylist() == ["a"] * 5


def test_a_suspect_runs_alone_and_is_given_up_when_it_dies_again(bench, board):
    config = bench.config("/videos", run={"in_flight_units": 32, "engine_options": {"decode": False}})
    stage = stages.AnswerStage(config, Facts("run", "model", "off"), board)
    (block,) = stages.DecodeStage(config, "run", board, decode)(packed(units("a", "b")))
    board.board.begin_all("answer", ["a", "b"], "died together")
    assert board.board.begin("answer", "a", "died alone").verdict == "alone"
    board.board.alone("answer", "a")
    ended = unpacked(stage(block))
    assert result_table(ended)["unit_id"].to_pylist() == ["b"]
    (failure,) = failure_table(ended).to_pylist()
    assert (failure["unit_id"], failure["error_class"], failure["attempts"]) == ("a", "WorkerDied", 2)


def test_a_rehearsal_opens_nothing(bench, board):
    config = bench.config("/videos", run={"engine_options": {"decode": False}, "in_flight_units": 32})
    (block,) = stages.DecodeStage(config, "run", board)(packed(units("a", "b")))
    table = unpacked(block)
    assert table["shape"].to_pylist() == [[1, 14, 14, 3]] * 2
    assert board.board.snapshot().started == {}
