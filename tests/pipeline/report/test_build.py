"""build_report on whole output folders: what it writes, where, and what it survives."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import schemas
from pipeline.report import ReportError, build_report
from pipeline.report.records import Metrics
from tests.pipeline.report import outputs

PROMPT = {"caption": "Describe this video."}


def test_everything_is_written_for_the_run_and_for_the_root(tmp_path: Path) -> None:
    metrics = build_report(outputs.demo(tmp_path))
    run = tmp_path / "runs" / outputs.RUN_ID
    assert (run / "report.html").read_bytes() == (tmp_path / "report.html").read_bytes()
    assert (run / "metrics.json").read_bytes() == (tmp_path / "metrics.json").read_bytes()
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["totals"] == {**stored["totals"], "planned": 120, "done": 113, "failed": 7, "pending": 0}
    assert stored["outcome"] == metrics.outcome == "113 of 120 clips done, 7 failed."
    table = pq.read_table(tmp_path / "metrics" / f"part-{outputs.RUN_ID}.parquet")
    assert table.schema.equals(schemas.METRICS)
    assert not list(tmp_path.rglob("*.tmp"))


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = outputs.demo(tmp_path)
    build_report(folder)
    first = (tmp_path / "report.html").read_bytes()
    build_report(folder)
    assert (tmp_path / "report.html").read_bytes() == first


def test_secrets_of_the_configuration_appear_nowhere(tmp_path: Path) -> None:
    build_report(outputs.demo(tmp_path))
    for name in ("report.html", "metrics.json"):
        text = (tmp_path / name).read_text()
        assert "AKIA-NOT-FOR-REPORTS" not in text
        assert "HUSH-HUSH" not in text


def test_before_any_run(tmp_path: Path) -> None:
    metrics = build_report(outputs.write(tmp_path, outputs.manifest(5, PROMPT)))
    assert metrics.totals.pending == 5
    assert metrics.run is None
    assert "not yet run" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "metrics").exists()


def test_everything_failed(tmp_path: Path) -> None:
    plan = outputs.manifest(9, PROMPT)
    log = outputs.events(9, 0, 9, wall_s=60.0, outcome="some_failed")
    metrics = build_report(outputs.write(tmp_path, plan, None, outputs.failures(plan, np.arange(9)), log))
    assert metrics.outcome == "All 9 clips failed."
    page = (tmp_path / "report.html").read_text()
    assert "dot bad" in page
    assert "PromptTooLong" in page


def test_an_empty_plan(tmp_path: Path) -> None:
    log = outputs.events(0, 0, 0, wall_s=1.0)
    metrics = build_report(outputs.write(tmp_path, schemas.MANIFEST.empty_table(), log=log))
    assert metrics.totals.planned == 0


def test_a_killed_run(tmp_path: Path) -> None:
    plan = outputs.manifest(20, PROMPT)
    log = outputs.events(20, 8, 0, wall_s=60.0, outcome=None)
    metrics = build_report(outputs.write(tmp_path, plan, outputs.results(plan, np.arange(8)), None, log))
    assert metrics.run is not None
    assert metrics.run.outcome == "unfinished"
    assert "it was killed" in metrics.outcome


def test_a_run_folder_without_events_is_passed_over(tmp_path: Path) -> None:
    folder = outputs.demo(tmp_path)
    (tmp_path / "runs" / "20990101T000000-zz").mkdir()
    metrics = build_report(folder)
    assert metrics.run is not None
    assert metrics.run.run_id == outputs.RUN_ID


def test_files_still_being_written_are_not_read(tmp_path: Path) -> None:
    folder = outputs.demo(tmp_path)
    (tmp_path / "results" / ".part-x.parquet.123.tmp").write_bytes(b"half")
    (tmp_path / "results" / ".part-y.parquet").write_bytes(b"half")
    (tmp_path / "failures" / "_part-z.parquet").write_bytes(b"half")
    assert build_report(folder).totals.done == 113


def test_an_older_run_leaves_the_root_alone(tmp_path: Path) -> None:
    plan = outputs.manifest(20, PROMPT)
    outputs.write(tmp_path, plan, outputs.results(plan, np.arange(8)), None, outputs.events(20, 8, 0), run_id="r1")
    log = outputs.events(20, 12, 0, run_id="r2", start=outputs.START + timedelta(days=1))
    folder = outputs.write(tmp_path, plan, outputs.results(plan, np.arange(8, 20), "r2"), None, log, run_id="r2")
    build_report(folder)
    newest = (tmp_path / "report.html").read_bytes()
    metrics = build_report(folder, run_id="r1")
    assert metrics.run is not None
    assert metrics.run.run_id == "r1"
    assert (tmp_path / "report.html").read_bytes() == newest
    assert (tmp_path / "runs" / "r1" / "report.html").read_bytes() != newest


def test_no_manifest_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no manifest here"):
        build_report(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_an_unknown_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run 'r9'") as caught:
        build_report(outputs.demo(tmp_path), run_id="r9")
    assert outputs.RUN_ID in caught.value.hint


def test_results_of_an_older_schema_still_read(tmp_path: Path) -> None:
    folder = outputs.demo(tmp_path)
    (path,) = (tmp_path / "results").glob("*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["layer_tokens", "thumbnail"]), path)
    metrics = build_report(folder)
    assert metrics.totals.done == 113
    assert metrics.layer_tokens == ()
    assert metrics.ladder[3].per_unit == 512


def test_an_output_in_another_file_system(tmp_path: Path) -> None:
    outputs.demo(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/report-test/out", recursive=True)
    try:
        metrics = build_report("memory://report-test/out")
        assert metrics.totals.done == 113
        assert memory.cat_file("/report-test/out/report.html").startswith(b"<!doctype html>")
        assert memory.exists(f"/report-test/out/metrics/part-{outputs.RUN_ID}.parquet")
    finally:
        memory.rm("/report-test", recursive=True)


def test_a_hundred_thousand_units(hundred_thousand: tuple[Path, Metrics]) -> None:
    """The page grows with what it shows, not with the corpus."""
    folder, metrics = hundred_thousand
    assert (metrics.totals.done, metrics.totals.failed, metrics.totals.pending) == (93_000, 2_000, 5_000)
    assert (folder / "report.html").stat().st_size < 1_000_000
    assert len(metrics.timeline) <= 120
