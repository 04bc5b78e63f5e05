"""From a video file to answers, without Ray: what the planner wrote is what decoder and engine do, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from luvc.types import drive
from pipeline.config import RunConfig, parse_config
from pipeline.decode import decode_unit
from pipeline.plan import plan
from pipeline.run.engines import open_encoder, open_engine
from pipeline.run.outcome import encoded_of, encoded_row, request_of
from tests.luvc import tiny_qwen

CLIPS = Path(__file__).parents[2] / "examples" / "videos"


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL checkpoint as a user would have it on disk."""
    folder = tmp_path_factory.mktemp("tiny-qwen")
    tiny_qwen.model().save_pretrained(folder)
    tiny_qwen.tokenizer().save_pretrained(folder)
    return folder


def config_for(model: str, compression: object, tmp_path: Path, **run: object) -> RunConfig:
    return parse_config(
        {
            "inputs": [{"path": str(CLIPS / name)} for name in ("bikes.mp4", "carphone_pristine.mp4")],
            "sampling": {"mode": "count", "frames": 3},
            "clips": {"mode": "windows", "window_s": 4},
            "prompts": ["Describe this video.", "Why?"],
            "model": {"id": model, "dtype": "float32", "device": "cpu"},
            "compression": compression,
            "generation": {"max_new_tokens": 3},
            "decode": {"max_frame_tokens": 24},
            "output": {"path": str(tmp_path / "out")},
            "run": run,
        }
    )


@pytest.mark.parametrize("compression", ["off", "fast", {"resize": 0.5, "prune": {"schedule": "ramp"}}], ids=str)
@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_planned_tokens_are_those_of_the_answer(family, compression, qwen_folder, tmp_path):
    config = config_for("luvc-demo" if family == "internvl" else str(qwen_folder), compression, tmp_path)
    units = {row["unit_id"]: row for row in plan(config).table.to_pylist()}
    assert len(units) == 4
    requests = []
    for row in units.values():
        clip = decode_unit(row, config.decode)
        assert clip.frames.shape == (row["frames"], row["frame_height_px"], row["frame_width_px"], 3)
        row["used_timestamps_s"] = list(clip.timestamps_s)
        requests.append(request_of(row, clip.frames, config.generation))
    seen = set()
    for done in drive(open_engine(config), requests):
        assert done.error is None, done.error
        row = units[done.id]
        assert done.tokens.patches == row["patches"]
        assert done.tokens.visual == row["visual_tokens"]
        assert done.tokens.merged == row["merged_tokens"]
        assert done.tokens.mean_by_layer == pytest.approx(row["mean_layer_tokens"])
        assert len(done.answers) == 2
        seen.add(done.id)
    assert seen == set(units)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_encoder_and_language_model_apart_answer_as_one(family, qwen_folder, tmp_path):
    """What the actors of `run.topology: split` do, one after the other, with the rows that travel between them."""
    model = "luvc-demo" if family == "internvl" else str(qwen_folder)
    whole = config_for(model, "fast", tmp_path)
    split = config_for(model, "fast", tmp_path, topology="split")
    units = {row["unit_id"]: row for row in plan(whole).table.to_pylist()}
    assert set(units) == {row["unit_id"] for row in plan(split).table.to_pylist()}, "the same answers, the same units"
    requests = []
    for row in units.values():
        clip = decode_unit(row, whole.decode)
        row["used_timestamps_s"] = list(clip.timestamps_s)
        requests.append(request_of(row, clip.frames, whole.generation))
    expected = {done.id: (done.answers, done.tokens) for done in drive(open_engine(whole), requests)}
    encoded = []
    for done in drive(open_encoder(split), requests):
        assert done.error is None, done.error
        travels = encoded_row(units[done.id], done.encoded[0])
        assert len(done.encoded[0].features) == units[done.id]["merged_tokens"]
        encoded.append(request_of(units[done.id], encoded_of(travels, 0), split.generation))
    assert {done.id: (done.answers, done.tokens) for done in drive(open_engine(split), encoded)} == expected
