"""Merged tokens enter the language model at the exact, fractional means of their original positions."""

from __future__ import annotations

import pytest
import torch

import luvc
from luvc.families.base import ClipPlan, Encoded, Prompt
from tests.luvc import tiny, tiny_qwen

ROW = torch.tensor([0.0, 0.5, 1.25, 3.0])
COLUMN = torch.tensor([0.5, 2.0, 0.0, 2.75])
STEPS = [[0.0, "height", 0.5], [0.0, "width", 0.5]]  # a frame of 4x4 tokens becomes 2x2


def packed(module, frames, positions="original"):
    engine = module.engine({"merge": {"steps": STEPS, "positions": positions}})
    plan = luvc.schedule(engine.model_config, (frames, 4, 4), engine.compression)
    assert plan.merged_tokens == 4 * frames
    clip = ClipPlan(plan, frame_interval_s=1.0)
    encoded = Encoded(torch.zeros(plan.merged_tokens, 48), ROW.repeat(frames), COLUMN.repeat(frames))
    prompt = Prompt(engine.runtime.layout("Why?", [clip]), (clip,), (encoded,))
    with torch.inference_mode():
        return engine.runtime, prompt, engine.runtime.pack([prompt])


def test_internvl_counts_through_the_uncompressed_frame():
    runtime, prompt, batch = packed(tiny, 2)
    first, second, last = (len(piece) for piece in prompt.layout.pieces)
    inside = (ROW * 4 + COLUMN).tolist()
    next_frame = first + 16 + second
    expected = [
        *range(first),
        *(first + place for place in inside),
        *range(first + 16, next_frame),
        *(next_frame + place for place in inside),
        *range(next_frame + 16, next_frame + 16 + last),
    ]
    assert batch.positions[0].tolist() == pytest.approx(expected)
    assert runtime.next_position(prompt) == next_frame + 16 + last


def test_internvl_compact_positions_are_plain_counting():
    _, prompt, batch = packed(tiny, 1, positions="compact")
    assert batch.positions[0].tolist() == list(range(prompt.layout.text_tokens + 4))


def test_qwen_keeps_time_row_and_column_in_original_coordinates():
    _, prompt, batch = packed(tiny_qwen, 2)
    before, after = (len(piece) for piece in prompt.layout.pieces)
    step = tiny_qwen.model().config.vision_config.tokens_per_second * 2  # two sampled frames, a second apart, a grid
    time, row, column = batch.positions[:, 0, before : before + 8]
    assert time.tolist() == [before] * 4 + [before + step] * 4
    assert row.tolist() == pytest.approx((before + ROW).repeat(2).tolist())
    assert column.tolist() == pytest.approx((before + COLUMN).repeat(2).tolist())
    # Text goes on behind the longer edge of the uncompressed frame, as it does without merging.
    assert batch.positions[0, 0, -after:].tolist() == list(range(before + 4, before + 4 + after))
