"""Figures: counted from files, adding up, and the same whatever order the rows come in."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline import schemas
from pipeline.report import InvariantError, Metrics, counts, tokens
from pipeline.report import metrics as figures
from pipeline.report.runlog import RunLog, parse
from tests.pipeline.report import outputs

PROMPT = {"caption": "Describe this video."}
TWO = {"caption": "Describe this video.", "rain": "Is it raining?"}


def tables(count: int, done: int, failed: int, prompts: dict | None = None) -> tuple[pa.Table, pa.Table, pa.Table]:
    plan = outputs.manifest(count, prompts or PROMPT)
    positions = np.arange(count)
    return (
        plan,
        outputs.results(plan, positions[:done], pictures=False),
        outputs.failures(plan, positions[done : done + failed]),
    )


def log(planned: int, done: int, failed: int, **options) -> RunLog:
    import yaml

    text = outputs.events(planned, done, failed, **options)
    return parse(options.get("run_id", outputs.RUN_ID), text, yaml.safe_dump(outputs.CONFIG))


def metrics(plan: pa.Table, results: pa.Table, failures: pa.Table, run: RunLog | None = None) -> Metrics:
    return figures.compute(plan, results, failures, [run] if run else [], run)


def rounded(value):
    """Without the last bits of sums, which depend on the order of adding."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_totals_add_up() -> None:
    found = metrics(*tables(20, 12, 3)).totals
    assert (found.planned, found.done, found.failed, found.pending) == (20, 12, 3, 5)
    assert found.planned_video_s == 600
    assert found.done_video_s == 360
    assert found.failed_video_s == 90


def test_a_unit_planned_twice_breaks_the_invariant_loudly() -> None:
    plan, results, failures = tables(10, 4, 2)
    plan = pa.concat_tables([plan, plan.slice(0, 3)])
    with pytest.raises(InvariantError, match="planned 13 != done 4") as caught:
        metrics(plan, results, failures)
    assert "3 unit ids" in str(caught.value)
    assert caught.value.hint


def test_a_unit_that_failed_and_then_succeeded_is_done() -> None:
    plan, results, _ = tables(6, 6, 0)
    found = metrics(plan, results, outputs.failures(plan, np.array([1, 2])))
    assert (found.totals.done, found.totals.failed) == (6, 0)
    assert found.failures == ()


def test_only_the_latest_failure_of_a_unit_counts() -> None:
    plan, results, failures = tables(4, 0, 2)
    later = failures.slice(0, 1)
    moved = pc.add(later["failed_at"], pa.scalar(timedelta(hours=1)))
    later = later.set_column(later.schema.names.index("failed_at"), "failed_at", moved)
    later = later.set_column(later.schema.names.index("error_class"), "error_class", pa.array(["DecodeTimeout"]))
    found = metrics(plan, results, pa.concat_tables([failures, later.cast(schemas.FAILURES)]))
    assert found.totals.failed == 2
    assert {cause.error_class for cause in found.failures} == {"DecodeTimeout", "Truncated"}


def test_units_of_several_prompts_count_once_and_times_are_shared() -> None:
    one, two = metrics(*tables(10, 10, 0)), metrics(*tables(10, 10, 0, TWO))
    assert two.totals.answers == 20
    assert two.totals.done == one.totals.done == 10
    assert two.totals.done_video_s == one.totals.done_video_s
    assert two.ladder == one.ladder
    for left, right in zip(one.stages, two.stages, strict=True):
        assert right.seconds == pytest.approx(left.seconds)


def test_answers_written_twice_are_counted_once_and_reported() -> None:
    plan, results, failures = tables(10, 10, 0)
    found = metrics(plan, pa.concat_tables([results, results.slice(2, 3)]), failures)
    assert found.integrity.duplicate_answers == 3
    assert found.totals.answers == 10


def test_a_unit_without_all_its_answers_is_reported() -> None:
    plan, results, failures = tables(10, 10, 0, TWO)
    found = metrics(plan, results.slice(0, 19), failures)
    assert found.integrity.units_missing_answers == 1


def test_answers_of_an_earlier_plan_are_kept_apart() -> None:
    plan, results, failures = tables(10, 10, 2)
    found = metrics(plan.slice(0, 6), results, failures)
    assert (found.totals.planned, found.totals.done) == (6, 6)
    assert found.integrity.answers_of_other_plans == 4


def test_ladder_and_layers() -> None:
    found = metrics(*tables(5, 5, 0))
    patches, visual, merged, layers = found.ladder
    assert (patches.per_unit, visual.per_unit, merged.per_unit) == (8192, 2048, 512)
    assert (visual.ratio, merged.ratio) == (1.0, 0.25)
    mean = (4 * 512 + 4 * 230 + 3 * 104) / 12
    assert layers.per_unit == pytest.approx(mean)
    assert found.layer_tokens == pytest.approx([512] * 4 + [230] * 4 + [104] * 3 + [0])


