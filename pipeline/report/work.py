"""What some runs did, how fast, and at what cost. Pure; logs and tables in, frozen data out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report import actors as model_actors
from pipeline.report import timeline
from pipeline.report.cost import Cost, Prices, Rented, cost
from pipeline.report.estimate import Amount, Rates
from pipeline.report.history import compression_name
from pipeline.report.records import RunFacts, Speed, StageTime
from pipeline.report.rows import distinct, first_rows, keep, ratio, total
from pipeline.report.runlog import RunLog

WORK_COLUMNS = ["unit_id", "run_id", "finished_at", "video_s", "visual_tokens", "merged_tokens", "output_tokens"]
STAGES = {"video_decode": "cpu", "encode": "engine", "prefill": "engine", "decode": "engine"}


@dataclass(frozen=True)
class Work:
    """What some runs did: rows of results they wrote, one row of each of their units, rows of failures."""

    runs: Sequence[RunLog]
    rows: pa.Table
    units: pa.Table
    failures: pa.Table

    @property
    def video_s(self) -> float:
        return total(self.units["video_s"])


def work_of(runs: Sequence[RunLog], results: pa.Table, failures: pa.Table) -> Work:
    """Rows that these runs wrote; `results` has at least `WORK_COLUMNS`."""
    ids = pa.array([run.run_id for run in runs], pa.string())
    results = results.select(WORK_COLUMNS)
    rows = keep(results, pc.is_in(results["run_id"], value_set=ids))
    units = keep(rows, first_rows(rows["unit_id"]))
    return Work(runs, rows, units, failures.filter(pc.is_in(failures["run_id"], value_set=ids)))


def run_facts(run: RunLog, work: Work) -> RunFacts:
    """The run as a report names it."""
    return RunFacts(
        run_id=run.run_id,
        name=run.name or run.config.get("name"),
        outcome=run.outcome,
        started_at=None if run.started_at is None else run.started_at.isoformat(),
        ended_at=None if run.ended_at is None else run.ended_at.isoformat(),
        wall_s=run.wall_s,
        units=len(work.units),
        failed=len(distinct(work.failures["unit_id"])),
        answers=len(work.rows),
        model=(run.config.get("model") or {}).get("id"),
        compression=compression_name(run.config.get("compression")),
        config_hash=run.config_hash,
        versions=dict(run.versions),
        machine=dict(run.machine),
        engine=_engine(run),
        config=dict(run.config),
    )


def _engine(run: RunLog) -> dict[str, Any]:
    """What the engines computed with; start-up time and memory of the worst."""
    facts: dict[str, Any] = {}
    for name in ("attention", "dtype", "device"):
        values = sorted({str(engine[name]) for engine in run.engines if engine.get(name)})
        if values:
            facts[name] = ", ".join(values)
    startups = [float(engine.get("startup_s") or 0) for engine in run.engines]
    if startups:
        facts["startup_s"] = max(startups)
    if run.heartbeats and run.heartbeats[-1].engine_peak_bytes:
        facts["peak_bytes"] = run.heartbeats[-1].engine_peak_bytes
    return facts


def speed(work: Work) -> Speed:
    """Work per wall time."""
    wall_s = sum(run.wall_s for run in work.runs)
    tokens = int(total(work.rows["output_tokens"]))
    return Speed(
        runs=len(work.runs),
        wall_s=wall_s,
        units=len(work.units),
        answers=len(work.rows),
        video_s=work.video_s,
        output_tokens=tokens,
        units_per_s=ratio(len(work.units), wall_s),
        video_hours_per_hour=ratio(work.video_s, wall_s),
        output_tokens_per_s=ratio(tokens, wall_s),
    )


def cost_of(work: Work) -> Cost:
    """Cost of these runs at the prices of each."""
    return cost([(rented(run), prices(run)) for run in work.runs], work.video_s, len(work.rows))


def stage_times(answers: pa.Table, units: pa.Table, run: RunLog | None) -> tuple[StageTime, ...]:
    """Seconds of the plan's done units, and of the run."""
    seconds = {name: total(answers[f"{name}_s"]) for name in STAGES}
    whole_s, video_hours = sum(seconds.values()), total(units["video_s"]) / 3600
    last = {} if run is None else run.last_stages
    return tuple(
        StageTime(
            name=name,
            device=device,
            seconds=seconds[name],
            share=ratio(seconds[name], whole_s),
            s_per_video_hour=ratio(seconds[name], video_hours),
            busy_s=last[name].busy_s if name in last else None,
            starved_s=last[name].starved_s if name in last else None,
        )
        for name, device in STAGES.items()
    )


