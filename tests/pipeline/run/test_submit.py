"""Submission to a real head node with its dashboard, a real clip and the engine that answers without a model."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow.dataset as ds
import pytest
import yaml

from luvc.errors import ConfigError
from pipeline import cli
from pipeline.children import Child
from pipeline.run import submit as module
from pipeline.run.cluster import ClusterError
from pipeline.run.jobs_api import JobEnd, Jobs, dashboard_address, token
from pipeline.run.submit import Submission, exit_code, explain, runtime_env, submit
from tests import clusters
from tests.clusters import Cluster
from tests.pipeline.run.videos import video


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with clusters.cluster() as started:
        yield started


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No address and no token of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    video(tmp_path / "videos" / "a.mp4")
    (tmp_path / "videos" / "empty.mp4").write_bytes(b"")
    path = tmp_path / "run.yaml"
    values = {
        "name": "test",
        "inputs": [{"path": "videos", "storage": {}}],
        "sampling": {"mode": "count", "frames": 2},
        "output": {"path": "out"},
        "run": {"engine": "fake", "heartbeat_s": 2},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def rows(output: Path) -> dict[str, int]:
    return {kind: ds.dataset(output / kind).count_rows() for kind in ("results", "failures")}


def test_submitted_let_go_followed_and_continued(cluster, config, tmp_path, monkeypatch, capsys):
    # Relative paths start where the command is called: the whole cluster is this machine.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    arguments = ["submit", str(config), "--address", cluster.dashboard, "--job-id", "night"]

    following = Child([sys.executable, "-m", "pipeline.cli", *arguments])
    until = time.monotonic() + 120
    while not following.stderr.endswith("\n"):
        assert following.process.poll() is None, following.stderr
        assert time.monotonic() < until
        time.sleep(0.1)
    assert following.stderr == f"job night submitted to {cluster.dashboard}; output {tmp_path}/out\n"
    time.sleep(0.5)
    following.process.send_signal(signal.SIGINT)
    assert following.wait(60) == 130
    said = following.stderr
    assert "job night goes on" in said
    assert f"ray job logs --follow --address {cluster.dashboard} night" in said
    assert f"ray job stop --address {cluster.dashboard} night" in said

    # Ray knows only good and bad: that it is the units that failed is told by the exit code.
    assert cli.main(arguments) == 3
    out, err = capsys.readouterr()
    assert f"job night is already running on {cluster.dashboard}\n" in err
    assert "2 units to do, 0 already done" in out
    assert "some failed: 1 done, 1 failed, 0 pending of 2" in out
    assert out.rstrip().endswith(f"{tmp_path}/out/report.html")
    assert rows(tmp_path / "out") == {"results": 1, "failures": 1}

    # Submitted again, what is done stays done.
    assert cli.main([*arguments, "--set", "inputs.0.path=videos/a.mp4"]) == 0
    out, err = capsys.readouterr()
    assert "job night-2 submitted" in err
    assert "nothing to do: 1 done, 0 failed" in out
    assert rows(tmp_path / "out") == {"results": 1, "failures": 1}

    jobs = Jobs(cluster.dashboard)._client.list_jobs()
    assert {job.submission_id: job.driver_exit_code for job in jobs} == {"night": 3, "night-2": 0}


def test_secrets_stay_out_of_command_and_metadata(cluster, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    monkeypatch.setenv("S3_KEY", "a-secret-key")
    said: list[str] = []
    overrides = ["inputs.0.storage.secret=another-secret", "inputs.0.storage.key=${S3_KEY}", "inputs.0.path=/none"]
    asked = Submission(str(config), overrides, cluster.dashboard, "secret", wait=False)
    assert submit(asked, said.append) == 0
    assert any(line.startswith("follow:  ray job logs") for line in said)
    assert "the nodes must have these variables, or --env must send them: S3_KEY" in said
    info = Jobs(cluster.dashboard)._client.get_job_info("secret")
    assert info.entrypoint == "python -m pipeline.cli run luvc.yaml"
    assert "secret" not in str(info.metadata)
    assert "a-secret-key" not in str(info)
    assert "another-secret" not in str(info)
    assert info.metadata["luvc_name"] == "test"
    Jobs(cluster.dashboard)._client.stop_job("secret")


def test_no_token_and_a_wrong_one(cluster, config, tmp_path, monkeypatch, capsys):
    arguments = ["submit", str(config), "--address", cluster.dashboard]
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    what, hint = err.splitlines()
    assert what == (
        f"error: the Ray cluster at {cluster.dashboard} asks for a token, and there is none in RAY_AUTH_TOKEN, "
        "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    )
    assert "ray get-auth-token" in hint
    (tmp_path / "token").write_text("wrong-" + cluster.token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert cli.main(arguments) == 1
    what, _ = capsys.readouterr().err.splitlines()
    assert what == f"error: the Ray cluster at {cluster.dashboard} refuses the token from {tmp_path}/token"


def test_another_machine_cannot_follow_relative_paths(cluster, config, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    monkeypatch.setattr(Jobs, "runs_here", lambda self: False)
    assert cli.main(["submit", str(config), "--address", cluster.dashboard]) == 2
    err = capsys.readouterr().err
    assert "a relative path leads nowhere: inputs.0.path 'videos', output.path 'out'" in err


def test_nobody_there(config, capsys):
    assert cli.main(["submit", str(config), "--address", "127.0.0.1:9"]) == 1
    what, hint = capsys.readouterr().err.splitlines()
    assert what == "error: no Ray cluster answers at http://127.0.0.1:9: Connection refused"
    assert "RAY_DASHBOARD_ADDRESS" in hint


def test_something_else_is_there(config, s3_server, capsys):
    assert cli.main(["submit", str(config), "--address", s3_server]) == 1
    assert "is not a Ray dashboard" in capsys.readouterr().err


def test_the_clusters_own_port_is_not_the_dashboard(cluster, config, capsys):
    assert cli.main(["submit", str(config), "--address", cluster.gcs]) == 1
    assert "port 8265" in capsys.readouterr().err


def test_a_bad_configuration_is_found_before_anything_is_sent(config, capsys):
    assert cli.main(["submit", str(config), "--address", "127.0.0.1:9", "--set", "run.actors=none"]) == 2
    assert "--set run.actors: run.actors: 'none' is not allowed" in capsys.readouterr().err
    assert cli.main(["submit", "no.yaml"]) == 2


def test_environment_that_goes_along(config, monkeypatch):
    with pytest.raises(ConfigError, match=r"--env NOT_SET: .* not set"):
        submit(Submission(str(config), env=["NOT_SET"], address="127.0.0.1:9"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    with pytest.raises(ConfigError, match="does not travel"):
        submit(Submission(str(config), env=["RAY_AUTH_TOKEN"], address="127.0.0.1:9"))
    monkeypatch.setenv("S3_KEY", "k")
    assert module._env(["S3_KEY"]) == {"S3_KEY": "k"}


def test_the_embedded_weights_go_only_where_they_are_used(config):
    from pipeline.run.parcel import pack

    demo = runtime_env("/x", pack(config), {}, installed=False)
    other = runtime_env("/x", pack(config, ["model.id=a/b"]), {"A": "1"}, installed=False)
    assert not any("safetensors" in name for name in demo["excludes"])
    assert any("safetensors" in name for name in other["excludes"])
    assert other["env_vars"]["A"] == "1"
    assert {Path(path).name for path in demo["py_modules"]} == {"luvc", "pipeline"}
    assert "py_modules" not in runtime_env("/x", pack(config), {}, installed=True)


@pytest.mark.parametrize(
    ("status", "code", "expected", "said"),
    [
        ("SUCCEEDED", 0, 0, ""),
        ("FAILED", 3, 3, ""),
        ("FAILED", 2, 2, ""),
        ("FAILED", 4, 4, ""),
        ("FAILED", 1, 1, "ended with exit code 1"),
        ("FAILED", 127, 1, "no `python`"),
        ("FAILED", 137, 1, "was killed"),
        ("FAILED", None, 1, "did not run to its end: the node died"),
        ("STOPPED", 0, 1, "was stopped; submit it again"),
    ],
)
def test_exit_codes(status, code, expected, said):
    end = JobEnd(status, code, "the node died\nand more")
    assert exit_code(end) == expected
    assert said in explain(end, "j")


def test_a_connection_that_breaks_repeats_nothing_and_loses_nothing(monkeypatch):
    log = ["first\n", "second\n", "third\n"]
    pulses = iter([2, 3])

    async def tail(job_id):
        for text in log[: next(pulses)]:
            yield text
        if len(shown) < 3:
            raise RuntimeError("the connection is gone")

    shown: list[str] = []
    states = iter([False, True])

    def info(job_id):
        ended = next(states)
        status = SimpleNamespace(is_terminal=lambda: ended, value="SUCCEEDED")
        return SimpleNamespace(status=status, driver_exit_code=0, message="")

    jobs = Jobs.__new__(Jobs)
    jobs._client = SimpleNamespace(tail_job_logs=tail, get_job_info=info)
    monkeypatch.setattr("pipeline.run.jobs_api.AGAIN_S", 0.0)
    assert jobs.follow("j", shown.append).status == "SUCCEEDED"
    assert "".join(shown) == "".join(log)


def test_a_cluster_that_is_gone_is_given_up(monkeypatch):
    async def tail(job_id):
        raise OSError("gone")
        yield ""

    def info(job_id):
        raise RuntimeError("connection refused")

    jobs = Jobs.__new__(Jobs)
    jobs.address = "http://h:1"
    jobs._client = SimpleNamespace(tail_job_logs=tail, get_job_info=info)
    monkeypatch.setattr("pipeline.run.jobs_api.AGAIN_S", 0.0)
    monkeypatch.setattr("pipeline.run.jobs_api.LOST_S", 0.05)
    with pytest.raises(ClusterError, match="http://h:1: connection refused"):
        jobs.follow("j", print)


@pytest.mark.parametrize(
    ("asked", "env", "found"),
    [
        ("http://h:1/", {"RAY_ADDRESS": "other:2"}, "http://h:1"),
        ("h:1", {}, "http://h:1"),
        (None, {"RAY_ADDRESS": "h:1", "RAY_DASHBOARD_ADDRESS": "https://d:2"}, "https://d:2"),
        (None, {"RAY_ADDRESS": "http://h:1"}, "http://h:1"),
        (None, {"RAY_ADDRESS": "auto"}, "http://127.0.0.1:8265"),
        (None, {}, "http://127.0.0.1:8265"),
    ],
)
def test_addresses(asked, env, found, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert dashboard_address(asked) == found


def test_a_ray_client_address_is_explained(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:10001")
    with pytest.raises(ClusterError, match="RAY_ADDRESS: ray://h:10001 is a Ray Client address"):
        dashboard_address(None)


def test_where_a_token_is_found(tmp_path, monkeypatch):
    assert token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("one\n")
    assert token() == ("one", str(tmp_path / ".ray" / "auth_token"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "two")
    assert token() == ("two", "RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token() is None
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match=r"RAY_AUTH_TOKEN_PATH: .* cannot be read"):
        token()
