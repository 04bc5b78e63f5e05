"""The stages of a run as Ray Data calls them: decode on CPU tasks, answer in engine actors, or encode and answer in two
pools of them (`run.topology: split`).

Neither raises for a unit: an error becomes the unit's failure row and travels on, because in Ray Data an exception
costs the neighbours of a bad row. What a stage notes on the `Board` before it touches a unit is what lets a dead
worker be blamed on the right one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray

from luvc.types import Completion, Request
from pipeline.config import RunConfig
from pipeline.plan.sources import storage_of
from pipeline.run.board import Turn
from pipeline.run.engine_stage import EngineStage, died, each, now, process
from pipeline.run.engines import open_encoder, open_engine
from pipeline.run.outcome import (
    LARGE,
    Facts,
    decoded_row,
    encoded_of,
    encoded_row,
    failure_row,
    frames_of,
    outcomes,
    planned_failure,
    request_of,
    result_rows,
)
from pipeline.run.quality import REFERENCE, Comparison

DECODE = "video_decode"
ENCODE = "encode"
ANSWER = "answer"


#: `pipeline.decode.decode_unit`: manifest row, settings, storage options -> `DecodedClip`.
Decode = Callable[..., Any]


class DecodeStage:
    """Manifest rows in, the same rows with frames or a failure out, one block a unit as soon as it is ready."""

    def __init__(self, config: RunConfig, run_id: str, board: Any, decode: Decode | None = None) -> None:
        self._config = config
        self._run_id = run_id
        self._board = board
        self._decode_unit = decode

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        # Order and number of outputs are fixed by the rows: Ray may run the task again and skips what it has.
        for row in table.to_pylist():
            yield self._decode(row)

    def _decode(self, row: dict[str, Any]) -> pa.Table:
        if row["error_class"]:
            return decoded_row(row, {"failure": planned_failure(row, self._run_id, now())})
        unit_id = row["unit_id"]
        turn: Turn = ray.get(self._board.begin.remote(DECODE, unit_id, process(), alone=True))
        if turn.verdict == "give_up":
            return decoded_row(row, {"failure": self._failure(row, died("decoding", turn), turn.deaths)})
        started = time.perf_counter()
        try:
            return self._try(row, started, turn)
        finally:
            self._board.end.remote(DECODE, unit_id)

    def _try(self, row: dict[str, Any], started: float, turn: Turn) -> pa.Table:
        from pipeline.decode import decode_unit, make_thumbnail

        decode = self._decode_unit or decode_unit
        settings, attempts = self._config.decode, self._config.run.attempts
        for attempt in range(1, attempts + 1):
            try:
                clip = decode(row, settings, storage_options=storage_of(self._config.inputs, row["uri"]))
                thumbnail = make_thumbnail(clip.frames, row["width_px"], row["height_px"]) if row["sample"] else None
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, it costs this unit only
                if attempt == attempts or not getattr(error, "retryable", False):
                    failure = self._failure(row, error, attempt + turn.deaths)
                    return decoded_row(row, {"failure": failure, "video_decode_s": time.perf_counter() - started})
        payload = {
            "used_timestamps_s": list(clip.timestamps_s),
            "frames_expected": clip.frames_expected,
            "frames_decoded": clip.frames_decoded,
            "frames_corrupt": clip.frames_corrupt,
            "thumbnail": thumbnail,
            "storage_reads": clip.storage_reads,
            "video_decode_s": time.perf_counter() - started,
        }
        return decoded_row(row, payload, clip.frames)

    def _failure(self, row: dict[str, Any], error: BaseException, attempts: int) -> dict[str, Any]:
        return failure_row(row, DECODE, error, attempts, self._run_id, now())


class EncodeStage(EngineStage):
    """Decoded units in, the same units with their visual tokens in place of frames. Holds a model's vision encoder."""

    def __init__(self, config: RunConfig, facts: Facts, board: Any) -> None:
        super().__init__(ENCODE, "encoding", config, facts.run_id, board, open_encoder)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.drop_columns("frames_rgb").to_pylist()
        return pa.concat_tables(each(len(rows), lambda i: self._encoded(rows[i], table, i)))

    def _encoded(self, unit: dict[str, Any], table: pa.Table, index: int) -> pa.Table:
        made: dict[str, Any] = {"clip": None}
        if unit["failure"] is None:
            made |= self.finish(
                unit,
                lambda: request_of(unit, frames_of(table, index), self._config.generation),
                lambda completion: {"clip": completion.encoded[0], "encode_s": completion.times.encode_s},
            )
        clip = made.pop("clip")
        times = {"encoder": self._worker, "encoder_starved_s": self._loop.times.starved_s}
        return encoded_row(unit | made | times, clip)


class AnswerStage(EngineStage):
    """Decoded or encoded units in, outcomes out."""

    def __init__(self, config: RunConfig, facts: Facts, board: Any) -> None:
        super().__init__(ANSWER, "answering", config, facts.run_id, board, open_engine)
        self._facts = facts
        self._comparison = Comparison(self._loop, board, facts)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.drop_columns([name for name in LARGE if name in table.column_names]).to_pylist()
        return outcomes(each(len(rows), lambda i: self._outcome(rows[i], table, i)))

    def _outcome(self, unit: dict[str, Any], table: pa.Table, index: int) -> dict[str, Any]:
        if unit["failure"] is None:
            ended = self._answered(unit, lambda: request_of(unit, self._clip(table, index), self._config.generation))
        else:
            ended = {"failure": unit["failure"]}
        times = self._loop.times
        return ended | {
            "video_decode_s": unit["video_decode_s"],
            "storage_reads": unit["storage_reads"],
            "worker": self._worker,
            "busy_s": times.busy_s,
            "starved_s": times.starved_s,
            "engine_peak_bytes": self._peak_bytes,
            "encoder": unit.get("encoder"),
            "encoder_starved_s": unit.get("encoder_starved_s"),
        }

    def _answered(self, unit: dict[str, Any], request: Callable[[], Request]) -> dict[str, Any]:
        """Results or a failure; of a unit of the sample also how it compares."""
        completed: list[Completion] = []

        def rows(completion: Completion) -> dict[str, Any]:
            completed.append(completion)
            return {"results": result_rows(unit, completion, self._facts, now())}

        ended = self.finish(unit, request, rows)
        if "results" in ended and unit["unit_id"] in self._facts.sample:
            ended["quality"] = self._comparison.rows(unit, request(), completed[-1])
        return ended

    def _note_alone(self, unit_id: str) -> None:
        super()._note_alone(unit_id)
        # The same id in the engine may be the unit's second answer; a note about what is not begun does nothing.
        ray.get(self._board.alone.remote(REFERENCE, unit_id))

    def _clip(self, table: pa.Table, index: int) -> Any:
        return encoded_of(table, index) if "features" in table.column_names else frames_of(table, index)
