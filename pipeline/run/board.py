"""Who is working on what: finds the unit that kills its worker, and the stage that does not move.

Ray retries the work of a dead worker without end, so one video that crashes its process would block a run for
ever. Stages therefore note a unit here *before* they touch it. A unit noted twice was in flight when its worker
died: it is a suspect. Suspects run alone, and one that dies alone is given up. Its neighbours, which were only in
the same process, get their answer on the second try.

Plain state without clocks or threads; the job puts one `Board` into a Ray actor beside the driver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Key = tuple[str, str]
Verdict = Literal["together", "alone", "give_up"]


@dataclass(frozen=True)
class Turn:
    """What a worker shall do with a unit.

    Attributes:
        verdict: work on it beside others, alone, or not at all.
        deaths: workers that died while they had it.
    """

    verdict: Verdict
    deaths: int


@dataclass(frozen=True)
class Snapshot:
    """The board at one moment, by stage; `abort` says why the run cannot go on, `engines` what each engine is."""

    started: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    abort: tuple[str, str] | None = None
    engines: tuple[dict[str, Any], ...] = ()


class Board:
    """Notes of units in flight.

    Args:
        attempts: deaths after which a unit is given up, once it had a worker to itself.
        engine_starts: engine processes that may start in a row without one finished unit.
    """

    def __init__(self, attempts: int, engine_starts: int) -> None:
        self._attempts = attempts
        self._engine_starts_left = self._engine_starts = engine_starts
        self._in_flight: dict[Key, str] = {}
        self._alone: dict[str, Key] = {}
        self._deaths: Counter[Key] = Counter()
        self._died_alone: set[Key] = set()
        self._started: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._abort: tuple[str, str] | None = None
        self._engines: list[dict[str, Any]] = []

    def begin(self, stage: str, unit_id: str, worker: str, alone: bool = False) -> Turn:
        """Note that a worker is about to take a unit; answers what to do with it.

        Args:
            worker: the process, not the same after a restart.
            alone: the worker has one unit at a time, so a death has one suspect.
        """
        key = (stage, unit_id)
        died = self._in_flight.pop(key, None)
        if died is not None:
            blamed = self._alone.get(died)
            # While another unit had that worker to itself, this one only waited: no blame.
            if blamed in (None, key):
                self._deaths[key] += 1
            if blamed == key:
                self._died_alone.add(key)
        deaths = self._deaths[key]
        if deaths >= self._attempts and key in self._died_alone:
            return Turn("give_up", deaths)
        self._in_flight[key] = worker
        self._started[stage] += 1
        if alone:
            self._alone[worker] = key
        return Turn("alone" if deaths else "together", deaths)

    def begin_all(self, stage: str, unit_ids: Sequence[str], worker: str) -> list[Turn]:
        """`begin` for units that a worker takes together."""
        return [self.begin(stage, unit_id, worker) for unit_id in unit_ids]

    def end_all(self, stage: str, unit_ids: Sequence[str]) -> None:
        """`end` for each."""
        for unit_id in unit_ids:
            self.end(stage, unit_id)

    def alone(self, stage: str, unit_id: str) -> None:
        """Note that from now on the unit has its worker to itself."""
        worker = self._in_flight.get((stage, unit_id))
        if worker is not None:
            self._alone[worker] = (stage, unit_id)

    def alone_no_more(self, stage: str, unit_id: str) -> None:
        """Note that the unit has survived having its worker to itself; its end is noted once its rows are made.

        Without this, a death in between, which a unit after it caused, would be blamed on it.
        """
        worker = self._in_flight.get((stage, unit_id))
        if worker is not None and self._alone.get(worker) == (stage, unit_id):
            del self._alone[worker]

    def end(self, stage: str, unit_id: str) -> None:
        """Note that the worker has survived the unit, whatever came of it."""
        worker = self._in_flight.pop((stage, unit_id), None)
        if worker is not None and self._alone.get(worker) == (stage, unit_id):
            del self._alone[worker]
        self._finished[stage] += 1
        self._engine_starts_left = self._engine_starts

    def engine_starts(self) -> None:
        """Note that an engine process is starting; too many without a finished unit abort the run."""
        self._engine_starts_left -= 1
        if self._engine_starts_left < 0:
            self.abort(
                f"the engine process died {self._engine_starts} times in a row without finishing a unit",
                "look at the workers' logs; often the device or the container has too little memory for the model",
            )

    def engine_ready(self, facts: dict[str, Any]) -> None:
        """Note what an engine that has started computes with."""
        self._engines.append(facts)

    def abort(self, message: str, hint: str) -> None:
        """Stop the run; the first reason counts."""
        self._abort = self._abort or (message, hint)

    def snapshot(self) -> Snapshot:
        in_flight = Counter(stage for stage, _ in self._in_flight)
        return Snapshot(dict(self._started), dict(self._finished), dict(in_flight), self._abort, tuple(self._engines))
