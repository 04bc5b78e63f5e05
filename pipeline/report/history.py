"""Earlier runs of the same name, from their `metrics.json`, and what changed since the last one. Pure.

A run is told by what it added itself, so nights of one output can be compared although the output grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.estimate import Rates, rates_of
from pipeline.report.format import moment, percent, plural, rate, usd

#: Runs shown and read; a month of nights.
NIGHTS = 30

#: A change of speed or cost below this share is not worth a word: runs differ by so much by themselves.
NOTABLE = 0.1

#: The same for the agreement of a slice of some twenty clips.
NOTABLE_AGREEMENT = 0.05


@dataclass(frozen=True)
class Night:
    """One earlier run.

    Attributes:
        run_id: its name in `runs/`.
        started_at: ISO 8601 in UTC.
        outcome: how it ended.
        wall_s: its seconds.
        units, failed: units it finished, and that failed in it.
        video_s: seconds of video it finished.
        units_per_s: units finished per second.
        usd: its cost.
        per_video_hour_usd: cost per hour of video.
        output_tokens: tokens it generated.
        agreement: of the quality slice: tokens that answers share with those without compression.
        tokens_left: mean visual tokens over decoder layers, over those without compression.
        model, compression: what it ran with.
    """

    run_id: str
    started_at: str | None
    outcome: str
    wall_s: float
    units: int
    failed: int
    video_s: float
    units_per_s: float | None
    usd: float | None
    per_video_hour_usd: float | None
    output_tokens: int
    tokens_left: float | None
    model: str | None
    compression: str | None
    agreement: float | None = None


def night(stored: Mapping[str, Any]) -> Night | None:
    """A run as its `metrics.json` tells it; None if it holds no run."""
    run, speed, cost = (stored.get(key) or {} for key in ("run", "run_speed", "run_cost"))
    if not run.get("run_id"):
        return None
    layers: Mapping[str, Any] = next((step for step in stored.get("ladder") or () if step.get("name") == "layers"), {})
    return Night(
        run_id=run["run_id"],
        started_at=run.get("started_at"),
        outcome=run.get("outcome") or "unknown",
        wall_s=run.get("wall_s") or 0.0,
        units=run.get("units") or 0,
        failed=run.get("failed") or 0,
        video_s=speed.get("video_s") or 0.0,
        units_per_s=speed.get("units_per_s"),
        usd=cost.get("usd"),
        per_video_hour_usd=cost.get("per_video_hour_usd"),
        output_tokens=speed.get("output_tokens") or 0,
        tokens_left=layers.get("ratio"),
        model=run.get("model"),
        compression=run.get("compression"),
        agreement=(stored.get("quality") or {}).get("agreement"),
    )


def nights(stored: Iterable[Mapping[str, Any]], name: str | None, before: str | None) -> tuple[Night, ...]:
    """Runs of this name that began before the run `before` (None: all), newest first."""
    same = (one for one in stored if (one.get("run") or {}).get("name") == name)
    found = [one for one in map(night, same) if one is not None and (before is None or one.run_id != before)]
    newest = sorted(found, key=lambda one: (one.started_at or "", one.run_id), reverse=True)
    return tuple(newest[:NIGHTS])


def calibration(
    stored: Iterable[Mapping[str, Any]], name: str, model: Mapping[str, Any], compression: Any, engine: str
) -> tuple[str, Rates] | None:
    """Name and rates of the newest run of this name with this model, compression and engine that finished units."""
    return _newest(stored, name, model, engine, lambda used: used == compression)


def uncompressed_calibration(
    stored: Iterable[Mapping[str, Any]], name: str, model: Mapping[str, Any], engine: str
) -> tuple[str, Rates] | None:
    """The same of the newest run without compression."""
    return _newest(stored, name, model, engine, lambda used: compression_name(used) == "off")


def compression_name(configured: Any) -> str | None:
    """Name of a compression as a configuration holds it: a preset's name, or a mapping."""
    if isinstance(configured, Mapping):
        return configured.get("name") or configured.get("preset") or "custom"
    return configured


def _newest(
    stored: Iterable[Mapping[str, Any]],
    name: str,
    model: Mapping[str, Any],
    engine: str,
    fits: Callable[[Any], bool],
) -> tuple[str, Rates] | None:
    found = []
    for one in stored:
        run = one.get("run") or {}
        config = run.get("config") or {}
        used = (run.get("name"), config.get("model"), (config.get("run") or {}).get("engine"))
        rates = rates_of(one.get("rates"))
        if rates is not None and used == (name, dict(model), engine) and fits(config.get("compression")):
            found.append((run.get("started_at") or "", run["run_id"], rates))
    return max(found, key=lambda entry: entry[:2])[1:] if found else None


def changes(now: Night | None, earlier: Sequence[Night]) -> str | None:
    """What changed since the run before, in a sentence; None before the second run."""
    if now is None or not earlier:
        return None
    last = earlier[0]
    since = f"Since the run before ({moment(last.started_at)})"
    if not now.units:
        return f"{since}: nothing new was done; that one did {plural(last.units, 'clip')}."
    worked = next((one for one in earlier if one.units), None)
    if worked is None:
        return f"{since}: the first run to finish clips."
    found = [
        *_replaced("model", worked.model, now.model),
        *_replaced("compression", worked.compression, now.compression),
        *_moved("faster", "slower", worked.units_per_s, now.units_per_s, _clips_per_s),
        *_moved("dearer", "cheaper", worked.per_video_hour_usd, now.per_video_hour_usd, _usd_per_hour),
    ]
    found += _agreed(worked.agreement, now.agreement)
    if worked.failed != now.failed:
        found.append(f"{now.failed} failed instead of {worked.failed}")
    if last.outcome not in ("done", "some_failed"):
        found.append(f"that one had ended {last.outcome.replace('_', ' ')}")
    if not found:
        return f"{since}: much the same speed and cost."
    return f"{since}: {'; '.join(found)}."


def _clips_per_s(value: float) -> str:
    return f"{rate(value)} clips/s"


def _usd_per_hour(value: float) -> str:
    return f"{usd(value)} per video-hour"


def _replaced(what: str, before: str | None, now: str | None) -> list[str]:
    return [f"{what} {now} instead of {before}"] if before and now and before != now else []


def _agreed(before: float | None, now: float | None) -> list[str]:
    if before is None or now is None or abs(now - before) < NOTABLE_AGREEMENT:
        return []
    return [f"answers agree {percent(now)} with those without compression instead of {percent(before)}"]


def _moved(more: str, less: str, before: float | None, now: float | None, said: Callable[[float], str]) -> list[str]:
    if not before or not now or abs(now / before - 1) < NOTABLE:
        return []
    word = more if now > before else less
    return [f"{percent(abs(now / before - 1))} {word} ({said(before)} → {said(now)})"]