def test_layers_of_different_depth_and_units_without_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LAYER_SLICE", 2)
    column = pa.chunked_array([pa.array([[10, 0], None, [20, 10, 3], [], [0]], pa.list_(pa.int32()))])
    layers, units = tokens.layers(column)
    assert layers.tolist() == [10, 5, 3]
    np.testing.assert_allclose(units, [5, np.nan, 11, np.nan, 0])


def test_speed_and_cost_of_the_run() -> None:
    plan, results, failures = tables(100, 90, 10)
    run = log(100, 90, 10, wall_s=600.0)
    found = metrics(plan, results, failures, run)
    assert found.run_speed is not None
    assert found.run_cost is not None
    assert found.run_speed.units_per_s == pytest.approx(90 / 600)
    assert found.run_speed.video_hours_per_hour == pytest.approx(90 * 30 / 600)
    assert found.run_speed.output_tokens == pc.sum(results["output_tokens"]).as_py()
    usd = 600 / 3600 * (1 * 2.5 + 16 * 0.04)
    assert found.run_cost.usd == pytest.approx(usd)
    assert found.run_cost.per_video_hour_usd == pytest.approx(usd / (90 * 30 / 3600))
    assert found.run_cost.per_1000_captions_usd == pytest.approx(usd / 0.09)


def test_all_runs_are_added_up() -> None:
    plan = outputs.manifest(10, PROMPT)
    first = outputs.results(plan, np.arange(4), run_id="r1", pictures=False)
    second = outputs.results(plan, np.arange(4, 10), run_id="r2", pictures=False)
    runs = [log(10, 4, 0, run_id="r1", outcome=None), log(10, 6, 0, run_id="r2", wall_s=300.0)]
    results = pa.concat_tables([first, second])
    found = figures.compute(plan, results, schemas.FAILURES.empty_table(), runs, runs[1])
    assert found.run is not None
    assert found.run_speed is not None
    assert found.run.units == 6
    assert found.run_speed.units == 6
    assert found.all_runs_speed.units == 10
    assert found.all_runs_speed.wall_s == 900
    assert found.all_runs_cost.usd == pytest.approx(900 / 3600 * (2.5 + 16 * 0.04))


def test_failures_by_stage_and_cause() -> None:
    plan, results, failures = tables(40, 0, 20)
    found = metrics(plan, results, failures).failures
    assert sum(cause.units for cause in found) == 20
    assert [cause.units for cause in found] == sorted((cause.units for cause in found), reverse=True)
    storage = next(cause for cause in found if cause.error_class == "StorageError")
    assert storage.retryable == storage.units
    assert storage.hint
    assert all(len(cause.examples) <= counts.EXAMPLES for cause in found)


def test_lengths_and_finish_reasons() -> None:
    plan, results, failures = tables(200, 200, 0)
    found = metrics(plan, results, failures)
    assert found.output_lengths is not None
    tokens = results["output_tokens"].to_numpy()
    assert found.output_lengths.longest == tokens.max()
    assert found.output_lengths.median == np.median(tokens)
    assert sum(part.answers for part in found.output_lengths.bins) == 200
    assert sum(found.finish_reasons.values()) == 200
    assert found.finish_reasons["length"] == (tokens >= 64).sum()


def test_the_order_of_rows_does_not_matter() -> None:
    plan, results, failures = tables(30, 20, 5, TWO)
    run = log(30, 20, 5)
    order = np.random.default_rng(3).permutation(len(results))
    straight = metrics(plan, results, failures, run).as_dict()
    shuffled = metrics(plan, results.take(pa.array(order)), failures, run).as_dict()
    assert rounded(straight) == rounded(shuffled)


def test_no_run_and_no_rows_at_all() -> None:
    plan = outputs.manifest(3, PROMPT)
    found = metrics(plan, schemas.RESULTS.empty_table(), schemas.FAILURES.empty_table())
    assert found.totals.pending == 3
    assert found.run is found.run_speed is found.run_cost is None
    assert found.outcome.startswith("Planned, not yet run: 3 clips")
    json.dumps(found.as_dict(), allow_nan=False)


def test_an_empty_plan() -> None:
    empty = (schemas.MANIFEST.empty_table(), schemas.RESULTS.empty_table(), schemas.FAILURES.empty_table())
    found = metrics(*empty, log(0, 0, 0))
    assert found.totals.planned == 0
    assert "empty" in found.outcome


def test_nulls_in_every_optional_column() -> None:
    plan, results, failures = tables(4, 2, 1)
    bare = outputs.conform(
        {name: results[name].combine_chunks() for name in ("unit_id", "uri", "prompt_id", "text")}, schemas.RESULTS, 2
    )
    lost = outputs.conform(
        {name: failures[name].combine_chunks() for name in ("unit_id", "uri", "stage", "error_class")},
        schemas.FAILURES,
        1,
    )
    found = metrics(plan, bare, lost, log(4, 2, 1))
    assert (found.totals.done, found.totals.failed) == (2, 1)
    assert found.output_lengths is None
    assert found.failures[0].examples[0].message == ""
    json.dumps(found.as_dict(), allow_nan=False)