def amount(units: pa.Table) -> Amount:
    """Rows of a manifest, added up."""

    def tflop(column: str) -> float | None:
        return None if units[column].null_count == len(units) else total(units[column]) / 1e12

    return Amount(
        units=len(units),
        video_s=total(units["duration_s"]),
        vision_tflop=tflop("vision_flops") or 0.0,
        text_tflop=tflop("text_flops") or 0.0,
        full_vision_tflop=tflop("full_vision_flops"),
        full_text_tflop=tflop("full_text_flops"),
    )


def rates(run: RunLog, work: Work, manifest: pa.Table, stages: Sequence[StageTime]) -> Rates | None:
    """What the run needed for its units; None if it was not measured, or did units that are no longer planned."""
    done = manifest.filter(pc.is_in(manifest["unit_id"], value_set=distinct(work.units["unit_id"])))
    by_name = {stage.name: stage for stage in stages}
    waits = [by_name[name].starved_s for name in ("encode", "prefill")]
    if not len(done) or len(done) != len(work.units) or waits[0] is None:
        return None
    starved_s = sum(wait or 0.0 for wait in waits)
    busy = {name: stage.busy_s or 0.0 for name, stage in by_name.items()}
    settings = run.config.get("run") or {}
    actors = model_actors.count(settings)
    held = rented(run)
    engine_s = busy["encode"] + busy["prefill"] + busy["decode"]
    reference_s = reference_seconds(run)
    active_s = min(run.wall_s, (engine_s + starved_s) / actors)
    free_cpus = held.cpus - model_actors.cpus(settings)
    return Rates(
        done=amount(done),
        video_decode_s=busy["video_decode"],
        vision_s=busy["encode"],
        text_s=busy["prefill"] + busy["decode"],
        starved_s=starved_s,
        start_up_s=max(0.0, run.wall_s - active_s - reference_s / actors),
        active_s=active_s,
        actors=actors,
        decoders=max(1.0, free_cpus // float(settings.get("decode_cpus") or 1)),
        gpus=held.gpus,
        cpus=held.cpus,
        reference_s=reference_s,
    )


def reference_seconds(run: RunLog) -> float:
    """Engine seconds that went into the quality slice."""
    work = run.last_stages.get("reference")
    return (work.busy_s or 0.0) if work else 0.0


def rented(run: RunLog) -> Rented:
    """Devices the run held: the cluster's if it says so, else what its configuration asked for."""
    settings = run.config.get("run") or {}
    asked_gpus = model_actors.gpus(settings)
    asked_cpus = model_actors.cpus(settings) + float(settings.get("decode_cpus") or 1)
    gpus, cpus = run.machine.get("gpus"), run.machine.get("cpus")
    return Rented(
        wall_s=run.wall_s,
        gpus=asked_gpus if gpus is None else float(gpus),
        cpus=asked_cpus if cpus is None else float(cpus),
        storage_writes=run.heartbeats[-1].storage_writes if run.heartbeats else 0,
        storage_reads=run.heartbeats[-1].storage_reads if run.heartbeats else 0,
    )


def prices(run: RunLog) -> Prices:
    """Prices of the run's configuration."""
    given = run.config.get("prices") or {}
    return Prices(**{field.name: given.get(field.name) for field in fields(Prices)})


def intervals(work: Work) -> list[timeline.Interval]:
    """The work of a single run, cut at its heartbeats."""
    return timeline.intervals(work.runs[0], work.units, work.rows, work.failures)


def points(units: int) -> int:
    """Points of a curve that is not mostly noise: a few units in each."""
    return min(timeline.MAX_MOMENTS, max(12, units // 4))
