"""Runs from configuration to report: real Ray, real small videos, the fake engine."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

import luvc
from luvc.errors import ConfigError, ModelError
from pipeline import storage
from pipeline.compact import compact
from pipeline.errors import OutputError
from pipeline.forecast import forecast
from pipeline.plan import plan
from pipeline.report.captions import captions
from pipeline.run import dataset
from pipeline.run import folder as folders
from pipeline.run.dead_letters import dead_letters
from pipeline.run.feed import PipelineFailed
from pipeline.run.job import RunAborted, new_run_id, run, started_on
from pipeline.run.pending import every, spread
from pipeline.run.progress import NoProgress
from pipeline.run.surroundings import stop_on_signal
from tests.pipeline.run.videos import zoo

pytestmark = pytest.mark.usefixtures("ray_address")


def quiet(text: str) -> None:
    """Stands for a person who does not read."""


def test_a_run_and_then_nothing_to_do(bench, videos):
    config = bench.config(videos, prompts={"a": "What?", "b": "Why?"})
    ended = run(config, say=quiet)
    assert (ended.outcome, ended.exit_code, ended.planned, ended.done, ended.pending) == ("done", 0, 8, 8, 0)
    bench.assert_each_unit_once(prompts=2)
    rows = bench.table("results").to_pylist()
    assert len({row["text"] for row in rows}) == 16
    assert {(row["prompt_id"], row["prompt"]) for row in rows} == {("a", "What?"), ("b", "Why?")}
    assert all(
        row["frames_decoded"] == 2 and row["video_decode_s"] > 0 and row["run_id"] == ended.run_id for row in rows
    )
    assert sum(row["thumbnail"] is not None for row in rows) == 16

    kinds = [event["event"] for event in bench.events()]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert bench.events("heartbeat")[-1]["left"] == 0
    assert sum(event["units"] for event in bench.events("part_written")) == 8
    assert (bench.output / "report.html").exists()
    totals = json.loads((bench.output / "metrics.json").read_text())["totals"]
    assert (totals["planned"], totals["done"], totals["failed"], totals["pending"]) == (8, 8, 0, 0)

    said = []
    before = sorted(bench.output.rglob("*"))
    again = run(config, say=said.append)
    assert (again.outcome, again.exit_code, again.done) == ("nothing_to_do", 0, 8)
    assert said[-1] == "nothing to do: 8 done, 0 failed"
    assert sorted(bench.output.rglob("*")) == before


def test_bad_files_become_failures_and_the_run_goes_on(bench, videos, tmp_path):
    bad = zoo(tmp_path / "zoo")
    rows = [{"path": str(path), "id": name} for name, path in bad.items()]
    rows.append({"path": str(tmp_path / "gone.mp4"), "id": "missing"})
    rows.append({"path": str(videos / "v0.mp4"), "id": "span", "start_s": 900, "end_s": 910})
    rows += [{"path": str(videos / f"v{i}.mp4"), "id": f"good{i}"} for i in range(3)]
    ended = run(bench.config(bench.items(rows)), say=quiet)
    assert (ended.outcome, ended.exit_code, ended.done) == ("some_failed", 3, 3)
    bench.assert_each_unit_once()
    causes = {row["item_id"]: row["error_class"] for row in bench.failures()}
    assert causes == {
        "empty": "EmptyFile",
        "text": "NotAVideo",
        "truncated": causes["truncated"],
        "audio": "NoVideoStream",
        "missing": "SourceMissing",
        "span": "SpanUnreadable",
    }
    assert all(row["message"] for row in bench.failures())
    assert sorted(bench.table("results")["item_id"].to_pylist()) == ["good0", "good1", "good2"]


def test_a_changed_prompt_is_new_work(bench, videos):
    run(bench.config(videos, "One?"), say=quiet)
    ended = run(bench.config(videos, "Two?"), say=quiet)
    assert (ended.planned, ended.done) == (8, 8)
    assert len(bench.done()) == 16


def test_after_a_compaction_all_is_still_done_failed_and_worth_trying(bench, videos):
    """Both layouts in one output: a run without partitions, and one with, before and after it is compacted."""
    marker = bench.folder / "now-it-works"
    rows = [{"path": str(path)} for path in sorted(videos.iterdir())]
    rows[0]["prompt"] = f"[fake:retryable-until={marker}]"
    rows[1]["prompt"] = "[fake:error]"
    small, run_ids = {"path": str(bench.output), "part_units": 2}, []
    for units, output in ((4, small), (8, small | {"partition": "date"})):
        config = bench.config(bench.items(rows[:units]), output=output)
        run_ids.append(run(config, say=quiet).run_id)
    days = {f"dt={started_on(run_ids[1])}"}
    assert {path.name for path in (bench.output / "results").iterdir() if path.is_dir()} == days

    failed = dead_letters(folders.Folder.of(config))
    assert [row["error_class"] for row in failed] == ["FakeRetryableError", "RequestError"]
    done = compact(str(bench.output))
    assert done[0].files[0] > done[0].files[1] == 2
    assert done[2].files == (2, 1)
    assert dead_letters(folders.Folder.of(config)) == failed
    assert captions_of(bench) == 6

    said = []
    assert run(config, say=said.append).outcome == "nothing_to_do"
    assert "6 done, 2 failed" in said[-1]
    marker.touch()
    ended = run(config, retry_failed="retryable", say=quiet)
    assert (ended.done, ended.failed) == (7, 1)
    assert captions_of(bench) == 7
    totals = json.loads((bench.output / "metrics.json").read_text())
    assert (totals["totals"]["done"], totals["totals"]["failed"], totals["totals"]["answers"]) == (7, 1, 7)
    assert totals["integrity"]["duplicate_answers"] == 0


def captions_of(bench) -> int:
    return sum(line.startswith("  ") for line in captions(str(bench.output)))


def test_failures_are_tried_again_on_request(bench, videos):
    marker = bench.folder / "now-it-works"
    rows = [
        {"path": str(videos / "v0.mp4"), "prompt": "[fake:error]"},
        {"path": str(videos / "v1.mp4"), "prompt": f"[fake:retryable-until={marker}]"},
        {"path": str(videos / "v2.mp4")},
    ]
    config = bench.config(bench.items(rows), run={"attempts": 2})
    assert run(config, say=quiet).failed == 2
    attempts = {row["error_class"]: (row["attempts"], row["retryable"]) for row in bench.failures()}
    assert attempts == {"RequestError": (1, False), "FakeRetryableError": (2, True)}

    said = []
    assert run(config, say=said.append).outcome == "nothing_to_do"
    assert "--retry-failed" in said[-1]

    ended = run(config, retry_failed="retryable", say=quiet)
    assert (ended.done, ended.failed) == (1, 2)
    assert sorted(row["attempts"] for row in bench.failures()) == [1, 2, 4]

    marker.touch()
    ended = run(config, retry_failed="all", say=quiet)
    assert (ended.done, ended.failed, ended.exit_code) == (2, 1, 3)


def test_trouble_in_the_engine_costs_only_who_makes_it(bench, videos):
    """It raises once, its process dies once, and one unit kills the process every time."""
    rows = [{"path": str(path), "id": path.stem} for path in sorted(videos.iterdir())]
    rows[1]["prompt"] = f"[fake:raise-once={bench.folder / 'raised'}]"
    rows[3]["prompt"] = f"[fake:exit-once={bench.folder / 'died'}]"
    rows[5]["prompt"] = "[fake:exit]"
    # Three tries: the second may fall into the first death of its neighbour's making.
    ended = run(bench.config(bench.items(rows), run={"attempts": 3}), say=quiet)
    assert (ended.done, ended.failed) == (7, 1)
    bench.assert_each_unit_once()
    (failure,) = bench.failures()
    assert (failure["item_id"], failure["error_class"], failure["stage"]) == ("v5", "WorkerDied", "answer")
    assert failure["retryable"]
    assert failure["attempts"] == 3
    assert (bench.folder / "raised").exists()
    assert (bench.folder / "died").exists()


def test_a_model_that_is_not_there_is_found_before_anything_is_written(bench, videos):
    config = bench.config(videos, model={"id": str(videos)}, run={"engine": "luvc"})
    with pytest.raises(ModelError, match=str(videos)):
        run(config, say=quiet)
    assert not bench.output.exists()


def test_an_engine_that_cannot_start_is_one_clear_message(bench, videos):
    """The model's config is there, its weights are not."""
    model = bench.folder / "no-weights"
    model.mkdir()
    shutil.copy(Path(luvc.__file__).parent / "embedded" / "config.json", model)
    config = bench.config(videos, model={"id": str(model)}, run={"engine": "luvc"})
    with pytest.raises(PipelineFailed, match=r"the engine cannot be started: .*no-weights") as caught:
        run(config, say=quiet)
    assert caught.value.hint
    assert bench.events("run_finished")[-1]["outcome"] == "aborted"
    assert not bench.done()


