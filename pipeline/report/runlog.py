"""One run as its `events.jsonl` and `config.yaml` tell it: when, how long, how it ended, what its stages did.

Pure: text in, frozen data out. A log that ends in the middle of a line (a killed driver) is read up to there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

#: A run without a `run_finished` event: killed, or still going.
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class StageWork:
    """What one stage has done since the run began, summed over its workers."""

    busy_s: float | None = None
    starved_s: float | None = None
    units: int | None = None


@dataclass(frozen=True)
class Heartbeat:
    """State of a run at one moment; all counts are cumulative."""

    at: datetime
    done: int
    failed: int
    left: int
    stages: Mapping[str, StageWork]
    storage_writes: int = 0
    storage_reads: int = 0
    engine_peak_bytes: int = 0


@dataclass(frozen=True)
class RunLog:
    """One run.

    Attributes:
        started_at, ended_at: of the first and the last event.
        wall_s: seconds between them, or what `run_finished` says.
        outcome: done, some_failed, interrupted, aborted, or `UNFINISHED`.
        planned, done, failed, pending: as counted when the run started.
        estimate: what was expected of it, if anything.
        sample: units of its quality slice.
        engines: what each engine said of itself when it was ready.
        heartbeats: all of them, or only the last one (see `parse`).
        config: the run's configuration without storage options.
        unreadable_lines: lines of the log that are not JSON, but for half a line at the end of a killed run.
    """

    run_id: str
    name: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    wall_s: float = 0.0
    outcome: str = UNFINISHED
    planned: int = 0
    done: int = 0
    failed: int = 0
    pending: int = 0
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    config_hash: str | None = None
    estimate: Mapping[str, Any] = field(default_factory=dict)
    sample: tuple[str, ...] = ()
    engines: tuple[Mapping[str, Any], ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    unreadable_lines: int = 0

    @property
    def complete(self) -> bool:
        """Whether it came to its end."""
        return self.outcome in ("done", "some_failed")

    @property
    def last_stages(self) -> Mapping[str, StageWork]:
        """Stage work at the last heartbeat; empty without one."""
        return self.heartbeats[-1].stages if self.heartbeats else {}


def parse(run_id: str, events: str, config: str | None = None, all_heartbeats: bool = True) -> RunLog:
    """Read one run.

    Args:
        run_id: name of the run's folder.
        events: text of `events.jsonl`.
        config: text of `config.yaml`.
        all_heartbeats: false keeps only the last heartbeat, which is much faster for long logs.
    """
    # Not splitlines: a JSON text may hold other characters that end a line for Python, such as U+2028.
    lines = [line for line in events.split("\n") if line.strip()]
    if not all_heartbeats:
        lines = _without_early_heartbeats(lines)
    started: dict[str, Any] = {}
    finished: dict[str, Any] = {}
    times: list[datetime] = []
    heartbeats: list[Heartbeat] = []
    engines: list[Mapping[str, Any]] = []
    unreadable, set_back = 0, timedelta(0)
    for line in lines:
        event = _event(line)
        if event is None:
            unreadable += 1
            continue
        at = _time(event.get("t"))
        if at is not None:
            # Lines stand in the order in which things happened, whatever was done to the clock meanwhile.
            at += set_back
            if times and at < times[-1]:
                set_back += times[-1] - at
                at = times[-1]
            times.append(at)
        kind = event.get("event")
        if kind == "run_started" and not started:
            started = event
        elif kind == "engine_ready":
            engines.append(event)
        elif kind == "run_finished":
            finished = event
        elif kind == "heartbeat" and at is not None:
            heartbeats.append(_heartbeat(at, event))
    # A killed driver may leave half a line behind; that is no damage.
    cut = int(bool(lines) and not finished and _event(lines[-1]) is None)
    wall_s = finished.get("wall_s")
    if wall_s is None:
        wall_s = (times[-1] - times[0]).total_seconds() if times else 0.0
    return RunLog(
        run_id=run_id,
        name=started.get("name"),
        started_at=times[0] if times else None,
        ended_at=times[-1] if times else None,
        wall_s=max(0.0, float(wall_s)),
        outcome=str(finished.get("outcome") or UNFINISHED),
        planned=_count(started.get("planned")),
        done=_count(started.get("done")),
        failed=_count(started.get("failed")),
        pending=_count(started.get("pending")),
        versions=_mapping(started.get("versions")),
        machine=_mapping(started.get("machine")),
        config_hash=started.get("config_hash"),
        estimate=_mapping(started.get("estimate")),
        sample=tuple(started.get("sample") or ()),
        engines=tuple(engines),
        heartbeats=tuple(heartbeats),
        config=without_storage(_yaml(config)),
        unreadable_lines=unreadable - cut,
    )


def newest(runs: Iterable[RunLog]) -> RunLog | None:
    """The run that started last."""
    return max(runs, key=lambda run: (run.started_at or _EPOCH, run.run_id), default=None)


def without_storage(value: Any) -> Any:
    """The configuration without `storage` mappings: they may hold keys, and reports get passed around."""
    if isinstance(value, dict):
        return {key: without_storage(item) for key, item in value.items() if key != "storage"}
    if isinstance(value, list):
        return [without_storage(item) for item in value]
    return value


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _without_early_heartbeats(lines: list[str]) -> list[str]:
    # A cheap look at the text first: a month of nights is a million heartbeat lines.
    beats = [index for index, line in enumerate(lines) if '"heartbeat"' in line]
    dropped = set(beats[:-1])
    return [line for index, line in enumerate(lines) if index not in dropped]


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _heartbeat(at: datetime, event: dict[str, Any]) -> Heartbeat:
    stages = {}
    for name, work in _mapping(event.get("stage")).items():
        work = _mapping(work)
        units = work.get("units")
        stages[name] = StageWork(
            _seconds(work.get("busy_s")), _seconds(work.get("starved_s")), None if units is None else int(units)
        )
    requests = _mapping(event.get("storage"))
    return Heartbeat(
        at,
        _count(event.get("done")),
        _count(event.get("failed")),
        _count(event.get("left")),
        stages,
        _count(requests.get("writes")),
        _count(requests.get("reads")),
        _count(event.get("engine_peak_bytes")),
    )


def _time(text: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _count(value: Any) -> int:
    return int(value or 0)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _yaml(text: str | None) -> dict[str, Any]:
    try:
        return _mapping(yaml.safe_load(text)) if text else {}
    except yaml.YAMLError:
        return {}
