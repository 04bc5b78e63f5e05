"""The running pipeline as an iterator for the driver: batches of outcomes, and a pulse when there are none.

A thread reads Ray Data and fills a short queue, so the driver's loop can keep its heartbeat, renew its lease and
answer signals while nothing comes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from luvc.errors import LuvcError
from pipeline.config import RunConfig
from pipeline.run.board import Board, Snapshot
from pipeline.run.dataset import build, stream
from pipeline.run.outcome import Facts
from pipeline.run.stages import Decode

#: Seconds without outcomes after which the driver gets a pulse.
PULSE_S = 0.25
SNAPSHOT_S = 1.0
QUEUE_BATCHES = 256
GATHER_UNITS = 128

#: Engine processes may die this often in a row, for each actor, before the run is given up.
ENGINE_STARTS = 5


class PipelineFailed(LuvcError):
    """Ray Data stopped with an error that is not a unit's."""


class Feed:
    """Runs units through the pipeline.

    Args:
        units: `[UNIT]`.
        decode: replaces the decoder in tests.
    """

    def __init__(self, units: pa.Table, config: RunConfig, facts: Facts, decode: Decode | None = None) -> None:
        attempts, actors = config.run.attempts, config.run.model_actors
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._board = (
            ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote(attempts, ENGINE_STARTS * actors)
        )
        self._dataset = build(units, config, facts, self._board, decode)
        self._queue: queue.Queue[pa.Table | BaseException | None] = queue.Queue(QUEUE_BATCHES)
        self._thread = threading.Thread(target=self._read, name="feed", daemon=True)
        self._snapshot = Snapshot()
        self._looked_at = 0.0
        self.stopped = False

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        # A pipeline that is stopped in the middle of a long wait is left to ray.shutdown.
        self._thread.join(timeout=2.0)

    def stop(self) -> None:
        """End the iteration soon; safe to call from a signal handler."""
        self.stopped = True

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            with contextlib.closing(stream(self._dataset)) as outcomes:
                for table in outcomes:
                    while not self.stopped:
                        with contextlib.suppress(queue.Full):
                            self._queue.put(table, timeout=PULSE_S)
                            break
                    if self.stopped:
                        break
        except BaseException as error:  # noqa: BLE001 - handed to the driver's thread
            end = error
        with contextlib.suppress(queue.Full):
            self._queue.put(end, timeout=60.0)

    def __iter__(self) -> Iterator[pa.Table | None]:
        """Outcomes, or None as a pulse.

        Raises:
            PipelineFailed: the pipeline broke.
            LuvcError: a stage asked to abort.
        """
        while not self.stopped:
            tables, end = self._gather()
            yield pa.concat_tables(tables) if tables else None
            if isinstance(end, BaseException):
                raise self._explain(end) from end
            if end:
                return
            abort = self.snapshot().abort
            if abort:
                raise PipelineFailed(*abort)
        tables, _ = self._gather()
        if tables:
            yield pa.concat_tables(tables)

    def _gather(self) -> tuple[list[pa.Table], BaseException | bool]:
        """What has come, up to `GATHER_UNITS`: handling many rows at once is much cheaper than one by one."""
        tables: list[pa.Table] = []
        until = time.monotonic() + PULSE_S
        while len(tables) < GATHER_UNITS:
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return tables, True
            if isinstance(item, BaseException):
                return tables, item
            tables.append(item)
        return tables, False

    def snapshot(self) -> Snapshot:
        """The board, at most a second old."""
        if time.monotonic() - self._looked_at >= SNAPSHOT_S:
            self._snapshot = self._look()
        return self._snapshot

    def _look(self) -> Snapshot:
        self._looked_at = time.monotonic()
        try:
            return ray.get(self._board.snapshot.remote(), timeout=10.0)
        except ray.exceptions.RayError:  # busy, or out of reach for a moment
            return self._snapshot

    def _explain(self, error: BaseException) -> LuvcError:
        """A reason that a stage gave is worth more than Ray's trace of its consequences."""
        with contextlib.suppress(Exception):
            abort: Any = self._look().abort
            if abort:
                return PipelineFailed(*abort)
        text = str(error).strip().splitlines()
        last = next((line.strip() for line in reversed(text) if line.strip()), type(error).__name__)
        return PipelineFailed(
            f"the pipeline broke: {type(error).__name__}: {last}",
            "run again to continue; --debug shows the whole trace",
        )