def test_nothing_is_written_for_an_empty_input(bench, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError):
        run(bench.config(tmp_path / "empty"), say=quiet)
    assert not bench.output.exists()


def test_nothing_is_written_when_the_output_cannot_be(bench, videos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    config = bench.config(videos, output={"path": str(tmp_path / "file" / "out")})
    with pytest.raises(OutputError, match="cannot be written"):
        run(config, say=quiet)


def test_a_run_that_stands_still_names_the_stage(bench, videos):
    config = bench.config(videos, "[fake:latency=60]", run={"no_progress_s": 8})
    with pytest.raises(NoProgress, match="'answer' with 8 units"):
        run(config, say=quiet)
    assert bench.events("run_finished")[-1]["outcome"] == "aborted"
    assert not bench.done()


def test_a_full_disk_stops_the_run_and_the_next_one_continues(bench, videos, monkeypatch):
    config = bench.config(videos, output={"path": str(bench.output), "part_units": 2})
    write, written = storage._write_local, []

    def full_after_one(path, data):
        if "results" in path.parts:
            written.append(path)
            if len(written) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "_write_local", full_after_one)
        with pytest.raises(RunAborted, match="No space left on device") as caught:
            run(config, say=quiet)
    assert "disk is full" in caught.value.hint
    done = len(bench.done())
    assert 0 < done < 8
    ended = run(config, say=quiet)
    assert (ended.outcome, ended.done) == ("done", 8)
    bench.assert_each_unit_once()


