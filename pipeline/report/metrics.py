"""From the tables and logs of an output folder to `Metrics`. Pure: Arrow tables in, frozen data out.

Scope of the counts: the plan, that is the units of the manifest. A column of results that belongs to the unit
(tokens, frames, length) is repeated on each of its rows, so it is summed over one row per unit; the seconds of the
stages are shared out over the rows, so they are summed over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luvc.errors import LuvcError
from pipeline.report import timeline, words
from pipeline.report.cost import Cost, Prices, Rented, cost
from pipeline.report.records import (
    METRICS_VERSION,
    Bin,
    Cause,
    Failed,
    Integrity,
    LadderStep,
    Lengths,
    Metrics,
    RunFacts,
    Speed,
    StageTime,
    Totals,
)
from pipeline.report.runlog import RunLog

MANIFEST_COLUMNS = ["unit_id", "uri", "duration_s", "prompts", "sample", "error_class"]
RESULTS_COLUMNS = [
    *("unit_id", "prompt_id", "finish_reason", "frames_expected", "frames_decoded", "frames_corrupt", "patches"),
    *("visual_tokens", "merged_tokens", "layer_tokens", "output_tokens", "video_s", "video_decode_s", "encode_s"),
    *("prefill_s", "decode_s", "run_id", "finished_at"),
]
WORK_COLUMNS = ["unit_id", "run_id", "finished_at", "video_s", "visual_tokens", "merged_tokens", "output_tokens"]
FAILURES_COLUMNS = [
    *("unit_id", "uri", "start_s", "end_s", "stage", "error_class", "message", "hint", "attempts", "retryable"),
    *("video_s", "run_id", "failed_at"),
]

STAGES = {"video_decode": "cpu", "encode": "engine", "prefill": "engine", "decode": "engine"}
EXAMPLES = 5
LENGTH_BINS = 24
LAYER_SLICE = 65_536


class InvariantError(LuvcError):
    """The files of an output contradict each other."""


def compute(
    manifest: pa.Table, results: pa.Table, failures: pa.Table, runs: Sequence[RunLog], run: RunLog | None
) -> Metrics:
    """All figures of a report.

    Args:
        manifest, results, failures: with at least the columns named above.
        runs: all runs of the output.
        run: the one the report is about, with all its heartbeats; None before the first run.

    Raises:
        InvariantError: planned is not done + failed + pending.
    """
    planned_ids = manifest["unit_id"]
    in_plan = pc.is_in(results["unit_id"], value_set=_distinct(planned_ids))
    answers, duplicates = _without_duplicates(_keep(results, in_plan))
    units = _keep(answers, _first_rows(answers["unit_id"]))
    failed = _failed_units(failures, planned_ids, units["unit_id"])
    totals = _totals(manifest, answers, units, failed)
    strays = int(len(results) - (pc.sum(in_plan).as_py() or 0))

    own = None if run is None else _work([run], results, failures)
    every = _work(runs, results, failures)
    facts = None if run is None or own is None else _run_facts(run, own)
    layer_means, unit_means = _layers(units["layer_tokens"])
    stages = _stages(answers, units, run)
    by_name = {stage.name: stage for stage in stages}
    return Metrics(
        version=METRICS_VERSION,
        outcome=words.outcome(totals, facts),
        bottleneck=words.bottleneck(by_name, facts, totals.done_video_s / 3600),
        totals=totals,
        integrity=_integrity(manifest, answers, units, duplicates, strays, run),
        run=facts,
        run_speed=None if own is None else _speed(own),
        all_runs_speed=_speed(every),
        run_cost=None if own is None else _cost(own),
        all_runs_cost=_cost(every),
        stages=stages,
        ladder=_ladder(units, unit_means),
        layer_tokens=tuple(layer_means.tolist()),
        failures=_causes(failed),
        finish_reasons=_counts(answers["finish_reason"]),
        output_lengths=_lengths(answers["output_tokens"]),
        timeline=() if own is None else timeline.moments(_intervals(own), _moments(len(own.units))),
    )


def interval_table(run: RunLog, results: pa.Table, failures: pa.Table) -> pa.Table:
    """Rows of `metrics/part-<run_id>.parquet`."""
    return timeline.metrics_table(run, _intervals(_work([run], results, failures)), rented(run), prices(run))


def rented(run: RunLog) -> Rented:
    """Devices the run held: the cluster's if it says so, else what its configuration asked for."""
    settings = run.config.get("run") or {}
    actors = float(settings.get("actors") or 1)
    per_actor = settings.get("gpus_per_actor")
    asked_gpus = actors * float(per_actor) if isinstance(per_actor, (int, float)) else None  # "auto" says nothing
    asked_cpus = actors * float(settings.get("cpus_per_actor") or 1) + float(settings.get("decode_cpus") or 1)
    gpus, cpus = run.machine.get("gpus"), run.machine.get("cpus")
    return Rented(
        wall_s=run.wall_s,
        gpus=asked_gpus if gpus is None else float(gpus),
        cpus=asked_cpus if cpus is None else float(cpus),
    )


