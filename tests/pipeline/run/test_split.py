"""Encoders and language models in actors of their own: the same answers as in one, from real videos over real Ray."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from pipeline.config import RunConfig
from pipeline.run.job import run
from tests.luvc import tiny, tiny_qwen
from tests.pipeline.run.videos import zoo

FAMILIES = {"internvl": tiny, "qwen2_5_vl": tiny_qwen}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny checkpoints as a user would have them on disk, by family."""

    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        FAMILIES[family].model().save_pretrained(folder)
        FAMILIES[family].tokenizer().save_pretrained(folder)
        return folder

    return make


def fused(bench, inputs: object, model: Path, prompts: object = "Describe this.", **sections: dict) -> RunConfig:
    sections["run"] = {"engine": "luvc"} | sections.get("run", {})
    return bench.config(
        inputs,
        prompts,
        model={"id": str(model), "dtype": "float32", "device": "cpu"},
        generation={"max_new_tokens": 6},
        decode={"max_frame_tokens": 24},
        **sections,
    )


def split(bench, inputs: object, model: Path, prompts: object = "Describe this.", **sections: dict) -> RunConfig:
    sections["run"] = {"topology": "split", "encoders": {"actors": 1}} | sections.get("run", {})
    return fused(bench, inputs, model, prompts, **sections)


def texts(bench) -> dict[tuple[str, str], str]:
    return {(row["unit_id"], row["prompt_id"]): row["text"] for row in bench.table("results").to_pylist()}


@pytest.mark.usefixtures("ray_address")
@pytest.mark.parametrize(("family", "calibrate"), [("internvl", 0), ("qwen2_5_vl", 2)])
def test_answers_counts_and_times_of_a_split_run(bench, videos, checkpoint, family, calibrate, tmp_path):
    model, prompts = checkpoint(family), {"a": "What?", "b": "Why?"}
    rows = [{"path": str(path)} for path in sorted(videos.iterdir())]
    rows += [{"path": str(path)} for name, path in zoo(tmp_path / "zoo").items() if name == "empty"]
    inputs, said = bench.items(rows), []
    run(fused(bench, inputs, model, prompts), say=said.append)
    expected = texts(bench)
    assert len(expected) == 16
    whole = {row["unit_id"]: row for row in bench.table("results").to_pylist()}
    beat = bench.events("heartbeat")[0]
    assert "starved_s" not in beat["stage"]["prefill"], "one actor waits for frames only"
    for folder in ("results", "runs"):  # the fused run would be a calibration, too
        shutil.rmtree(bench.output / folder)

    config = split(bench, inputs, model, prompts, run={"actors": "auto", "encoders": {}})
    two = run(config, calibrate=calibrate, say=said.append)
    assert (two.done, two.failed, two.outcome) == (8, 1, "some_failed")
    assert texts(bench) == expected
    pools = [line for line in said if "1 encoders and 1 language models on 0 GPUs" in line]
    assert "no run of this name, model and compression has finished units here" in pools[0]
    if calibrate:
        why = r"a unit took \S+ s in the encoder and \S+ s in the language model \(mean of 2 units"
        assert re.search(why, pools[1]), "solved again, from the slice"
    manifest = {row["unit_id"]: row for row in bench.table("manifest").to_pylist()}
    for row in bench.table("results").to_pylist():
        assert all(row[name] > 0 for name in ("video_decode_s", "encode_s", "prefill_s", "decode_s"))
        counts = ("patches", "visual_tokens", "merged_tokens")
        assert [row[name] for name in counts] == [manifest[row["unit_id"]][name] for name in counts]
        assert row["layer_tokens"] == whole[row["unit_id"]]["layer_tokens"]
    stage = bench.events("heartbeat")[-1]["stage"]
    assert stage["encode"]["busy_s"] > 0
    assert stage["encode"]["starved_s"] >= 0
    assert stage["prefill"]["starved_s"] > 0, "the language model waits for the first encoding at least"
