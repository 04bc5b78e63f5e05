"""The two stages of a run as Ray Data calls them: decode on CPU tasks, answer in engine actors.

Neither raises for a unit: an error becomes the unit's failure row and travels on, because in Ray Data an exception
costs the neighbours of a bad row. What a stage notes on the `Board` before it touches a unit is what lets a dead
worker be blamed on the right one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import ray

from luvc.errors import LuvcError
from luvc.types import Completion, EngineLoad
from pipeline.config import RunConfig
from pipeline.run import gpus, meters
from pipeline.run.board import Turn
from pipeline.run.engine_loop import EngineFailed, EngineLoop, EngineUnavailable
from pipeline.run.engines import open_engine
from pipeline.run.outcome import (
    Facts,
    decoded_row,
    failure_row,
    frames_of,
    outcomes,
    planned_failure,
    request_of,
    result_rows,
)
from pipeline.run.telemetry import RayRecord, tell_load

#: The driver looks for a reason to abort every second or so; an exception before that would bury the reason.
ABORT_S = 5.0

DECODE = "video_decode"
ANSWER = "answer"


#: `pipeline.decode.decode_unit`: manifest row, settings, storage options -> `DecodedClip`.
Decode = Callable[..., Any]


class WorkerDied(LuvcError):
    """The process working on this unit died, every time."""

    retryable = True


def _now() -> datetime:
    return datetime.now(UTC)


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
            return decoded_row(row, {"failure": planned_failure(row, self._run_id, _now())})
        unit_id = row["unit_id"]
        turn: Turn = ray.get(self._board.begin.remote(DECODE, unit_id, _process(), alone=True))
        if turn.verdict == "give_up":
            return decoded_row(row, {"failure": self._failure(row, _died("decoding", turn), turn.deaths)})
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
                clip = decode(row, settings, storage_options=storage_of(self._config, row["uri"]))
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
        return failure_row(row, DECODE, error, attempts, self._run_id, _now())


class AnswerStage:
    """Decoded units in, outcomes out. One engine a process, its own thread; Ray calls from many threads at once.

    Each call waits for its own units only, so the engine sees everything that is in flight to this actor and forms
    its batches itself, by tokens.
    """

    def __init__(self, config: RunConfig, facts: Facts, board: Any) -> None:
        self._config = config
        self._facts = facts
        self._board = board
        self._worker = ray.get_runtime_context().get_actor_id() or ""
        self._answered = False
        ray.get(board.engine_starts.remote())
        self._record = RayRecord(config.name)
        self._restarts = 0
        gpus.watch([str(gpu) for gpu in ray.get_gpu_ids()], self._record)
        self._loop = EngineLoop(lambda: open_engine(config), before_alone=self._note_alone, after_step=self._tell)
        self._peak_bytes = 0
        started = time.perf_counter()
        try:
            self._loop.start()
            startup_s = round(time.perf_counter() - started, 3)
            board.engine_ready.remote({"worker": self._worker, **self._loop.facts, "startup_s": startup_s})
        except EngineUnavailable as error:
            # Raising here would bury this message under Ray's: it starts the actor again and prints each trace.
            ray.get(board.abort.remote(error.message, error.hint))

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.drop_columns("frames_rgb").to_pylist()
        if len(rows) == 1:
            return outcomes([self._outcome(rows[0], table, 0)])
        with ThreadPoolExecutor(max(1, len(rows))) as pool:
            return outcomes(list(pool.map(lambda i: self._outcome(rows[i], table, i), range(len(rows)))))

    def _outcome(self, unit: dict[str, Any], table: pa.Table, index: int) -> dict[str, Any]:
        if unit["failure"] is None:
            ended = self._answer(unit, lambda: frames_of(table, index))
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
        }

    def _answer(self, unit: Mapping[str, Any], frames: Callable[[], Any]) -> dict[str, Any]:
        turn: Turn = ray.get(self._board.begin.remote(ANSWER, unit["unit_id"], _process()))
        if turn.verdict == "give_up":
            return {"failure": self._failure(unit, _died("answering", turn), turn.deaths)}
        try:
            request = request_of(unit, frames(), self._config.generation)
            completion, attempts = self._complete(request, alone=turn.verdict == "alone")
            if completion.error:
                return {"failure": self._failure(unit, completion.error, attempts + turn.deaths)}
            self._answered = True
            return {"results": result_rows(unit, completion, self._facts, _now())}
        except EngineUnavailable as error:
            self._give_up_process(error)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this unit only
            return {"failure": self._failure(unit, error, 1 + turn.deaths)}
        finally:
            self._board.end.remote(ANSWER, unit["unit_id"])

    def _complete(self, request: Any, alone: bool) -> tuple[Completion, int]:
        attempts = self._config.run.attempts
        attempt = 1
        completion = self._loop.submit(request, alone).result()
        while completion.error and completion.error.retryable and attempt < attempts:
            # It was in an engine that broke, perhaps by a neighbour's fault: alone, the fault is clear.
            alone = isinstance(completion.error, EngineFailed)
            attempt += 1
            completion = self._loop.submit(request, alone).result()
        return completion, attempt

    def _give_up_process(self, error: EngineUnavailable) -> None:
        """An engine that worked and cannot be built again needs a new process (a device error sticks to the old)."""
        if self._answered:
            os._exit(1)
        ray.get(self._board.abort.remote(error.message, error.hint))
        time.sleep(ABORT_S)

    def _tell(self, load: EngineLoad) -> None:
        tell_load(self._record, load)
        self._peak_bytes = load.peak_bytes
        restarts = self._loop.times.rebuilds
        if restarts > self._restarts:
            self._record(meters.ENGINE_RESTARTS, restarts - self._restarts)
            self._restarts = restarts

    def _note_alone(self, unit_id: str) -> None:
        ray.get(self._board.alone.remote(ANSWER, unit_id))

    def _failure(self, unit: Mapping[str, Any], error: BaseException, attempts: int) -> dict[str, Any]:
        return failure_row(unit, ANSWER, error, attempts, self._facts.run_id, _now())


def _process() -> str:
    return str(ray.get_runtime_context().get_worker_id())


def _died(doing: str, turn: Turn) -> WorkerDied:
    return WorkerDied(
        f"the worker process died {turn.deaths} times while {doing} this unit, the last time with nothing else to do",
        "look at the workers' logs; often too little memory, or a crash in native code",
    )


def storage_of(config: RunConfig, uri: str) -> dict[str, Any]:
    """The storage options for a video: those of the input it most likely came from.

    An input manifest may name videos anywhere on its store, so without a common path the protocol decides.
    """
    same = [source for source in config.inputs if _protocol(source.path) == _protocol(uri)]
    return dict(max(same, key=lambda source: _shared(source.path, uri)).storage) if same else {}


def _shared(one: str, other: str) -> int:
    """Leading path components that two URLs share."""
    pairs = enumerate(zip(one.split("/"), other.split("/"), strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(one.count("/"), other.count("/")) + 1)


def _protocol(url: str) -> str:
    return url.split("://", 1)[0] if "://" in url else "file"