def prices(run: RunLog) -> Prices:
    """Prices of the run's configuration."""
    given = run.config.get("prices") or {}
    return Prices(given.get("gpu_hour_usd"), given.get("cpu_hour_usd"))


# --- which rows count ---------------------------------------------------------------------------------------------


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Equal strings, equal integers."""
    return pc.fill_null(_joined(column).dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)


def _joined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _distinct(column: pa.ChunkedArray) -> pa.Array:
    return _joined(pc.unique(column))


def _keep(table: pa.Table, mask: Any) -> pa.Table:
    """Rows where `mask` holds; the table itself, not a copy, where it holds everywhere."""
    mask = pa.array(mask) if isinstance(mask, np.ndarray) else mask
    return table if pc.sum(mask).as_py() == len(table) else table.filter(mask)


def _first_mask(keys: np.ndarray) -> np.ndarray:
    mask = np.zeros(len(keys), dtype=bool)
    mask[np.unique(keys, return_index=True)[1]] = True
    return mask


def _first_rows(ids: pa.ChunkedArray) -> np.ndarray:
    return _first_mask(_codes(ids))


def _without_duplicates(answers: pa.Table) -> tuple[pa.Table, int]:
    prompts = _codes(answers["prompt_id"]).astype(np.int64)
    keys = _codes(answers["unit_id"]).astype(np.int64) * (int(prompts.max(initial=0)) + 2) + prompts
    mask = _first_mask(keys)
    return _keep(answers, mask), int(len(mask) - mask.sum())


def _failed_units(failures: pa.Table, planned_ids: pa.ChunkedArray, done_ids: pa.ChunkedArray) -> pa.Table:
    """The latest failure row of each planned unit that has no results."""
    planned = pc.is_in(failures["unit_id"], value_set=_distinct(planned_ids))
    done = pc.is_in(failures["unit_id"], value_set=_distinct(done_ids))
    failed = failures.filter(pc.and_not(planned, done))
    failed = failed.sort_by([("failed_at", "descending"), ("unit_id", "ascending")])
    return failed.filter(pa.array(_first_rows(failed["unit_id"])))


# --- counts -------------------------------------------------------------------------------------------------------


def _totals(manifest: pa.Table, answers: pa.Table, units: pa.Table, failed: pa.Table) -> Totals:
    ids = manifest["unit_id"]
    known = pa.concat_arrays([_joined(units["unit_id"]), _joined(failed["unit_id"])])
    waiting = manifest.filter(pc.invert(pc.is_in(ids, value_set=known)))
    planned, done, failures, pending = len(manifest), len(units), len(failed), len(waiting)
    if planned != done + failures + pending:
        repeated = planned - len(_distinct(ids))
        raise InvariantError(
            f"planned {planned} != done {done} + failed {failures} + pending {pending}; "
            f"the manifest names {repeated} unit ids more than once",
            "run `luvc plan` again to rewrite the manifest, and report this: it should never happen",
        )
    failed_rows = manifest.filter(pc.is_in(ids, value_set=_joined(failed["unit_id"])))
    return Totals(
        planned=planned,
        done=done,
        failed=failures,
        pending=pending,
        videos=len(_distinct(manifest["uri"])),
        answers=len(answers),
        planned_video_s=_sum(manifest["duration_s"]),
        done_video_s=_sum(units["video_s"]),
        failed_video_s=_sum(failed_rows["duration_s"]),
        pending_unplannable=len(waiting) - waiting["error_class"].null_count,
    )


def _integrity(
    manifest: pa.Table, answers: pa.Table, units: pa.Table, duplicates: int, strays: int, run: RunLog | None
) -> Integrity:
    prompts = pc.fill_null(pc.list_value_length(manifest["prompts"]), 0)
    wanted = pc.sum(prompts.filter(pc.is_in(manifest["unit_id"], value_set=_joined(units["unit_id"])))).as_py() or 0
    missing = 0
    if wanted != len(answers):
        missing = _units_missing_answers(manifest["unit_id"], prompts, answers["unit_id"])
    corrupt = units["frames_corrupt"]
    return Integrity(
        duplicate_answers=duplicates,
        units_missing_answers=missing,
        answers_of_other_plans=strays,
        units_with_corrupt_frames=int(pc.sum(pc.greater(corrupt, 0)).as_py() or 0),
        corrupt_frames=int(_sum(corrupt)),
        frames_expected=int(_sum(units["frames_expected"])),
        frames_decoded=int(_sum(units["frames_decoded"])),
        unreadable_event_lines=0 if run is None else run.unreadable_lines,
    )


def _units_missing_answers(planned_ids: Any, prompts: Any, answered_ids: Any) -> int:
    planned = pa.table({"unit_id": planned_ids, "wanted": prompts})
    answered = pa.table({"unit_id": answered_ids}).group_by("unit_id").aggregate([([], "count_all")])
    joined = answered.join(planned, "unit_id")
    return int(pc.sum(pc.less(joined["count_all"], pc.cast(joined["wanted"], pa.int64()))).as_py() or 0)


@dataclass(frozen=True)
class _Work:
    """What some runs did: rows of results they wrote, one row of each of their units, rows of failures."""

    runs: Sequence[RunLog]
    rows: pa.Table
    units: pa.Table
    failures: pa.Table

    @property
    def video_s(self) -> float:
        return _sum(self.units["video_s"])


def _work(runs: Sequence[RunLog], results: pa.Table, failures: pa.Table) -> _Work:
    ids = pa.array([run.run_id for run in runs], pa.string())
    results = results.select(WORK_COLUMNS)
    rows = _keep(results, pc.is_in(results["run_id"], value_set=ids))
    units = _keep(rows, _first_rows(rows["unit_id"]))
    return _Work(runs, rows, units, failures.filter(pc.is_in(failures["run_id"], value_set=ids)))


def _run_facts(run: RunLog, work: _Work) -> RunFacts:
    compression = run.config.get("compression")
    if isinstance(compression, Mapping):
        compression = compression.get("name") or compression.get("preset") or "custom"
    return RunFacts(
        run_id=run.run_id,
        name=run.name or run.config.get("name"),
        outcome=run.outcome,
        started_at=None if run.started_at is None else run.started_at.isoformat(),
        ended_at=None if run.ended_at is None else run.ended_at.isoformat(),
        wall_s=run.wall_s,
        units=len(work.units),
        failed=len(_distinct(work.failures["unit_id"])),
        answers=len(work.rows),
        model=(run.config.get("model") or {}).get("id"),
        compression=compression,
        config_hash=run.config_hash,
        versions=dict(run.versions),
        machine=dict(run.machine),
        config=dict(run.config),
    )


def _speed(work: _Work) -> Speed:
    wall_s = sum(run.wall_s for run in work.runs)
    tokens = int(_sum(work.rows["output_tokens"]))
    return Speed(
        runs=len(work.runs),
        wall_s=wall_s,
        units=len(work.units),
        answers=len(work.rows),
        video_s=work.video_s,
        output_tokens=tokens,
        units_per_s=_ratio(len(work.units), wall_s),
        video_hours_per_hour=_ratio(work.video_s, wall_s),
        output_tokens_per_s=_ratio(tokens, wall_s),
    )


def _cost(work: _Work) -> Cost:
    return cost([(rented(run), prices(run)) for run in work.runs], work.video_s, len(work.rows))


def _stages(answers: pa.Table, units: pa.Table, run: RunLog | None) -> tuple[StageTime, ...]:
    seconds = {name: _sum(answers[f"{name}_s"]) for name in STAGES}
    total, video_hours = sum(seconds.values()), _sum(units["video_s"]) / 3600
    last = {} if run is None else run.last_stages
    return tuple(
        StageTime(
            name=name,
            device=device,
            seconds=seconds[name],
            share=_ratio(seconds[name], total),
            s_per_video_hour=_ratio(seconds[name], video_hours),
            busy_s=last[name].busy_s if name in last else None,
            starved_s=last[name].starved_s if name in last else None,
        )
        for name, device in STAGES.items()
    )


def _ladder(units: pa.Table, layer_means: np.ndarray) -> tuple[LadderStep, ...]:
    # A unit without counts by layer was not pruned.
    means = np.where(np.isnan(layer_means), _floats(units["merged_tokens"]), layer_means)
    steps = {
        "patches": _sum(units["patches"]),
        "visual": _sum(units["visual_tokens"]),
        "merged": _sum(units["merged_tokens"]),
        "layers": float(means.sum()),
    }
    return tuple(
        LadderStep(name, tokens, _ratio(tokens, len(units)), _ratio(tokens, steps["visual"]))
        for name, tokens in steps.items()
    )


def _layers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Mean tokens of each layer over the units that have it, and of each unit over its layers (nan without)."""
    totals, counts, unit_means = np.zeros(0), np.zeros(0), [np.zeros(0)]
    # In slices: one array of all layers of a million units would be the largest thing in memory.
    for start in range(0, len(column), LAYER_SLICE):
        lists = _joined(column.slice(start, LAYER_SLICE))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        values = _floats(lists.flatten())
        owner = np.repeat(np.arange(len(lengths)), lengths)
        layer = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        width = max(len(totals), int(lengths.max(initial=0)))
        totals = _padded(totals, width) + np.bincount(layer, weights=values, minlength=width)
        counts = _padded(counts, width) + np.bincount(layer, minlength=width)
        sums = np.bincount(owner, weights=values, minlength=len(lengths))
        unit_means.append(np.where(lengths > 0, sums / np.maximum(lengths, 1), np.nan))
    return totals / np.maximum(counts, 1), np.concatenate(unit_means)


