"""From the tables and logs of an output folder to `Metrics`. Pure: Arrow tables in, frozen data out.

What is counted how stands in the modules it is put together from: `rows`, `counts`, `tokens`, `work`, `estimate`,
`history`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report import counts, history, timeline, tokens, words
from pipeline.report.estimate import Estimate, Rates, Stretched, Uncompressed, compared, uncompressed
from pipeline.report.quality import Slice
from pipeline.report.records import METRICS_VERSION, Metrics, RunFacts
from pipeline.report.rows import distinct, failed_units, first_rows, keep, without_duplicates
from pipeline.report.runlog import RunLog
from pipeline.report.work import (
    Work,
    cost_of,
    intervals,
    points,
    prices,
    rates,
    reference_seconds,
    rented,
    run_facts,
    speed,
    stage_times,
    work_of,
)

FLOPS_COLUMNS = ["vision_flops", "text_flops", "full_vision_flops", "full_text_flops"]
MANIFEST_COLUMNS = ["unit_id", "uri", "duration_s", "prompts", "sample", "error_class", *FLOPS_COLUMNS]
RESULTS_COLUMNS = [
    *("unit_id", "prompt_id", "finish_reason", "frames_expected", "frames_decoded", "frames_corrupt", "patches"),
    *("visual_tokens", "merged_tokens", "layer_tokens", "output_tokens", "video_s", "video_decode_s", "encode_s"),
    *("prefill_s", "decode_s", "run_id", "finished_at"),
]
FAILURES_COLUMNS = [
    *("unit_id", "uri", "start_s", "end_s", "stage", "error_class", "message", "hint", "attempts", "retryable"),
    *("video_s", "run_id", "failed_at"),
]


def compute(
    manifest: pa.Table,
    results: pa.Table,
    failures: pa.Table,
    runs: Sequence[RunLog],
    run: RunLog | None,
    stored: Sequence[Mapping[str, Any]] = (),
    quality: Slice | None = None,
) -> Metrics:
    """All figures of a report.

    Args:
        manifest, results, failures: with at least the columns named above.
        runs: all runs of the output.
        run: the one the report is about, with all its heartbeats; None before the first run.
        stored: `metrics.json` of runs that began before it.
        quality: the run's quality slice, if it had one.

    Raises:
        InvariantError: planned is not done + failed + pending.
    """
    planned_ids = manifest["unit_id"]
    in_plan = pc.is_in(results["unit_id"], value_set=distinct(planned_ids))
    answers, duplicates = without_duplicates(keep(results, in_plan))
    units = keep(answers, first_rows(answers["unit_id"]))
    failed = failed_units(failures, planned_ids, units["unit_id"])
    totals = counts.totals(manifest, answers, units, failed)
    strays = int(len(results) - (pc.sum(in_plan).as_py() or 0))

    own = None if run is None else work_of([run], results, failures)
    every = work_of(runs, results, failures)
    facts = None if run is None or own is None else run_facts(run, own)
    layer_means, unit_means = tokens.layers(units["layer_tokens"])
    stages = stage_times(answers, units, run)
    by_name = {stage.name: stage for stage in stages}
    busy_s = {stage.name: stage.busy_s or 0.0 for stage in stages}
    stretched = None if quality is None else quality.stretched(busy_s)
    reference_s = 0.0 if run is None else reference_seconds(run)
    measured = None if run is None or own is None else rates(run, own, manifest, stages)
    found = Metrics(
        version=METRICS_VERSION,
        outcome=words.outcome(totals, facts, bool(quality and quality.quality.below)),
        bottleneck=words.bottleneck(by_name, facts, totals.done_video_s / 3600, reference_s),
        totals=totals,
        integrity=counts.integrity(manifest, answers, units, duplicates, strays, run),
        run=facts,
        run_speed=None if own is None else speed(own),
        all_runs_speed=speed(every),
        run_cost=None if own is None else cost_of(own),
        all_runs_cost=cost_of(every),
        estimate=None if run is None or own is None else _estimate(run, own),
        uncompressed=None
        if run is None or facts is None or measured is None
        else _uncompressed(run, facts, measured, stored, stretched),
        rates=measured,
        changes=None,
        history=() if facts is None else history.nights(stored, facts.name, facts.run_id),
        quality=None if quality is None else quality.quality,
        stages=stages,
        ladder=tokens.ladder(units, unit_means),
        layer_tokens=tuple(layer_means.tolist()),
        failures=counts.causes(failed),
        finish_reasons=counts.counts(answers["finish_reason"]),
        output_lengths=counts.lengths(answers["output_tokens"]),
        timeline=() if own is None else timeline.moments(intervals(own), points(len(own.units))),
    )
    return found.changed(history.changes(history.night(found.as_dict()), found.history))


def interval_table(run: RunLog, results: pa.Table, failures: pa.Table) -> pa.Table:
    """Rows of `metrics/part-<run_id>.parquet`."""
    return timeline.metrics_table(run, intervals(work_of([run], results, failures)), rented(run), prices(run))


def _estimate(run: RunLog, own: Work) -> Estimate | None:
    before = Estimate.of(run.estimate)
    complete = run.outcome in ("done", "some_failed")
    return None if before is None else compared(before, run.wall_s, cost_of(own).usd, complete)


def _uncompressed(
    run: RunLog,
    facts: RunFacts,
    measured: Rates,
    stored: Sequence[Mapping[str, Any]],
    stretched: Stretched | None,
) -> Uncompressed | None:
    if facts.compression in (None, "off"):
        return None
    config = run.config
    engine = (config.get("run") or {}).get("engine") or ""
    baseline = history.uncompressed_calibration(stored, facts.name or "", config.get("model") or {}, engine)
    return uncompressed(measured, rented(run), prices(run), baseline, stretched)
