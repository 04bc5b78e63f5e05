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

import numpy as np
import pyarrow as pa
import ray

from luvc.types import Completion, Request
from pipeline.config import RunConfig
from pipeline.plan.sources import storage_of
from pipeline.run.board import Turn
from pipeline.run.engine_stage import EngineStage, died, now, process
from pipeline.run.engines import open_encoder, open_engine
from pipeline.run.fake_engine import blank_clip
from pipeline.run.outcome import (
    LARGE,
    Facts,
    decoded_table,
    encoded_of,
    encoded_row,
    failure_row,
    frames_of,
    outcomes,
    packed,
    planned_failure,
    request_of,
    result_rows,
    unpacked,
)
from pipeline.run.quality import REFERENCE, Comparison

DECODE = "video_decode"
ENCODE = "encode"
ANSWER = "answer"


#: `pipeline.decode.decode_unit`: manifest row, settings, storage options -> `DecodedClip`.
Decode = Callable[..., Any]


#: Units that share a block cost the driver little more than one.
LARGEST_GROUP_UNITS = 64


def is_blank(config: RunConfig) -> bool:
    """Whether the run is a rehearsal in which videos stay closed, so that frames take no room."""
    return config.run.engine == "fake" and not config.run.fake.decode


def group_units(config: RunConfig) -> int:
    """Units that a block between two stages holds; an actor has several blocks, so that it never runs dry.

    Several only in a rehearsal without decoding. Elsewhere a unit that had an engine to itself would stay noted so
    until its whole block is done, and be blamed for a neighbour that kills the process meanwhile.
    """
    if not is_blank(config):
        return 1
    return min(LARGEST_GROUP_UNITS, max(1, config.run.in_flight_units // 4))


class DecodeStage:
    """Manifest rows in, the same rows with frames or a failure out: a block as soon as its units are ready."""

    def __init__(self, config: RunConfig, run_id: str, board: Any, decode: Decode | None = None) -> None:
        self._config = config
        self._run_id = run_id
        self._board = board
        self._decode_unit = decode
        self._blank = is_blank(config)
        self._group = group_units(config)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        # Order and number of outputs are fixed by the rows: Ray may run the task again and skips what it has.
        rows = unpacked(block).to_pylist()
        for start in range(0, len(rows), self._group):
            yield packed(self._decode(rows[start : start + self._group]))

    def _decode(self, rows: list[dict[str, Any]]) -> pa.Table:
        decoded = [self._decode_one(row) for row in rows]
        full = [row | added for row, (added, _) in zip(rows, decoded, strict=True)]
        return decoded_table(full, [frames for _, frames in decoded])

    def _decode_one(self, row: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """What decoding adds to a row, and its frames."""
        if row["error_class"]:
            return {"failure": planned_failure(row, self._run_id, now())}, None
        if self._blank:  # nothing that could kill this process
            return self._try(row, Turn("alone", 0))
        unit_id = row["unit_id"]
        # Noted one by one, although they share a block: the unit that kills this process is known at once.
        turn: Turn = ray.get(self._board.begin.remote(DECODE, unit_id, process(), alone=True))
        if turn.verdict == "give_up":
            return {"failure": self._failure(row, died("decoding", turn), turn.deaths)}, None
        try:
            return self._try(row, turn)
        finally:
            self._board.end.remote(DECODE, unit_id)

    def _try(self, row: dict[str, Any], turn: Turn) -> tuple[dict[str, Any], np.ndarray | None]:
        from pipeline.decode import decode_unit, make_thumbnail

        started = time.perf_counter()
        decode = self._decode_unit or (blank_clip if self._blank else decode_unit)
        settings, attempts = self._config.decode, self._config.run.attempts
        for attempt in range(1, attempts + 1):
            try:
                clip = decode(row, settings, storage_options=storage_of(self._config.inputs, row["uri"]))
                thumbnail = make_thumbnail(clip.frames, row["width_px"], row["height_px"]) if row["sample"] else None
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, it costs this unit only
                if attempt == attempts or not getattr(error, "retryable", False):
                    failure = self._failure(row, error, attempt + turn.deaths)
                    return {"failure": failure, "video_decode_s": time.perf_counter() - started}, None
        added = {
            "used_timestamps_s": list(clip.timestamps_s),
            "frames_expected": clip.frames_expected,
            "frames_decoded": clip.frames_decoded,
            "frames_corrupt": clip.frames_corrupt,
            "thumbnail": thumbnail,
            "storage_reads": clip.storage_reads,
            "video_decode_s": time.perf_counter() - started,
        }
        return added, clip.frames

    def _failure(self, row: dict[str, Any], error: BaseException, attempts: int) -> dict[str, Any]:
        return failure_row(row, DECODE, error, attempts, self._run_id, now())


class EncodeStage(EngineStage):
    """Decoded units in, the same units with their visual tokens in place of frames. Holds a model's vision encoder."""

    def __init__(self, config: RunConfig, facts: Facts, board: Any) -> None:
        super().__init__(ENCODE, "encoding", config, facts.run_id, board, open_encoder)

    def __call__(self, block: pa.Table) -> pa.Table:
        table = unpacked(block)
        rows = table.drop_columns("frames_rgb").to_pylist()
        ended = self.finish(
            rows,
            lambda i: request_of(rows[i], frames_of(table, i), self._config.generation),
            lambda i, done: {"clip": done.encoded[0], "encode_s": done.times.encode_s},
        )
        times = {
            "encoder": self._worker,
            "encoder_starved_s": self._loop.times.starved_s,
            "encoder_peak_bytes": self._peak_bytes,
        }
        clips = [one.pop("clip", None) for one in ended]
        made = (encoded_row(row | one | times, clip) for row, one, clip in zip(rows, ended, clips, strict=True))
        return packed(pa.concat_tables(made))


class AnswerStage(EngineStage):
    """Decoded or encoded units in, outcomes out."""

    def __init__(self, config: RunConfig, facts: Facts, board: Any) -> None:
        super().__init__(ANSWER, "answering", config, facts.run_id, board, open_engine)
        self._facts = facts
        self._comparison = Comparison(self._loop, board, facts)

    def __call__(self, block: pa.Table) -> pa.Table:
        table = unpacked(block)
        rows = table.drop_columns([name for name in LARGE if name in table.column_names]).to_pylist()
        clip_of: Callable[[pa.Table, int], Any] = encoded_of if "features" in table.column_names else frames_of
        ended = self._answers(rows, lambda i: request_of(rows[i], clip_of(table, i), self._config.generation))
        times = self._loop.times
        return packed(
            outcomes(
                [
                    one
                    | {
                        "video_decode_s": unit["video_decode_s"],
                        "storage_reads": unit["storage_reads"],
                        "worker": self._worker,
                        "busy_s": times.busy_s,
                        "starved_s": times.starved_s,
                        "engine_peak_bytes": max(self._peak_bytes, unit.get("encoder_peak_bytes") or 0),
                        "encoder": unit.get("encoder"),
                        "encoder_starved_s": unit.get("encoder_starved_s"),
                    }
                    for one, unit in zip(ended, rows, strict=True)
                ]
            )
        )

    def _answers(self, units: list[dict[str, Any]], request: Callable[[int], Request]) -> list[dict[str, Any]]:
        """Results or a failure of each; of units of the sample also how they compare, once all are finished."""
        completed: dict[int, Completion] = {}

        def rows(index: int, completion: Completion) -> dict[str, Any]:
            completed[index] = completion
            return {"results": result_rows(units[index], completion, self._facts, now())}

        ended = self.finish(units, request, rows)
        for index, unit in enumerate(units):
            if "results" in ended[index] and unit["unit_id"] in self._facts.sample:
                ended[index]["quality"] = self._comparison.rows(unit, request(index), completed[index])
        return ended

    def _note_alone(self, unit_id: str) -> None:
        super()._note_alone(unit_id)
        # The same id in the engine may be the unit's second answer; a note about what is not begun does nothing.
        ray.get(self._board.alone.remote(REFERENCE, unit_id))

    def _note_survived(self, unit_id: str) -> None:
        super()._note_survived(unit_id)
        ray.get(self._board.alone_no_more.remote(REFERENCE, unit_id))
