"""A run over time: work per interval between heartbeats. Pure; arrays and frozen data in and out.

Units, failures and tokens are placed by their own timestamps (`finished_at`, `failed_at`); busy and starved
seconds are differences of the cumulative heartbeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas
from pipeline.report.cost import Prices, Rented, price
from pipeline.report.records import Moment
from pipeline.report.runlog import RunLog, StageWork

STAGES = ("video_decode", "encode", "prefill", "decode", "reference", "sink")

#: More intervals than this are merged for the page: a chart has no more pixels to show them.
MAX_MOMENTS = 120


@dataclass(frozen=True)
class Interval:
    """Work between `start` and `start + length_s`."""

    start: datetime
    length_s: float
    units: int
    failed: int
    video_s: float
    visual_tokens: int
    merged_tokens: int
    output_tokens: int
    stages: Mapping[str, StageWork]


def intervals(run: RunLog, units: pa.Table, answers: pa.Table, failures: pa.Table) -> list[Interval]:
    """Cut a run at its heartbeats.

    Args:
        run: with all heartbeats.
        units: one row per unit of this run: finished_at, video_s, visual_tokens, merged_tokens.
        answers: all rows of results of this run: finished_at, output_tokens.
        failures: failures of this run: failed_at.
    """
    if run.started_at is None:
        return []
    end = max(run.ended_at or run.started_at, run.started_at + timedelta(seconds=run.wall_s))
    marks, stages = _marks(run, end)
    if len(marks) < 2:
        return []
    edges = np.array([mark.timestamp() for mark in marks])
    unit_bin = _bins(units["finished_at"], edges)
    answer_bin = _bins(answers["finished_at"], edges)
    failure_bin = _bins(failures["failed_at"], edges)
    count = len(edges) - 1

    def total(where: np.ndarray, table: pa.Table, column: str) -> np.ndarray:
        return np.bincount(where, weights=_numbers(table[column]), minlength=count)

    unit_counts = np.bincount(unit_bin, minlength=count)
    failed_counts = np.bincount(failure_bin, minlength=count)
    sums = {name: total(unit_bin, units, name) for name in ("video_s", "visual_tokens", "merged_tokens")}
    output_tokens = total(answer_bin, answers, "output_tokens")
    return [
        Interval(
            start=marks[index],
            length_s=float(edges[index + 1] - edges[index]),
            units=int(unit_counts[index]),
            failed=int(failed_counts[index]),
            video_s=float(sums["video_s"][index]),
            visual_tokens=int(sums["visual_tokens"][index]),
            merged_tokens=int(sums["merged_tokens"][index]),
            output_tokens=int(output_tokens[index]),
            stages=stages[index],
        )
        for index in range(count)
    ]


def moments(parts: list[Interval], limit: int = MAX_MOMENTS) -> tuple[Moment, ...]:
    """At most `limit` points for a chart, of about the same length: neighbours are merged."""
    target_s = sum(part.length_s for part in parts) / limit
    merged, group = [], []
    for part in parts:
        group.append(part)
        # Heartbeats tremble by milliseconds; a group that is almost long enough is.
        if sum(one.length_s for one in group) >= 0.99 * target_s:
            merged.append(_moment(group))
            group = []
    if group:
        merged.append(_moment(group))
    return tuple(merged)


def _moment(group: list[Interval]) -> Moment:
    length_s = sum(part.length_s for part in group)
    units = sum(part.units for part in group)
    stages = [(name, work) for part in group for name, work in part.stages.items() if length_s > 0]
    busy: dict[str, float] = {}
    for name, work in stages:
        busy[name] = busy.get(name, 0.0) + (work.busy_s or 0.0) / length_s
    return Moment(
        start=group[0].start.isoformat(),
        interval_s=round(length_s, 3),
        units=units,
        failed=sum(part.failed for part in group),
        video_s=sum(part.video_s for part in group),
        output_tokens=sum(part.output_tokens for part in group),
        units_per_s=units / length_s if length_s > 0 else 0.0,
        busy=busy,
        starved=sum(work.starved_s or 0.0 for _, work in stages) / length_s if length_s > 0 else 0.0,
    )


def metrics_table(run: RunLog, parts: list[Interval], rented: Rented, prices: Prices) -> pa.Table:
    """Rows of `metrics/part-<run_id>.parquet`: for each interval one row `total` and one for each stage."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        common: dict[str, Any] = {
            "run_name": run.name,
            "run_id": run.run_id,
            "interval_start": part.start,
            "interval_s": part.length_s,
        }
        cost_usd = price(Rented(part.length_s, rented.gpus, rented.cpus), prices)
        total = {
            "stage": "total",
            "units": part.units,
            "failed": part.failed,
            "video_s": part.video_s,
            "visual_tokens": part.visual_tokens,
            "merged_tokens": part.merged_tokens,
            "output_tokens": part.output_tokens,
            "cost_usd": cost_usd,
        }
        rows.append(common | total)
        for stage in STAGES:
            work = part.stages.get(stage)
            if work is not None:
                rows.append(
                    common | {"stage": stage, "units": work.units, "busy_s": work.busy_s, "starved_s": work.starved_s}
                )
    return pa.Table.from_pylist(rows, schema=schemas.METRICS)


def _marks(run: RunLog, end: datetime) -> tuple[list[datetime], list[dict[str, StageWork]]]:
    """Edges of the intervals and the stage work in each; the rest after the last heartbeat has none."""
    assert run.started_at is not None
    marks = [run.started_at]
    stages: list[dict[str, StageWork]] = []
    before: Mapping[str, StageWork] = {}
    for beat in run.heartbeats:
        if beat.at <= marks[-1]:
            continue
        marks.append(beat.at)
        stages.append({name: _since(work, before.get(name)) for name, work in beat.stages.items()})
        before = beat.stages
    if end > marks[-1]:
        # What follows the last heartbeat is usually the fraction of a second in which the run ends.
        if len(marks) > 1 and (end - marks[-1]).total_seconds() < 1.0:
            marks[-1] = end
        else:
            marks.append(end)
            stages.append({})
    return marks, stages


def _since(now: StageWork, before: StageWork | None) -> StageWork:
    before = before or StageWork()
    units = None if now.units is None else max(0, now.units - (before.units or 0))
    return StageWork(_less(now.busy_s, before.busy_s), _less(now.starved_s, before.starved_s), units)


def _less(now: float | None, before: float | None) -> float | None:
    return None if now is None else max(0.0, now - (before or 0.0))


def _bins(times: pa.ChunkedArray, edges: np.ndarray) -> np.ndarray:
    """Index of the interval of each time; clocks of other machines may be off, so ends are clipped."""
    seconds = pc.fill_null(pc.cast(pc.cast(times, pa.timestamp("ms", tz="UTC")), pa.int64()), int(edges[0] * 1000))
    found = np.searchsorted(edges, seconds.to_numpy() / 1000.0, side="right") - 1
    return np.clip(found, 0, len(edges) - 2)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.cast(column, pa.float64()), 0.0).to_numpy()
