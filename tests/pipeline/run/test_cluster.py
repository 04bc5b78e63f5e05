"""Connecting to Ray: what goes wrong is said in one line."""

from __future__ import annotations

import os
import sys

import pytest

from pipeline.run import cluster
from pipeline.run.cluster import ClusterError, explain, local_cpus


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """What is set here must not reach the Ray of other tests."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_nobody_listens(bench, videos, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    config = bench.config(videos, run={"ray_address": "127.0.0.1:9"})
    with (
        pytest.raises(ClusterError, match=r"cannot connect to the Ray cluster at 127.0.0.1:9: .*refused"),
        cluster.connected(config),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "address", "said"),
    [
        (
            RuntimeError("Token authentication is enabled but no authentication token was found. And so on."),
            "h:1",
            "token",
        ),
        (RuntimeError("401 Unauthorized"), "h:1", "token"),
        (ConnectionError("no route\nmany lines"), "h:1", "cannot connect to the Ray cluster at h:1: no route"),
        (OSError(), None, "cannot start a local Ray: OSError"),
    ],
)
def test_errors_are_one_line_with_advice(error, address, said):
    found = explain(error, address)
    assert said in found.message
    assert "\n" not in str(found)
    assert found.hint


def test_a_token_at_hand_is_offered():
    os.environ.pop("RAY_AUTH_MODE", None)
    os.environ["RAY_AUTH_TOKEN"] = "t" * 32
    cluster._use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_local_ray_has_room_for_all_actors(bench, videos):
    assert local_cpus(bench.config(videos, run={"actors": 64, "cpus_per_actor": 2, "decode_cpus": 0.5})) == 129
    assert local_cpus(bench.config(videos)) >= 2


def test_messages_of_ray_stay_off_the_terminal(capfd):
    stderr = sys.stderr
    sys.stderr = sys.__stderr__
    try:
        with cluster._messages_aside(active=True):
            os.write(2, b"from native code\n")
            print("from a listener")
            print("from us", file=sys.stderr)
    finally:
        sys.stderr = stderr
    out, err = capfd.readouterr()
    assert (out, err) == ("", "from us\n")
