"""Accounting with a clock of our own: counts, speed, ETA, heartbeat, and which stage stands still."""

from __future__ import annotations

import io

import pytest

from pipeline.run.board import Snapshot
from pipeline.run.outcome import failure_table, outcomes, result_table
from pipeline.run.progress import WINDOW_S, Display, NoProgress, NoProgressGuard, Tally, duration, line, stuck_stage
from tests.pipeline.run.test_sink import Clock, outcome


def finish(tally, *units, worker="w", starved_s=1.0):
    rows = [
        outcome(f"u{i}", prompts)
        | {"video_decode_s": 0.25, "storage_reads": 3}
        | {"worker": worker, "busy_s": 2.0, "starved_s": starved_s}
        for i, prompts in enumerate(units)
    ]
    table = outcomes(rows)
    tally.add(table, result_table(table), failure_table(table))


def test_counts_speed_and_eta():
    clock = Clock()
    tally = Tally(work=10, done=5, failed=1, clock=clock)
    assert (tally.videos_per_s, tally.eta_s) == (0.0, None)
    clock.now = 100
    finish(tally, 1)
    clock.now = 102
    finish(tally, 2, 0, 1, 1)
    assert (tally.done, tally.failed, tally.left) == (4, 1, 5)
    assert tally.videos_per_s == 2.0
    assert tally.eta_s == 2.5


def test_speed_follows_a_change():
    clock = Clock()
    tally = Tally(work=10_000, done=0, failed=0, clock=clock)
    for _ in range(300):
        clock.now += 1
        finish(tally, 1, 1)
    assert tally.videos_per_s == pytest.approx(2.0)
    for _ in range(int(WINDOW_S) + 1):
        clock.now += 1
        finish(tally, 1)
    assert tally.videos_per_s == pytest.approx(1.0, rel=0.05)
    clock.now += 10 * WINDOW_S
    assert tally.videos_per_s < 0.1


def test_heartbeat_sums_stages_and_workers():
    tally = Tally(work=10, done=5, failed=1, clock=Clock())
    finish(tally, 2, 0, worker="a", starved_s=1.0)
    finish(tally, 1, worker="a", starved_s=3.0)
    finish(tally, 1, worker="b", starved_s=0.5)
    tally.wrote(units=3, seconds=0.125)
    beat = tally.heartbeat()
    assert (beat["done"], beat["failed"], beat["left"]) == (8, 2, 6)
    assert beat["stage"]["video_decode"] == {"busy_s": 1.0, "units": 4}
    assert beat["stage"]["encode"] == {"busy_s": 1.2, "units": 3, "starved_s": 3.5}
    assert beat["stage"]["sink"] == {"busy_s": 0.125, "units": 3}
    assert line(beat, Snapshot(started={"answer": 1})) == "8 done, 2 failed, 6 left, 0.00 videos/s, ETA ?"
    assert line(beat, Snapshot()) == "8 done, 2 failed, 6 left; starting workers and loading the model"


def test_each_pool_waits_for_its_own_input():
    tally = Tally(work=10, done=0, failed=0, clock=Clock())
    for worker, waited_s, encoder, frames_s in (("a", 1.0, "e", 4.0), ("b", 2.0, "e", 5.0), ("a", 3.0, "f", 0.25)):
        row = outcome(f"{worker}{encoder}", 1) | {"worker": worker, "starved_s": waited_s}
        table = outcomes([row | {"encoder": encoder, "encoder_starved_s": frames_s}])
        tally.add(table, result_table(table), failure_table(table))
    stage = tally.heartbeat()["stage"]
    assert stage["encode"]["starved_s"] == 5.25
    assert stage["prefill"]["starved_s"] == 5.0


def test_guard_names_the_stage():
    clock = Clock()
    guard = NoProgressGuard(60, clock)
    stuck = Snapshot(started={"answer": 1}, in_flight={"answer": 3, "video_decode": 2})
    guard.check(0, stuck)
    clock.now = 59
    guard.check(0, stuck)
    clock.now = 60
    with pytest.raises(NoProgress, match="'answer' with 3 units in flight") as caught:
        guard.check(0, stuck)
    assert "GPU" in caught.value.hint


def test_any_movement_resets_the_guard():
    clock = Clock()
    guard = NoProgressGuard(60, clock)
    for step in range(10):
        clock.now += 50
        guard.check(step // 2, Snapshot(started={"video_decode": (step + 1) // 2}))


@pytest.mark.parametrize(
    ("in_flight", "stage"),
    [
        ({}, "start"),
        ({"video_decode": 1}, "video_decode"),
        ({"video_decode": 1, "answer": 1}, "answer"),
        ({"video_decode": 1, "encode": 1}, "encode"),
    ],
)
def test_stuck_stage(in_flight, stage):
    assert stuck_stage(in_flight) == stage


def test_display_prints_lines_when_not_on_a_terminal():
    stream = io.StringIO()
    display = Display(10, stream)
    tally = Tally(10, 0, 0, Clock())
    display.update(tally, Snapshot())
    display.heartbeat(tally.heartbeat(), Snapshot(started={"answer": 1}))
    display.close()
    assert stream.getvalue() == "0 done, 0 failed, 10 left, 0.00 videos/s, ETA ?\n"


def test_display_draws_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    display = Display(10, stream)
    display.update(Tally(10, 0, 0, Clock()), Snapshot(started={"answer": 1}))
    display.heartbeat(Tally(10, 0, 0, Clock()).heartbeat(), Snapshot())
    display.close()
    assert "0/10" in stream.getvalue()


def test_duration():
    assert [duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