def _padded(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, (0, width - len(values)))


def _causes(failed: pa.Table) -> tuple[Cause, ...]:
    groups = failed.group_by(["stage", "error_class"]).aggregate([("retryable", "sum"), ([], "count_all")])
    causes = []
    for group in groups.to_pylist():
        same = pc.and_(pc.equal(failed["stage"], group["stage"]), pc.equal(failed["error_class"], group["error_class"]))
        shown = failed.filter(same).slice(0, EXAMPLES).to_pylist()
        examples = tuple(
            Failed(row["unit_id"], row["uri"], row["start_s"], row["end_s"], row["message"] or "", row["attempts"])
            for row in shown
        )
        causes.append(
            Cause(
                stage=group["stage"],
                error_class=group["error_class"],
                units=group["count_all"],
                retryable=group["retryable_sum"] or 0,
                hint=next((row["hint"] for row in shown if row["hint"]), ""),
                examples=examples,
            )
        )
    return tuple(sorted(causes, key=lambda cause: (-cause.units, cause.stage, cause.error_class)))


def _lengths(column: pa.ChunkedArray) -> Lengths | None:
    tokens = _floats(column.drop_null())
    if not len(tokens):
        return None
    longest = int(tokens.max())
    width = max(1, -(-(longest + 1) // LENGTH_BINS))
    counts = np.bincount(tokens.astype(np.int64) // width)
    p10, median, p90 = np.percentile(tokens, [10, 50, 90])
    return Lengths(
        mean=float(tokens.mean()),
        p10=float(p10),
        median=float(median),
        p90=float(p90),
        longest=longest,
        bins=tuple(Bin(i * width, (i + 1) * width - 1, int(count)) for i, count in enumerate(counts)),
    )


def _intervals(work: _Work) -> list[timeline.Interval]:
    return timeline.intervals(work.runs[0], work.units, work.rows, work.failures)


def _moments(units: int) -> int:
    """Points of a curve that is not mostly noise: a few units in each."""
    return min(timeline.MAX_MOMENTS, max(12, units // 4))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = [(entry["values"] or "unknown", entry["counts"]) for entry in pc.value_counts(column).to_pylist()]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _sum(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0)


def _floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return pc.fill_null(pc.cast(_joined(column), pa.float64()), 0.0).to_numpy(zero_copy_only=False)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