def test_a_calibration_slice_then_the_rest_with_an_estimate(bench, videos, capsys):
    """The first night is unknown, some units first say what the others take, and the next plan knows from history."""
    prices = {"gpu_hour_usd": 1.0, "cpu_hour_usd": 0.1}
    config = bench.config(videos, "[fake:latency=0.2]", prices=prices)
    said = []
    assert forecast(config, plan(config).table).estimate is None
    ended = run(config, calibrate=3, say=said.append)
    assert (ended.outcome, ended.done, ended.pending) == ("done", 8, 0)
    bench.assert_each_unit_once()

    first, second = bench.events("run_started")
    assert (first["work"], first["estimate"]) == (3, None)
    assert (second["work"], second["done"]) == (5, 3)
    assert second["estimate"]["based_on"] == first["run_id"]
    assert (second["estimate"]["based_on_units"], second["estimate"]["units"]) == (3, 5)
    lines = [line for line in said if line.startswith("estimate")]
    assert "unknown: no calibration" in lines[0]
    assert f"from 3 units of run {first['run_id']}" in lines[1]

    metrics = json.loads((bench.output / "metrics.json").read_text())
    expected = metrics["estimate"]
    assert expected["wall_s"] == second["estimate"]["wall_s"]
    assert expected["wall_error"] == pytest.approx(metrics["run"]["wall_s"] / expected["wall_s"] - 1)
    assert expected["usd_error"] == pytest.approx(metrics["run_cost"]["usd"] / expected["usd"] - 1)
    assert [night["run_id"] for night in metrics["history"]] == [first["run_id"]]
    assert metrics["changes"].startswith("Since the run before")
    assert "Expected before it began" in (bench.output / "report.html").read_text()

    again = bench.config(videos, "Another question, so everything is new.", prices=prices)
    found = forecast(again, plan(again).table)
    assert found.estimate.based_on == second["run_id"]
    assert found.estimate.units == 8
    assert found.estimate.usd > 0
    other = bench.config(videos, "Another", compression="fast")
    assert "no calibration" in str(forecast(other, plan(other).table))


