"""Event logs as they are found: whole, cut off, or empty; and the intervals made of them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from pipeline import schemas
from pipeline.report import metrics as figures
from pipeline.report import runlog, timeline
from pipeline.report.cost import Prices, Rented
from tests.pipeline.report import outputs


def test_a_whole_log() -> None:
    run = runlog.parse("r", outputs.events(100, 90, 10, wall_s=60.0, outcome="some_failed"))
    assert (run.name, run.outcome, run.wall_s, run.planned) == ("demo", "some_failed", 60.0, 100)
    assert len(run.heartbeats) == 6
    assert run.last_stages["encode"].starved_s == pytest.approx(18.0)
    assert run.machine["gpus"] == 1


def test_a_log_cut_off_by_a_kill() -> None:
    run = runlog.parse("r", outputs.events(100, 90, 0, wall_s=60.0, outcome=None))
    assert run.outcome == runlog.UNFINISHED
    assert run.wall_s == 60.0
    assert run.unreadable_lines == 0  # half a line at the end is what a kill leaves


def test_damage_inside_a_log_is_counted() -> None:
    lines = outputs.events(100, 90, 0, wall_s=60.0).splitlines()
    assert runlog.parse("r", "\n".join([*lines[:3], lines[3][:20], *lines[4:]])).unreadable_lines == 1


def test_only_line_ends_end_a_line() -> None:
    lines = outputs.events(100, 90, 10, wall_s=60.0).split("\n")
    started = {**json.loads(lines[0]), "name": "one\u2028two\u2029three\x85four"}
    run = runlog.parse("r", "\r\n".join([json.dumps(started, ensure_ascii=False), *lines[1:]]))
    assert (run.name, run.planned, run.unreadable_lines) == (started["name"], 100, 0)


def test_only_the_last_heartbeat_on_request() -> None:
    text = outputs.events(100, 90, 10)
    full, brief = runlog.parse("r", text), runlog.parse("r", text, all_heartbeats=False)
    assert len(brief.heartbeats) == 1
    assert brief.heartbeats[0] == full.heartbeats[-1]
    assert (brief.wall_s, brief.outcome, brief.started_at) == (full.wall_s, full.outcome, full.started_at)


@pytest.mark.parametrize("text", ["", "\n\n", "not json\n", '[1, 2]\n{"event": "heartbeat"}\n', '{"t": "never"}'])
def test_nonsense_is_not_fatal(text: str) -> None:
    run = runlog.parse("r", text, config=": not: yaml: [")
    assert run.outcome == runlog.UNFINISHED
    assert run.wall_s == 0.0
    assert run.config == {}


def test_storage_options_never_leave_the_configuration() -> None:
    config = "inputs: [{path: a, storage: {key: SECRET}}]\noutput: {path: b, storage: {secret: SECRET}}\n"
    run = runlog.parse("r", "", config)
    assert "SECRET" not in str(run)
    assert run.config == {"inputs": [{"path": "a"}], "output": {"path": "b"}}


def test_the_newest_run_is_the_one_that_started_last() -> None:
    old = runlog.parse("z", outputs.events(1, 1, 0))
    new = runlog.parse("a", outputs.events(1, 1, 0, start=outputs.START + timedelta(days=1)))
    assert runlog.newest([new, old]) is new
    assert runlog.newest([]) is None


def intervals(run: runlog.RunLog, units: int = 60, failed: int = 4) -> list[timeline.Interval]:
    plan = outputs.manifest(units + failed, {"caption": "?"})
    results = outputs.results(plan, np.arange(units), wall_s=60.0, pictures=False)
    failures = outputs.failures(plan, np.arange(units, units + failed))
    return timeline.intervals(run, results, results, failures)


def test_intervals_hold_everything_once() -> None:
    run = runlog.parse(outputs.RUN_ID, outputs.events(64, 60, 4, wall_s=60.0))
    parts = intervals(run)
    assert len(parts) == 6
    assert sum(part.units for part in parts) == 60
    assert sum(part.failed for part in parts) == 4
    assert sum(part.video_s for part in parts) == 1800
    assert sum(part.length_s for part in parts) == pytest.approx(60.0)
    assert sum(part.stages["encode"].busy_s or 0 for part in parts) == pytest.approx(run.last_stages["encode"].busy_s)
    assert sum(part.stages["video_decode"].units or 0 for part in parts) == 60


def test_clocks_of_other_machines_may_be_off() -> None:
    run = runlog.parse(outputs.RUN_ID, outputs.events(64, 60, 4, wall_s=30.0))  # results say up to 60 s
    parts = intervals(run)
    assert sum(part.units for part in parts) == 60


def test_a_clock_that_is_set_back_during_a_run_loses_nothing() -> None:
    lines = [json.loads(line) for line in outputs.events(64, 60, 4, wall_s=60.0).splitlines()]
    for line in lines[4:]:
        line["t"] = (datetime.fromisoformat(line["t"]) - timedelta(hours=1)).isoformat()
    run = runlog.parse(outputs.RUN_ID, "\n".join(map(json.dumps, lines)))
    assert run.wall_s == 60.0  # by a clock that nobody sets
    assert run.last_stages["encode"].starved_s == pytest.approx(18.0)
    parts = intervals(run)
    assert sum(part.units for part in parts) == 60
    assert all(part.length_s > 0 for part in parts)
    assert sum(part.length_s for part in parts) == pytest.approx(60.0)


def test_a_run_shorter_than_a_heartbeat_is_one_interval() -> None:
    run = runlog.parse(outputs.RUN_ID, outputs.events(64, 60, 4, wall_s=5.0, beat_s=10.0))
    (part,) = intervals(run)
    assert part.units == 60
    assert part.stages == {}


def test_a_run_without_any_event_has_no_intervals() -> None:
    assert intervals(runlog.parse("r", "")) == []


def test_moments_are_merged_to_what_a_chart_can_show() -> None:
    run = runlog.parse(outputs.RUN_ID, outputs.events(64, 60, 4, wall_s=60.0, beat_s=1.0))
    points = timeline.moments(intervals(run), limit=7)
    assert 6 <= len(points) <= 8
    assert max(point.interval_s for point in points) <= 2 * 60 / 7
    assert sum(point.units for point in points) == 60


def test_intervals_of_uneven_length_keep_their_time() -> None:
    lines = outputs.events(64, 60, 4, wall_s=60.0, beat_s=2.0).splitlines()
    run = runlog.parse(outputs.RUN_ID, "\n".join([lines[0], *lines[10:]]))  # twenty seconds of silence first
    points = timeline.moments(intervals(run), limit=10)
    assert points[0].interval_s == pytest.approx(20.0)
    assert points[1].interval_s == pytest.approx(6.0)


def test_rows_of_the_metrics_file() -> None:
    run = runlog.parse(outputs.RUN_ID, outputs.events(64, 60, 4, wall_s=60.0))
    table = timeline.metrics_table(run, intervals(run), Rented(60.0, 1, 16), Prices(2.5, 0.04))
    assert table.schema.equals(schemas.METRICS)
    assert table.num_rows == 6 * 6
    total = table.filter(pa.compute.equal(table["stage"], "total"))
    assert pa.compute.sum(total["cost_usd"]).as_py() == pytest.approx(60 / 3600 * (2.5 + 0.64))
    assert set(table["stage"].to_pylist()) == {"total", *timeline.STAGES} - {"reference"}


def test_only_the_run_itself_is_in_its_metrics_file() -> None:
    plan = outputs.manifest(10, {"caption": "?"})
    mine = outputs.results(plan, np.arange(4), run_id="mine", pictures=False)
    other = outputs.results(plan, np.arange(4, 10), run_id="other", pictures=False)
    run = runlog.parse("mine", outputs.events(10, 4, 0, run_id="mine"), json.dumps(outputs.CONFIG))
    table = figures.interval_table(run, pa.concat_tables([mine, other]), schemas.FAILURES.empty_table())
    total = table.filter(pa.compute.equal(table["stage"], "total"))
    assert pa.compute.sum(total["units"]).as_py() == 4
