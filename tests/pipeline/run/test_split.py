"""Encoders and language models in actors of their own: the same answers as in one, from real videos over real Ray."""

from __future__ import annotations

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


def texts(bench, run_id: str) -> dict[tuple[str, str], str]:
    rows = [row for row in bench.table("results").to_pylist() if row["run_id"] == run_id]
    return {(row["unit_id"], row["prompt_id"]): row["text"] for row in rows}


@pytest.mark.usefixtures("ray_address")
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_counts_and_times_of_a_split_run(bench, videos, checkpoint, family, tmp_path):
    model, prompts = checkpoint(family), {"a": "What?", "b": "Why?"}
    rows = [{"path": str(path)} for path in sorted(videos.iterdir())]
    rows += [{"path": str(path)} for name, path in zoo(tmp_path / "zoo").items() if name == "empty"]
    inputs, said = bench.items(rows), []
    one = run(fused(bench, inputs, model, prompts), say=said.append)
    expected = texts(bench, one.run_id)
    assert len(expected) == 16
    whole = {row["unit_id"]: row for row in bench.table("results").to_pylist()}
    for part in (bench.output / "results").iterdir():
        part.unlink()

    config = split(bench, inputs, model, prompts, run={"actors": "auto", "encoders": {}})
    two = run(config, say=said.append)
    assert (two.done, two.failed, two.outcome) == (8, 1, "some_failed")
    assert texts(bench, two.run_id) == expected
    assert any("1 encoders and 1 language models on 0 GPUs" in line for line in said), said
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
    assert "starved_s" not in bench.events("heartbeat")[0]["stage"]["prefill"], "one actor waits for frames only"
