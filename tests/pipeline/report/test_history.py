"""Nights beside each other: which runs count, what changed, and which of them calibrates an estimate."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.report import build_report, history
from pipeline.report.history import Night
from tests.pipeline.report import outputs
from tests.pipeline.report.test_estimate import RATES

LAST = Night(
    run_id="r1", started_at="2026-03-03T01:00:00+00:00", outcome="done", wall_s=600, units=100, failed=2, video_s=3000,
    units_per_s=0.2, usd=1.0, per_video_hour_usd=1.2, output_tokens=4000, tokens_left=0.11, model="m",
    compression="balanced",
)  # fmt: skip
NOW = replace(LAST, run_id="r2", started_at="2026-03-04T01:00:00+00:00")


@pytest.mark.parametrize(
    ("now", "last", "said"),
    [
        ({}, {}, "much the same speed and cost."),
        ({"units_per_s": 0.21}, {}, "much the same"),
        ({"units_per_s": 0.3}, {}, "50\u202f% faster (0.20 clips/s → 0.30 clips/s)."),
        ({"per_video_hour_usd": 0.9}, {}, "25\u202f% cheaper ($1.20 per video-hour → $0.90 per video-hour)."),
        ({"compression": "fast"}, {}, "compression fast instead of balanced."),
        ({"failed": 9}, {}, "9 failed instead of 2."),
        ({}, {"outcome": "aborted"}, "that one had ended aborted."),
        ({"units": 0}, {}, "nothing new was done; that one did 100 clips."),
        ({"units_per_s": None}, {}, "much the same"),
    ],
)
def test_what_changed(now, last, said):
    sentence = history.changes(replace(NOW, **now), [replace(LAST, **last)])
    assert sentence.startswith("Since the run before (2026-03-03 01:00 UTC): ")
    assert said in sentence


def test_a_night_without_work_is_not_what_speed_is_compared_with():
    idle = replace(LAST, run_id="r1b", units=0, units_per_s=0.0, usd=0.1, per_video_hour_usd=None)
    sentence = history.changes(replace(NOW, units_per_s=0.1), [idle, LAST])
    assert "50\u202f% slower (0.20 clips/s → 0.10 clips/s)" in sentence
    assert "first run to finish" in history.changes(NOW, [idle])


def test_the_first_run_has_no_past():
    assert history.changes(NOW, []) is None
    assert history.changes(None, [LAST]) is None


def stored(run_id: str, day: int, name: str = "demo", compression: object = "balanced", rates: bool = True) -> dict:
    return {
        "run": {
            "run_id": run_id,
            "name": name,
            "started_at": f"2026-03-{day:02d}T01:00:00+00:00",
            "config": {"model": {"id": "m"}, "compression": compression, "run": {"engine": "luvc"}},
        },
        "rates": asdict(RATES) if rates else None,
    }


def test_nights_are_of_one_name_newest_first_and_not_too_many():
    runs = [stored(f"r{day}", day % 28 + 1) for day in range(60)] + [stored("x", 28, name="other"), {}, {"run": None}]
    found = history.nights(runs, "demo", before="r5")
    assert len(found) == history.NIGHTS
    assert [night.started_at for night in found] == sorted((n.started_at for n in found), reverse=True)
    assert not {"x", "r5"} & {night.run_id for night in found}


def test_calibration_fits_name_model_and_compression():
    runs = [
        stored("a", 1),
        stored("b", 2),
        stored("c", 3, rates=False),
        stored("d", 4, compression="fast"),
        stored("e", 5, name="other"),
        stored("f", 6, compression={"name": "off"}),
    ]
    assert history.calibration(runs, "demo", {"id": "m"}, "balanced", "luvc") == ("b", RATES)
    assert history.calibration(runs, "demo", {"id": "m"}, "paper", "luvc") is None
    assert history.calibration(runs, "demo", {"id": "n"}, "balanced", "luvc") is None
    assert history.calibration(runs, "demo", {"id": "m"}, "balanced", "fake") is None
    assert history.uncompressed_calibration(runs, "demo", {"id": "m"}, "luvc") == ("f", RATES)
    assert history.uncompressed_calibration(runs[:2], "demo", {"id": "m"}, "luvc") is None


def test_two_nights_of_one_output(tmp_path: Path) -> None:
    """The second report compares with the first; building either again changes nothing."""
    prompt = {"caption": "Describe this video."}
    plan = outputs.manifest(200, prompt)
    log = outputs.events(100, 100, 0, run_id="20260304-r1")
    outputs.write(tmp_path, plan, outputs.results(plan, np.arange(100), "20260304-r1"), None, log, run_id="20260304-r1")
    first = build_report(str(tmp_path))
    assert (first.changes, first.history) == (None, ())
    rates = first.rates
    assert rates is not None
    assert (rates.done.units, rates.done.vision_tflop, rates.actors, rates.gpus) == (100, 400.0, 1, 1)
    assert rates.start_up_s + rates.active_s == pytest.approx(600)
    assert first.uncompressed is not None
    assert first.uncompressed.method == "flops"

    expected = {"based_on": "20260304-r1", "based_on_units": 100, "units": 100, "wall_s": 480.0, "usd": 0.4,
                "per_video_hour_usd": 0.5}  # fmt: skip
    start = outputs.START + timedelta(days=1)
    log = outputs.events(200, 100, 0, wall_s=1200, run_id="20260305-r2", start=start, estimate=expected)
    rows = outputs.results(plan, np.arange(100, 200), "20260305-r2", wall_s=1200)
    outputs.write(tmp_path, plan, rows, None, log, run_id="20260305-r2")
    second = build_report(str(tmp_path))
    assert [night.run_id for night in second.history] == ["20260304-r1"]
    assert "slower" in second.changes
    assert "dearer" in second.changes
    assert second.estimate.wall_error == pytest.approx(1.5)
    page = (tmp_path / "report.html").read_text()
    assert second.changes.split(":")[0] in page
    assert build_report(str(tmp_path)) == second
    again = build_report(str(tmp_path), run_id="20260304-r1")
    assert (again.rates, again.changes, again.history) == (rates, None, ())


def test_a_damaged_neighbour_costs_the_history_not_the_report(tmp_path: Path) -> None:
    folder = outputs.demo(tmp_path)
    for name, text in {"20250101-a": "{half", "20250102-b": "[1]", "20250103-c": '{"run": {"name": "demo"}}'}.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "metrics.json").write_text(text)
    assert build_report(folder).history == ()


def test_agreement_is_compared_with_the_night_before() -> None:
    before, now = replace(LAST, agreement=0.71), replace(LAST, agreement=0.62)
    said = history.changes(now, [before])
    assert said is not None
    assert "answers agree 62\u202f% with those without compression instead of 71\u202f%" in said
    for other in (replace(LAST, agreement=0.70), LAST):
        assert "agree" not in str(history.changes(other, [before]))
