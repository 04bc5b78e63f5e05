"""Twins of an engine around the same weights: how a request would have been answered without compression.

A twin answers one request at a time, so the seconds of the two are comparable: one clip alone, with compression and
without. No second copy of the model: only a KV cache, which counts towards the engine's own budget and is given back
after each answer. The engine's answers, batches and cache are not touched.
"""

from __future__ import annotations

from dataclasses import replace

from luvc.compression import Compression
from luvc.engine import Engine
from luvc.errors import LuvcError, OutOfMemory
from luvc.types import Completion, EngineLoad, Request, TwinRequest


class WithTwins:
    """An engine that also takes `TwinRequest`s. Not thread-safe.

    Submit those while nothing else is in flight: what is alone is measured alone, and then the KV caches of engine and
    twin together stay within `budgets.kv_bytes`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._twins = {True: _twin(engine, engine.compression), False: _twin(engine, Compression.from_any("off"))}
        self._refused: list[Completion] = []
        self._twin_worked = False

    def has_room(self) -> bool:
        return self._engine.has_room()

    def has_work(self) -> bool:
        return bool(self._refused) or any(engine.has_work() for engine in self._all)

    def submit(self, request: Request) -> None:
        """Queue a request. One that a twin cannot take within the KV budget becomes a completion with `error`."""
        if not isinstance(request, TwinRequest):
            self._engine.submit(request)
            return
        twin = self._twins[request.compressed]
        try:
            self._make_room(twin, request)
        except LuvcError as error:
            self._refused.append(Completion(request.id, error=error))
            return
        twin.submit(request)

    def step(self) -> list[Completion]:
        """One step of whoever has work."""
        finished, self._refused = self._refused, []
        for engine in self._all:
            if engine.has_work():
                finished += engine.step()
                self._twin_worked = engine is not self._engine
        for twin in self._twins.values():
            if not twin.has_work():
                twin.cache.release()
        return finished

    def load(self) -> EngineLoad:
        """The engine's, with the KV cache of its twins; their prefills are no batches of the engine."""
        load = self._engine.load()
        kv_bytes = sum(engine.cache.allocated_bytes for engine in self._all)
        return replace(load, kv_bytes=kv_bytes, prefill_tokens=0 if self._twin_worked else load.prefill_tokens)

    def facts(self) -> dict[str, str]:
        return self._engine.facts()

    @property
    def _all(self) -> tuple[Engine, ...]:
        return (self._engine, *self._twins.values())

    def _make_room(self, twin: Engine, request: TwinRequest) -> None:
        limit, needed = self._engine.budgets.kv_bytes, twin.kv_bytes(request)
        if needed > limit:
            raise OutOfMemory(
                f"request {request.id!r} takes {needed} bytes of KV cache "
                f"{'with' if request.compressed else 'without'} compression, the budget is {limit}",
                "a larger run.kv_bytes, fewer frames or fewer new tokens",
            )
        if self._engine.cache.allocated_bytes + needed > limit:
            self._engine.cache.release()
        left = limit - self._engine.cache.allocated_bytes
        twin.budgets = replace(twin.budgets, kv_bytes=max(needed, left))


def _twin(engine: Engine, compression: Compression) -> Engine:
    # Without captured decode steps: those of a cache that is given back each time would only be captured again.
    eos_ids, backend = tuple(engine.eos_ids), engine.backend.name
    return Engine(engine.runtime, compression, engine.budgets, eos_ids, backend, decode_graphs=False)
