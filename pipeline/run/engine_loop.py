"""One thread that owns an engine; any number of threads hand it requests and wait for answers.

Continuous batching across callers: the loop admits whatever is waiting as soon as the engine has
room, so the engine forms its batches by token budget and not by how callers group their rows.
An exception in the engine costs the requests in flight, not the loop: they complete with a retryable
error and a new engine is built. A request may be asked to run alone, after it was in flight when
something broke: if it breaks again the blame is clear.

Pure threading. Knows nothing of Ray, videos or files.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from luvc.errors import LuvcError
from luvc.types import Completion, EngineLoad, EngineProtocol, Request, TellsFacts, TellsLoad


class EngineFailed(LuvcError):
    """The engine broke while this request was in flight."""

    retryable = True


class EngineUnavailable(LuvcError):
    """No engine can be built, so no request can be answered."""


@dataclass(frozen=True)
class LoopTimes:
    """Seconds since start: working, and waiting for a request with an empty engine."""

    busy_s: float = 0.0
    starved_s: float = 0.0
    rebuilds: int = 0


@dataclass(eq=False)
class _Work:
    request: Request
    alone: bool
    future: Future[Completion]


class EngineLoop:
    """Runs an engine in its own thread.

    Args:
        open_engine: builds the engine; called in the loop's thread, again after the engine broke.
        before_alone: called with the id just before a request that has to run alone is submitted.
        after_alone: called with the id when it is finished, before another one is submitted.
        after_step: called with what the engine holds after each step, if it can say so.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        open_engine: Callable[[], EngineProtocol],
        before_alone: Callable[[str], None] | None = None,
        after_alone: Callable[[str], None] | None = None,
        after_step: Callable[[EngineLoad], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._open_engine = open_engine
        self._before_alone = before_alone
        self._after_alone = after_alone
        self._after_step = after_step
        self._clock = clock
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._in_flight: dict[str, _Work] = {}
        self._held: _Work | None = None
        self._exclusive = False
        self._closing = False
        self._lock = threading.Lock()
        self._times = LoopTimes()
        self._broken: EngineUnavailable | None = None
        self.facts: dict[str, str] = {}  # of the engine, once it is open
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-loop", daemon=True)

    def start(self) -> None:
        """Start the thread and wait for the engine.

        Raises:
            EngineUnavailable: the engine cannot be built.
        """
        self._thread.start()
        self._ready.wait()
        if self._broken:
            raise self._broken

    def submit(self, request: Request, alone: bool = False) -> Future[Completion]:
        """Hand over one request.

        The future gives a completion (an engine that broke is a completion with `EngineFailed`) or
        raises `EngineUnavailable` once the loop has given up.
        """
        work = _Work(request, alone, Future())
        with self._lock:
            if self._broken or self._closing:
                work.future.set_exception(self._broken or EngineUnavailable("the engine loop is closed"))
            else:
                self._inbox.put(work)
        return work.future

    @property
    def times(self) -> LoopTimes:
        """A consistent snapshot."""
        return self._times

    def close(self) -> None:
        """Finish what is in flight, refuse what waits, end the thread."""
        with self._lock:
            self._closing = True
            self._inbox.put(None)
        self._thread.join()

    # The rest runs in the loop's thread.

    def _run(self) -> None:
        engine = self._build()
        self._ready.set()
        while engine is not None:
            try:
                completions = self._advance(engine)
            except Exception as error:  # noqa: BLE001 - whatever broke, the requests in flight are answered
                self._fail_in_flight(error)
                engine = self._build()
                self._add(rebuilds=1)
                continue
            for completion in completions:
                self._finish(completion)
            if self._in_flight:
                continue
            if self._closing and self._held is None:
                break
            if self._held is None:
                self._wait()
        self._refuse_waiting()

    def _advance(self, engine: EngineProtocol) -> list[Completion]:
        started = self._clock()
        try:
            self._admit(engine)
            if not self._in_flight:
                return []
            if not engine.has_work():
                raise RuntimeError(f"the engine lost {len(self._in_flight)} requests")
            finished = engine.step()
            if self._after_step and isinstance(engine, TellsLoad):
                self._after_step(engine.load())
            return finished
        finally:
            self._add(busy_s=self._clock() - started)

    def _build(self) -> EngineProtocol | None:
        try:
            engine = self._open_engine()
            self.facts = engine.facts() if isinstance(engine, TellsFacts) else {}
            return engine
        except Exception as error:  # noqa: BLE001 - reported to every caller
            hint = getattr(error, "hint", "") or "check model.id, model.device and the memory of the device"
            message = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
            unavailable = EngineUnavailable(f"the engine cannot be started: {message}", hint)
            unavailable.__cause__ = error
            with self._lock:
                self._broken = unavailable
            return None

    def _admit(self, engine: EngineProtocol) -> None:
        while not self._exclusive and engine.has_room():
            work = self._held or self._next()
            if work is None:
                return
            if self._in_flight and (work.alone or work.request.id in self._in_flight):
                self._held = work
                return
            self._held = None
            self._exclusive = work.alone
            self._in_flight[work.request.id] = work
            if work.alone and self._before_alone:
                self._before_alone(work.request.id)
            engine.submit(work.request)

    def _next(self) -> _Work | None:
        try:
            return None if self._closing else self._inbox.get_nowait()
        except queue.Empty:
            return None

    def _wait(self) -> None:
        """Block until a request arrives; that time is starvation."""
        started = self._clock()
        self._held = self._inbox.get()
        self._add(starved_s=self._clock() - started)

    def _finish(self, completion: Completion) -> None:
        work = self._in_flight.pop(completion.id, None)
        if work is None:
            return
        self._exclusive = False
        if work.alone and self._after_alone:
            self._after_alone(work.request.id)
        work.future.set_result(completion)

    def _fail_in_flight(self, error: Exception) -> None:
        for request_id in list(self._in_flight):
            failed = EngineFailed(f"the engine broke: {_name(error)}", "it was restarted; try the unit again")
            failed.__cause__ = error
            self._finish(Completion(id=request_id, error=failed))

    def _refuse_waiting(self) -> None:
        reason = self._broken or EngineUnavailable("the engine loop is closed")
        waiting = [self._held] if self._held else []
        with self._lock:
            while not self._inbox.empty():
                work = self._inbox.get_nowait()
                if work:
                    waiting.append(work)
        for work in waiting:
            work.future.set_exception(reason)

    def _add(self, busy_s: float = 0.0, starved_s: float = 0.0, rebuilds: int = 0) -> None:
        now = self._times
        self._times = LoopTimes(now.busy_s + busy_s, now.starved_s + starved_s, now.rebuilds + rebuilds)


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
