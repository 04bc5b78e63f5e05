"""What the actors that hold a model share: an engine loop, the board, attempts, and who is blamed for what.

One engine a process, in its own thread; Ray calls from many threads at once, and each call waits for its own units
only. So the engine sees everything that is in flight to this actor and forms its batches itself, by tokens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray

from luvc.errors import LuvcError
from luvc.types import Completion, EngineLoad, EngineProtocol, Request
from pipeline.config import RunConfig
from pipeline.run import gpus, meters
from pipeline.run.board import Turn
from pipeline.run.engine_loop import EngineFailed, EngineLoop, EngineUnavailable
from pipeline.run.outcome import failure_row
from pipeline.run.telemetry import RayRecord, tell_load

#: The driver looks for a reason to abort every second or so; an exception before that would bury the reason.
ABORT_S = 5.0


@dataclass(frozen=True)
class _Asked:
    """A request in the engine's hands."""

    request: Request
    answer: Future[Completion]


class WorkerDied(LuvcError):
    """The process working on this unit died, every time."""

    retryable = True


class EngineStage:
    """An actor around an engine.

    Args:
        stage: name of the stage on the board and in failures.
        doing: what it does to a unit, for messages.
        config: of the run.
        run_id: of the run.
        board: where units are noted before they are touched.
        open_engine: builds the engine.
    """

    def __init__(
        self,
        stage: str,
        doing: str,
        config: RunConfig,
        run_id: str,
        board: Any,
        open_engine: Callable[[RunConfig], EngineProtocol],
    ) -> None:
        self._stage, self._doing = stage, doing
        self._config = config
        self._run_id = run_id
        self._board = board
        self._worker = ray.get_runtime_context().get_actor_id() or ""
        self._finished_one = False
        ray.get(board.engine_starts.remote())
        self._record = RayRecord(config.name)
        self._restarts = 0
        gpus.watch([str(gpu) for gpu in ray.get_gpu_ids()], self._record)
        self._loop = EngineLoop(
            lambda: open_engine(config), self._note_alone, self._note_survived, after_step=self._tell
        )
        self._peak_bytes = 0
        started = time.perf_counter()
        try:
            self._loop.start()
            startup_s = round(time.perf_counter() - started, 3)
            board.engine_ready.remote({"worker": self._worker, **self._loop.facts, "startup_s": startup_s})
        except EngineUnavailable as error:
            # Raising here would bury this message under Ray's: it starts the actor again and prints each trace.
            ray.get(board.abort.remote(error.message, error.hint))

    def finish(
        self,
        units: Sequence[Mapping[str, Any]],
        request: Callable[[int], Request],
        rows: Callable[[int, Completion], dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """For each unit: the `failure` it came with, `rows` of its completion, or its failure here.

        All are handed over before the first is waited for: an engine that gets them one by one forms no batch.
        Raises only when the process has to end.
        """
        ended: list[dict[str, Any]] = [{"failure": unit["failure"]} for unit in units]
        todo = [index for index, unit in enumerate(units) if unit["failure"] is None]
        ids = [units[index]["unit_id"] for index in todo]
        if not ids:
            return ended
        turns: list[Turn] = ray.get(self._board.begin_all.remote(self._stage, ids, process()))
        try:
            asked = [self._ask(units[i], turn, i, request) for i, turn in zip(todo, turns, strict=True)]
            for i, turn, one in zip(todo, turns, asked, strict=True):
                ended[i] = self._answered(units[i], turn, one, partial(rows, i))
            return ended
        except EngineUnavailable as error:
            self._give_up_process(error)
            raise
        finally:
            self._board.end_all.remote(self._stage, ids)

    def _ask(
        self, unit: Mapping[str, Any], turn: Turn, index: int, request: Callable[[int], Request]
    ) -> _Asked | dict[str, Any]:
        """A request on its way, or the failure of a unit that is not asked."""
        if turn.verdict == "give_up":
            return self._failed(unit, died(self._doing, turn), turn.deaths)
        try:
            made = request(index)
            return _Asked(made, self._loop.submit(made, turn.verdict == "alone"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this unit only
            return self._failed(unit, error, 1 + turn.deaths)

    def _answered(
        self,
        unit: Mapping[str, Any],
        turn: Turn,
        asked: _Asked | dict[str, Any],
        rows: Callable[[Completion], dict[str, Any]],
    ) -> dict[str, Any]:
        if isinstance(asked, dict):
            return asked
        try:
            completion, attempts = self._complete(asked)
            if completion.error:
                return self._failed(unit, completion.error, attempts + turn.deaths)
            self._finished_one = True
            return rows(completion)
        except EngineUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this unit only
            return self._failed(unit, error, 1 + turn.deaths)

    def _complete(self, asked: _Asked) -> tuple[Completion, int]:
        attempts = self._config.run.attempts
        attempt = 1
        completion = asked.answer.result()
        while completion.error and completion.error.retryable and attempt < attempts:
            # It was in an engine that broke, perhaps by a neighbour's fault: alone, the fault is clear.
            alone = isinstance(completion.error, EngineFailed)
            attempt += 1
            completion = self._loop.submit(asked.request, alone).result()
        return completion, attempt

    def _give_up_process(self, error: EngineUnavailable) -> None:
        """An engine that worked and cannot be built again needs a new process (a device error sticks to the old)."""
        if self._finished_one:
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
        ray.get(self._board.alone.remote(self._stage, unit_id))

    def _note_survived(self, unit_id: str) -> None:
        ray.get(self._board.alone_no_more.remote(self._stage, unit_id))

    def _failed(self, unit: Mapping[str, Any], error: BaseException, attempts: int) -> dict[str, Any]:
        return {"failure": failure_row(unit, self._stage, error, attempts, self._run_id, now())}


def now() -> datetime:
    """In UTC."""
    return datetime.now(UTC)


def process() -> str:
    """Not the same after a restart."""
    return str(ray.get_runtime_context().get_worker_id())


def died(doing: str, turn: Turn) -> WorkerDied:
    """The error of a unit that is given up."""
    return WorkerDied(
        f"the worker process died {turn.deaths} times while {doing} this unit, the last time with nothing else to do",
        "look at the workers' logs; often too little memory, or a crash in native code",
    )
