"""Counts, FLOPs and bytes: pure arithmetic, checked against the real modules."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import luvc
from luvc.compression import PRESETS, Compression, Merge, MergeStep, Prune
from luvc.engine import Engine
from luvc.families import internvl
from luvc.methods import spu
from luvc.scheduling import retained_in_layers, retained_on_axis, schedule
from pipeline import children
from tests.luvc import tiny, tiny_qwen

SHAPE = internvl.FAMILY.shape(tiny.model().config.to_dict())


def test_importing_luvc_and_planning_needs_no_torch():
    code = (
        "import sys, luvc; from luvc.families import internvl; from luvc import checkpoints;"
        "c = checkpoints.read_config('luvc-demo');"
        "s = luvc.schedule(internvl.FAMILY.shape(c), (8, 8, 8), {'merge': {'keep': 0.25}});"
        "assert s.merged_tokens == 128, s.merged_tokens;"
        "assert not {'torch', 'transformers', 'ray', 'av'} & set(sys.modules)"
    )
    children.run([sys.executable, "-c", code], check=True)


@settings(max_examples=300, deadline=None)
@given(
    frames=st.integers(0, 64),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    keep=st.floats(0.02, 1.0),
    kind=st.sampled_from(["ramp", "stages"]),
)
def test_counts_are_sane_for_any_shape(frames, height, width, keep, kind):
    plan = schedule(SHAPE, (frames, height, width), Compression("x", Merge(keep=keep), Prune(schedule=kind)))
    assert plan.visual_tokens == frames * height * width
    assert plan.merged_grid.frames == frames
    assert plan.merged_tokens == plan.layer_tokens[0] <= plan.visual_tokens
    assert list(plan.layer_tokens) == sorted(plan.layer_tokens, reverse=True)
    assert plan.layer_tokens[-1] == 0
    assert list(plan.encoder_tokens) == sorted(plan.encoder_tokens, reverse=True)
    if frames:
        # Never below the ratio asked for, and above it by at most the rounding up of each axis.
        assert plan.merged_grid.height >= height * keep**0.5 - 1e-6 or height == 1
        assert plan.merged_grid.height <= max(height * keep**0.5 + 1, height * 0.5**2 + 2)
    assert plan.kv_bytes(10, 5) == plan.kv_bytes(10, 5, 1) * 2


@given(original=st.integers(1, 200), data=st.data())
def test_a_step_never_asks_for_more_pairs_than_there_are(original, data):
    before = data.draw(st.integers(1, original))
    after = retained_on_axis(original, before, data.draw(st.floats(0.01, 1)))
    assert 1 <= after <= before
    assert before - after <= before // 2


def test_keep_ratios_of_known_grids():
    quarter = {"merge": {"keep": 0.25}}
    merged = schedule(SHAPE, (1, 16, 16), quarter).merged_grid
    assert (merged.height, merged.width) == (8, 8)
    assert schedule(SHAPE, (1, 1, 9), quarter).merged_grid.height == 1
    assert schedule(SHAPE, (0, 0, 0), quarter).layer_tokens == (0,) * 4


def test_schedules_of_the_language_model():
    assert retained_in_layers(100, 30, Prune()) == (100,) * 10 + (45,) * 10 + (21,) * 9 + (0,)
    ramp = retained_in_layers(100, 11, Prune(schedule="ramp"))
    assert ramp == (100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0)
    late = retained_in_layers(100, 11, Prune(schedule="ramp", first=0.5, every=3))
    assert late[:8] == (100,) * 8
    assert late[-1] == 0
    assert retained_in_layers(7, 1, Prune()) == (0,)
    assert retained_in_layers(7, 3, None) == (7, 7, 7)


def _sdpa_flops(query, key, value, dropout_p=0.0, is_causal=False, **kwargs):
    """The counter does not know the CPU's fused attention; causal attention does half the work."""
    batch, heads, queries, head_dim = query
    return 4 * batch * heads * queries * key[2] * head_dim // (2 if is_causal else 1)


@pytest.mark.parametrize("compression", list(PRESETS))
@pytest.mark.parametrize("module", [tiny, tiny_qwen], ids=["internvl", "qwen2_5_vl"])
def test_flops_are_those_of_the_real_modules(module, compression, monkeypatch):
    # Choosing tokens is not planned (benchmarks/selection_cost.py: a thousandth), and of width 48 it would be a part.
    monkeypatch.setattr(spu, "FEW_COEFFICIENTS", 0)
    engine = module.engine(compression, **({"frame_px": 64} if module is tiny else {}))
    item = luvc.Request("v", ["Describe what happens."], module.clip(3, 2, size=64), max_new_tokens=1)
    job = engine._plan(item)
    engine.submit(item)
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_flops}
    # Without inference mode: the counter does not see into it.
    with FlopCounterMode(display=False, custom_mapping=fused) as counter, torch.no_grad():
        engine._encode([engine._waiting[0].job])
    assert counter.get_total_flops() == pytest.approx(job.plans[0].vision_flops(), rel=0.01)
    with FlopCounterMode(display=False, custom_mapping=fused) as counter, torch.no_grad():
        Engine.step.__wrapped__(engine)
    planned = job.plans[0].prefill_flops(job.layouts[0].text_tokens)
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.01)


def test_kv_bytes_are_what_the_cache_holds():
    engine = tiny.engine("balanced")
    engine.submit(luvc.Request("v", ["Describe."], tiny.clip(4, 0), max_new_tokens=4))
    job = engine._waiting[0].job
    engine.step()
    entries = sum(lengths[0] for lengths in engine.cache.lengths)
    text = SHAPE.text
    bytes_now = entries * 2 * text.kv_heads * text.head_dim * 4
    assert job.plans[0].kv_bytes(job.layouts[0].text_tokens, 1, 4) == bytes_now


def test_explicit_steps_run_in_order_of_depth():
    merge = Merge(steps=(MergeStep(0.9, "width", 0.5), MergeStep(0.1, "height", 0.5)))
    plan = schedule(SHAPE, (1, 8, 8), Compression("x", merge))
    assert [(step.block, step.axis, step.after) for step in plan.merge_steps] == [(0, "height", 4), (3, "width", 4)]
