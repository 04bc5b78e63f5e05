"""A night as it is operated: two nodes, S3 in and out, a job of the cluster, a token; and a night that loses a node."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import cli
from pipeline.children import Child
from tests.clusters import Cluster, cluster
from tests.pipeline.run.test_submit import own_environment

__all__ = ["own_environment"]

SERIES = re.compile(r'^(ray_luvc_\w+)\{.*?run_name="night".*\} (\S+)$', re.M)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    """One CPU on the head, two on the other node: an engine that asks for two runs there, and decoding on the head."""
    with cluster(cpus=1, workers=(2,)) as started:
        yield started


def wait_for(condition: Any, what: str, seconds: float = 400.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.5)
    return found


def test_a_night(two_nodes, s3, videos, tmp_path, monkeypatch, capsys):
    for path in sorted(videos.iterdir()):
        s3["client"].upload_file(str(path), s3["bucket"], f"in/{path.name}")
    s3["client"].put_object(Bucket=s3["bucket"], Key="in/empty.mp4", Body=b"")
    storage = {"key": "${NIGHT_KEY}", "secret": "${NIGHT_SECRET}", "client_kwargs": s3["storage"]["client_kwargs"]}
    night = {
        "name": "night",
        "inputs": [{"path": f"{s3['url']}/in", "storage": storage}],
        "sampling": {"mode": "count", "frames": 2},
        "run": {"engine": "fake", "cpus_per_actor": 2, "heartbeat_s": 1},
        "output": {"path": f"{s3['url']}/out", "storage": storage},
        "prices": {"cpu_hour_usd": 0.04, "storage_reads_1000_usd": 0.0004, "storage_writes_1000_usd": 0.005},
    }
    config = tmp_path / "night.yaml"
    config.write_text(yaml.safe_dump(night))
    monkeypatch.setenv("NIGHT_KEY", s3["storage"]["key"])
    monkeypatch.setenv("NIGHT_SECRET", s3["storage"]["secret"])
    monkeypatch.setenv("RAY_AUTH_TOKEN", two_nodes.token)
    submit = ["submit", str(config), "--address", two_nodes.dashboard, "--env", "NIGHT_KEY", "--env", "NIGHT_SECRET"]
    assert cli.main(submit) == 3
    said = capsys.readouterr().out
    assert "some failed: 8 done, 1 failed, 0 pending of 9" in said

    files = fsspec.filesystem("s3", **s3["storage"])

    def ids(kind: str) -> list[str]:
        parts = files.glob(f"{s3['bucket']}/out/{kind}/*.parquet")
        tables = [pq.read_table(files.open(part), columns=["unit_id"]) for part in parts]
        return pa.concat_tables(tables)["unit_id"].to_pylist()

    assert set(Counter(ids("results") + ids("failures")).values()) == {1}
    assert set(ids("results") + ids("failures")) == set(ids("manifest"))
    metrics = json.loads(files.cat(f"{s3['bucket']}/out/metrics.json"))
    assert metrics["totals"]["planned"] == 9
    assert metrics["run_cost"]["usd"] > 0
    assert metrics["run_cost"]["storage_reads"] > 9
    page = files.cat(f"{s3['bucket']}/out/report.html").decode()
    assert "8 of 9 clips done" in page
    assert "Cost per video-hour" in page

    def scraped() -> list[dict[str, float]]:
        nodes = [{name: float(value) for name, value in SERIES.findall(text)} for text in two_nodes.metrics()]
        ended = [node for node in nodes if "ray_luvc_runs_ended_total" in node]
        filled = [node for node in nodes if "ray_luvc_batch_fill_ratio_count" in node]
        return ended + filled if ended and filled else []

    driver, engine = wait_for(scraped, "no node offers the run's metrics")
    assert driver["ray_luvc_units_done_total"] == 8
    assert "ray_luvc_units_done_total" not in engine, "the engine is on the other node"


def test_a_node_that_is_taken_away_loses_nothing(two_nodes, bench, videos, tmp_path):
    """As a spot node goes: killed with its engine in the middle of the work. Another one comes, and the run ends."""
    rows = [{"path": str(path), "id": path.stem} for path in sorted(videos.iterdir())]
    run = {"ray_address": two_nodes.gcs, "cpus_per_actor": 2, "in_flight_units": 2}
    night = bench.values(
        bench.items(rows), "[fake:latency=1]", run=run, output={"path": str(bench.output), "part_units": 1}
    )
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(night))
    driver = Child([sys.executable, "-m", "pipeline.cli", "run", str(config)], env=two_nodes.env)
    try:
        wait_for(lambda: driver.process.poll() is not None or bench.done(), "nothing is done")
        assert driver.process.poll() is None, driver.stderr
        two_nodes.nodes[-1].kill()
        wait_for(lambda: len(two_nodes.alive()) == 1, "the cluster does not notice")
        two_nodes.add_worker(cpus=2)
        assert driver.wait(400) == 0, driver.stderr
    finally:
        driver.kill()
    bench.assert_each_unit_once()
    assert len(bench.done()) == 8
    engines = bench.events("engine_ready")
    assert len(engines) == 2, "the second node has an engine of its own"
