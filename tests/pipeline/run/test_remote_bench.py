"""The benchmark on a node of the cluster; `jobs/benchmark.py` as `ray job submit` calls it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pipeline import children
from pipeline.run.remote_bench import cpus_of_a_node, with_defaults

ROOT = Path(__file__).parents[3]
SMALL = {"CPU": 4.0}
GPU = {"CPU": 16.0, "GPU": 1.0}


def node(resources, alive=True):
    return {"Resources": resources, "Alive": alive}


@pytest.mark.parametrize(
    ("nodes", "gpus", "cpus"),
    [
        ([node(SMALL), node(GPU)], 1, 16),
        ([node(SMALL), node(GPU, alive=False)], 0, 4),
        ([node({"CPU": 0.0})], 0, 1),
        ([], 1, 1),
    ],
)
def test_a_whole_node_is_reserved(nodes, gpus, cpus):
    assert cpus_of_a_node(nodes, gpus) == cpus


def test_shape_and_device_follow_the_node():
    assert with_defaults([], 1) == ["--shape", "gpu", "--device", "cuda"]
    assert with_defaults(["--shape=tiny"], 0) == ["--device", "cpu", "--shape=tiny"]
    assert with_defaults(["--device", "cuda:1"], 1) == ["--shape", "gpu", "--device", "cuda:1"]


def run(ray_address, *arguments):
    env = os.environ | {"RAY_ADDRESS": ray_address, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), *arguments]
    return children.run(command, env=env, timeout_s=240)


def test_the_report_is_written_where_it_is_told(ray_address, tmp_path):
    small = ["--shape", "tiny", "--videos", "2", "--rounds", "1", "--batches", "1", "--presets", "balanced"]
    # One CPU: other tests' actors may still be on this cluster, and all of a node would be waited for.
    done = run(ray_address, "--cpus", "1", "--out", str(tmp_path / "new" / "bench.json"), *small)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert report["videos_per_s"]["balanced"] > 0
    assert "| balanced |" in done.stdout


def test_no_cluster_is_one_line():
    done = run("127.0.0.1:9", "--shape", "tiny")
    assert done.returncode == 1
    assert "error: cannot connect to the Ray cluster at 127.0.0.1:9" in done.stderr
