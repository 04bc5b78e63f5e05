"""The command line: quick help, exit codes, one readable message for every error."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from luvc.errors import ConfigError, LuvcError
from pipeline import children, cli
from pipeline.schemas import FAILURES
from tests.pipeline.run.videos import video


@pytest.fixture
def config(tmp_path):
    video(tmp_path / "videos" / "a.mp4")
    (tmp_path / "videos" / "b.mp4").write_bytes(b"")
    path = tmp_path / "run.yaml"
    values = {
        "inputs": [{"path": str(tmp_path / "videos")}],
        "output": {"path": str(tmp_path / "out")},
        "run": {"engine": "fake"},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_help_is_quick_and_names_what_exists():
    code = "import sys; from pipeline import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'ray', 'pyarrow', 'av', 'pydantic') if name in sys.modules])"
    done = children.run([sys.executable, "-c", code], check=True)
    for name in ("plan", "run", "report", "failures", "compact", "doctor"):
        assert f"\n    {name} " in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_as_a_module():
    done = children.run([sys.executable, "-m", "pipeline.cli", "run", "--help"])
    assert done.returncode == 0
    assert "--retry-failed" in done.stdout


def test_plan_writes_a_manifest_without_torch_or_ray(config, tmp_path, capsys):
    assert cli.main(["plan", str(config)]) == 0
    assert "units           2 from 2 videos" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out" / "manifest" / "manifest.parquet").num_rows == 2


def test_plan_shows_the_compression(config, capsys):
    assert cli.main(["plan", str(config), "--dry-run", "--show-compression"]) == 0
    assert "vision encoder" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "run"])
def test_dry_run_writes_nothing(config, tmp_path, capsys, command):
    assert cli.main([command, str(config), "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    if command == "run":
        assert "would run 2 units; 0 done, 0 failed, 2 pending" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("run.actros=2", "actors"),
        ("run.actors=none", "run.actors"),
        ("inputs.0.path=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_bad_configuration_is_exit_2_and_one_message(config, tmp_path, capsys, command, override, named):
    assert cli.main([command, str(config), "--set", override]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert named in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_exit_2(config, tmp_path, capsys):
    (tmp_path / "in-the-way").write_text("")
    assert cli.main(["run", str(config), "--set", f"output.path={tmp_path}/in-the-way/out"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_missing_configuration_is_exit_2(tmp_path, capsys):
    assert cli.main(["run", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("bad key", "use the other"), 2, "error: bad key\n  hint: use the other\n"),
        (LuvcError("it broke"), 1, "error: it broke\n"),
        (ZeroDivisionError("oh"), 1, "error: ZeroDivisionError: oh\n  hint: --debug shows where\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_messages(monkeypatch, capsys, error, code, said):
    def raise_it(_):
        raise error

    monkeypatch.setattr(cli, "_doctor", raise_it)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == said


def test_debug_shows_the_trace(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_doctor", lambda _: 1 / 0)
    assert cli.main(["doctor", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_failures_lists_the_newest_of_each_unit(config, tmp_path, capsys):
    assert cli.main(["plan", str(config)]) == 0
    planned = pq.read_table(tmp_path / "out" / "manifest" / "manifest.parquet").to_pylist()[0]
    row = {"unit_id": planned["unit_id"], "uri": planned["uri"], "stage": "answer", "retryable": True}
    rows = [
        row | {"error_class": "Old", "message": "first", "attempts": 1, "failed_at": datetime(2026, 1, 1, tzinfo=UTC)},
        row | {"error_class": "New", "message": "again", "attempts": 2, "failed_at": datetime(2026, 1, 2, tzinfo=UTC)},
        row | {"unit_id": "of an older plan", "error_class": "Other", "message": "x", "attempts": 1},
    ]
    (tmp_path / "out" / "failures").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=FAILURES), tmp_path / "out" / "failures" / "part-x.parquet")
    capsys.readouterr()
    assert cli.main(["failures", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "answer: New: 1 units, 1 worth trying again" in said
    assert "again (tried 2x" in said
    assert "Old" not in said
    assert "Other" not in said
    assert cli.main(["failures", str(config), "--json"]) == 0
    assert '"error_class": "New"' in capsys.readouterr().out


def test_failures_of_nothing(tmp_path, capsys):
    assert cli.main(["failures", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no failed units\n"


def test_report_without_a_manifest_says_so(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "no manifest" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "code"), [([], 3), (["--failed-ok"], 0)])
def test_failed_units_may_be_all_right(config, monkeypatch, flags, code):
    from pipeline.run import job

    ended = job.RunOutcome("some_failed", planned=2, done=1, failed=1, pending=0)
    monkeypatch.setattr(job, "run", lambda *_, **__: ended)
    assert cli.main(["run", str(config), *flags]) == code


def test_an_interrupted_run_is_never_all_right(config, monkeypatch):
    from pipeline.run import job

    ended = job.RunOutcome("interrupted", planned=2, done=1, failed=0, pending=1)
    monkeypatch.setattr(job, "run", lambda *_, **__: ended)
    assert cli.main(["run", str(config), "--failed-ok"]) == 1


def test_videos_are_added_to_a_plan(config, tmp_path, capsys):
    """Nothing is listed again: a file that is not named stays out."""
    new, unnamed = video(tmp_path / "videos" / "c.mp4", seed=1), tmp_path / "videos" / "d.mp4"
    new.rename(tmp_path / "c.mp4")
    assert cli.main(["plan", str(config), "--add", str(tmp_path / "c.mp4")]) == 2
    assert "no manifest to add to" in capsys.readouterr().err
    assert cli.main(["plan", str(config)]) == 0
    (tmp_path / "c.mp4").rename(new)
    video(unnamed, seed=2)
    assert cli.main(["plan", str(config), "--add", str(new)]) == 0
    assert "units           3 from 3 videos" in capsys.readouterr().out
    assert cli.main(["run", str(config), "--dry-run"]) == 0
    assert "headers         2 read, 2 files as they were" in capsys.readouterr().out
    assert cli.main(["submit", str(config), "--add", "c.mp4"]) == 2
    assert "other machines" in capsys.readouterr().err
