"""A decoder that crashes, hangs, is refused or is killed costs its own unit only."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pytest

from pipeline.plan import plan
from pipeline.run import dataset
from pipeline.run.feed import Feed
from pipeline.run.outcome import UNIT, Facts, failure_table, result_table
from tests.faults.decoders import in_ray_worker

TROUBLE = ("segfault", "hang", "forbidden", "flaky", "kills-worker", "kills-worker-once")


@pytest.mark.usefixtures("ray_address")
def test_each_trouble_costs_one_unit(bench, videos, tmp_path, monkeypatch):
    """All of it in one task."""
    monkeypatch.setattr(dataset, "block_sizes", lambda units, workers: [units])
    folder = tmp_path / "trouble"
    shutil.copytree(videos, folder)
    for index, name in enumerate(TROUBLE):
        shutil.copy(videos / f"v{index}.mp4", folder / f"{name}.mp4")
    config = bench.config(folder, decode={"deadline_s": 2})
    table = plan(config).table
    units = table.append_column("tried", pa.array([0] * table.num_rows, pa.int32())).select(UNIT.names)
    with Feed(units, config, Facts("run", "model", "off"), in_ray_worker) as feed:
        outcomes = pa.concat_tables([batch for batch in feed if batch is not None])
    results, failures = result_table(outcomes), failure_table(outcomes)
    assert sorted(results["unit_id"].to_pylist() + failures["unit_id"].to_pylist()) == sorted(
        units["unit_id"].to_pylist()
    )
    causes = {
        row["uri"].rsplit("/", 1)[1]: (row["error_class"], row["attempts"], row["retryable"], row["stage"])
        for row in failures.to_pylist()
    }
    assert causes == {
        "segfault.mp4": ("DecoderCrashed", 2, True, "video_decode"),
        "hang.mp4": ("DecodeTimeout", 2, True, "video_decode"),
        "forbidden.mp4": ("PermissionDenied", 1, False, "video_decode"),
        "kills-worker.mp4": ("WorkerDied", 2, True, "video_decode"),
    }