def test_a_spread_slice_has_the_size_asked_for():
    units = pa.table({"unit_id": [str(i) for i in range(10)]})
    for count in range(1, 10):
        taken = spread(units, count)["unit_id"].to_pylist()
        assert len(taken) == count == len(set(taken))


def test_from_s3_to_s3(bench, videos, s3):
    for path in sorted(videos.iterdir())[:3]:
        s3["client"].upload_file(str(path), s3["bucket"], f"in/{path.name}")
    s3["client"].put_object(Bucket=s3["bucket"], Key="in/empty.mp4", Body=b"")
    config = bench.config(
        [{"path": f"{s3['url']}/in", "storage": s3["storage"]}],
        output={"path": f"{s3['url']}/out", "storage": s3["storage"]},
    )
    ended = run(config, say=quiet)
    assert (ended.outcome, ended.done, ended.failed) == ("some_failed", 3, 1)
    # Four headers and three videos, each opened and read; part files, manifest, log, lease and so on are written.
    cost = json.loads(s3["client"].get_object(Bucket=s3["bucket"], Key="out/metrics.json")["Body"].read())["run_cost"]
    assert cost["storage_reads"] >= 2 * 7 - 1
    assert cost["storage_writes"] >= 5
    keys = [item["Key"] for item in s3["client"].list_objects_v2(Bucket=s3["bucket"], Prefix="out/")["Contents"]]
    assert {key.split("/")[1] for key in keys} == {
        *("manifest", "probes", "results", "failures", "runs", "metrics", "report.html", "metrics.json")
    }
    assert f"out/runs/{ended.run_id}/events.jsonl" in keys
    for key in keys:
        assert (
            s3["storage"]["secret"].encode() not in s3["client"].get_object(Bucket=s3["bucket"], Key=key)["Body"].read()
        )
    said = []
    assert run(config, say=said.append).outcome == "nothing_to_do"
    assert "3 done, 1 failed" in said[-1]


def test_a_rehearsal_opens_no_video(bench, videos, monkeypatch):
    """Planned, then gone: `decode: false` needs the manifest alone. Several units share a block."""
    folder = bench.folder / "videos"
    shutil.copytree(videos, folder)
    config = bench.config(folder, run={"engine_options": {"decode": False, "latency_s": 0.01}})
    folders.Folder.of(config).write_manifest(plan(config).table)
    shutil.rmtree(folder)
    monkeypatch.setattr(dataset, "block_sizes", lambda units, workers: [units])
    ended = run(config, replan=False, say=quiet)
    assert (ended.outcome, ended.done) == ("done", 8)
    bench.assert_each_unit_once()
    assert all(row["frames_decoded"] == 2 for row in bench.table("results").to_pylist())


def test_secrets_stay_out_of_the_output(bench, videos):
    config = bench.config([{"path": str(videos), "storage": {"auto_mkdir": True, "secret": "hush"}}])
    assert "hush" not in config.dump()


def test_a_second_signal_is_not_caught():
    asked, said = [], []
    with stop_on_signal(lambda: asked.append(1), said.append):
        signal.raise_signal(signal.SIGINT)
        assert asked == [1]
        assert said == ["SIGINT: writing what is finished; again to stop at once"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_run_has_the_day_it_began():
    assert started_on(new_run_id(datetime(2026, 3, 4, 23, 59, tzinfo=UTC))) == "2026-03-04"


def test_run_ids_sort_by_time_and_differ():
    ids = [new_run_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert ids[0][:8].isdigit()


def test_every_is_not_too_often():
    now, told = [0.0], []
    tell = every(10, lambda seen, total: told.append(seen), clock=lambda: now[0])
    for seen in range(100):
        now[0] = seen
        tell(seen, 100)
    assert told == [10, 20, 30, 40, 50, 60, 70, 80, 90]
