"""Numbers of a unit for models of fixed and of free frame size; all of them are the scheduler's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luvc.compression import Compression
from luvc.errors import PromptTooLong
from luvc.scheduling import schedule
from pipeline.plan.sizing import FrameSizer, Sizer, UnitSize

COMPRESSED = Compression.from_any("fast")

QWEN = {
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "depth": 4,
        "hidden_size": 64,
        "num_heads": 4,
        "intermediate_size": 128,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [3],
    },
    "text_config": {
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
    },
}


@pytest.fixture
def qwen(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return str(tmp_path)


def test_the_embedded_model_squashes_to_its_own_size() -> None:
    sizer = Sizer.of_model("luvc-demo", None, COMPRESSED, 32)
    wide, tall = sizer.size(720, 1280, 8, ["a"]), sizer.size(1280, 720, 8, ["a"])
    assert wide is tall
    assert (wide.frame_height_px, wide.frame_width_px) == sizer.shape.frame_px


def test_numbers_are_the_schedulers(qwen: str) -> None:
    sizer = Sizer.of_model(qwen, None, COMPRESSED, 16)
    size = sizer.size(720, 1280, 6, ["What?", "Where is it?"])
    grid = sizer.family.grid(sizer.shape, 6, size.frame_height_px, size.frame_width_px)
    planned = schedule(sizer.shape, grid, COMPRESSED)
    assert size.visual_tokens == planned.visual_tokens
    assert size.merged_tokens == planned.merged_tokens < planned.visual_tokens
    assert size.patches == planned.patches
    assert size.vision_flops == planned.vision_flops()
    assert size.frame_width_px > size.frame_height_px
    assert size.kv_bytes > 0


def test_a_limit_of_tokens_per_frame(qwen: str) -> None:
    free = Sizer.of_model(qwen, None, COMPRESSED, 16).size(720, 1280, 4, ["a"])
    limited = Sizer.of_model(qwen, None, COMPRESSED, 16, max_frame_tokens=64).size(720, 1280, 4, ["a"])
    assert limited.visual_tokens < free.visual_tokens
    assert limited.visual_tokens <= 64 * 2  # two frames share a patch


def test_more_prompts_cost_text_only() -> None:
    sizer = Sizer.of_model("luvc-demo", None, COMPRESSED, 32)
    one, two = sizer.size(100, 100, 8, ["a"]), sizer.size(100, 100, 8, ["a", "a"])
    assert two.text_flops == 2 * one.text_flops
    assert (two.vision_flops, two.kv_bytes) == (one.vision_flops, one.kv_bytes)


def test_kv_bytes_follow_the_element_size() -> None:
    half, full = (Sizer.of_model("luvc-demo", None, COMPRESSED, 32, element_bytes=size) for size in (2, 4))
    assert full.size(1, 1, 8, ["a"]).kv_bytes == 2 * half.size(1, 1, 8, ["a"]).kv_bytes


def test_compression_does_not_make_a_long_video_fit() -> None:
    with pytest.raises(PromptTooLong, match="200 frames are 12800 visual tokens"):
        Sizer.of_model("luvc-demo", None, Compression.from_any("fast"), 32).size(100, 100, 200, ["a"])


def test_a_family_of_another_engine_has_a_frame_size_and_no_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "a_new_one"}))
    off = Compression.from_any("off")
    free = FrameSizer.of_any_model(str(tmp_path), None, off, 32)
    assert free.size(360, 640, 8, ["a"]) == UnitSize(360, 640)
    large = free.size(2160, 3840, 8, ["a"])
    assert large.frame_height_px * large.frame_width_px == pytest.approx(768 * 28**2, rel=0.01)
    assert large.frame_width_px / large.frame_height_px == pytest.approx(16 / 9, rel=0.01)
    limited = FrameSizer.of_any_model(str(tmp_path), None, off, 32, max_frame_tokens=4)
    assert limited.size(100, 100, 8, ["a"]) == UnitSize(56, 56)
    assert large.visual_tokens is None


def test_a_family_that_is_known_is_counted_for_any_engine(qwen: str) -> None:
    off = Compression.from_any("off")
    sizer = FrameSizer.of_any_model(qwen, None, off, 16)
    assert sizer.size(720, 1280, 4, ["a"]) == Sizer.of_model(qwen, None, off, 16).size(720, 1280, 4, ["a"])
