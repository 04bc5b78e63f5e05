"""An encoder's process that dies costs the unit that kills it every time, and nobody else."""

from __future__ import annotations

import pytest

from pipeline.run import dataset
from pipeline.run.job import run
from tests.faults.encoders import DyingEncodeStage
from tests.pipeline.run.test_split import checkpoint, split

__all__ = ["checkpoint"]


@pytest.mark.usefixtures("ray_address")
def test_a_killed_encoder_loses_nothing(bench, videos, checkpoint, monkeypatch):
    monkeypatch.setattr(dataset, "EncodeStage", DyingEncodeStage)
    rows = [{"path": str(path), "id": path.stem} for path in sorted(videos.iterdir())]
    rows[2]["prompt"] = f"[dies-once={bench.folder / 'died'}]"
    rows[5]["prompt"] = "[dies]"
    ended = run(split(bench, bench.items(rows), checkpoint("qwen2_5_vl"), run={"attempts": 3}), say=lambda _: None)
    assert (ended.done, ended.failed) == (7, 1)
    bench.assert_each_unit_once()
    (failure,) = bench.failures()
    assert (failure["item_id"], failure["error_class"], failure["stage"]) == ("v5", "WorkerDied", "encode")
    assert failure["retryable"]
    assert "while encoding" in failure["message"]
    assert (bench.folder / "died").exists()
