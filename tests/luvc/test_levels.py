"""All methods of a study leave equally many tokens, as near as whole tokens allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luvc.compression import Compression
from luvc.errors import ConfigError
from luvc.evaluation.levels import METHODS, at_share, level_tokens
from luvc.scheduling import scaled_sides, schedule
from luvc.shapes import Grid, ModelShape, TextShape, VisionShape

SHAPE = ModelShape(
    "internvl",
    VisionShape(10, 384, 6, 1536, False, 14, 2, class_tokens=1),
    TextShape(30, 576, 9, 3, 64, 1536, 49152, 8192),
    (224, 224),
)
SHARES = (0.75, 0.5, 0.25, 0.15, 0.1, 0.05)


@pytest.mark.parametrize("grid", [Grid(8, 8, 8), Grid(4, 11, 20)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_the_levels_tokens(method, grid):
    before = grid.units + 1
    for share in SHARES:
        compression = at_share(method, share, 30, grid)
        plan = schedule(SHAPE, grid, compression)
        assert plan.mean_layer_tokens == pytest.approx(level_tokens(share, grid), rel=0.011, abs=0.5)
        assert plan.mean_layer_tokens < before
        before = plan.mean_layer_tokens
        assert at_share(method, share, 30, grid) == compression
        if method.startswith(("luvc", "spu-")):
            assert plan.layer_tokens[-1] == 0
        again = Compression.from_any(compression.as_mapping())
        assert schedule(SHAPE, grid, again).layer_tokens == plan.layer_tokens, "it survives being written down"


@given(st.sampled_from(METHODS), st.floats(0.02, 1.0), st.integers(2, 40), st.integers(1, 24), st.integers(1, 24))
def test_every_share_of_every_grid_can_be_asked_for(method, share, layers, height, width):
    grid = Grid(4, height, width)
    shape = replace(SHAPE, text=replace(SHAPE.text, layers=layers))
    plan = schedule(shape, grid, at_share(method, share, layers, grid))
    wanted = level_tokens(share, grid)
    # The two that end at zero cannot keep all in the last layer; and nobody keeps a part of a token.
    slack = max(1.0, grid.units / layers) if method.startswith("luvc") or "-" in method else 1.0
    assert abs(plan.mean_layer_tokens - wanted) <= slack + 0.01 * wanted


def test_luvc_merges_late_and_little_where_there_is_time():
    grid = Grid(8, 16, 16)
    for share, left, depths in ((0.5, 0.75, (0.5, 1.0)), (0.25, 0.75, (0.5, 1.0)), (0.1, 0.5, (0.25, 0.5))):
        compression = at_share("luvc", share, 30, grid)
        plan = schedule(SHAPE, grid, compression)
        assert plan.merged_tokens / plan.visual_tokens == pytest.approx(left, abs=0.02)
        assert (compression.merge.first, compression.merge.last) == depths
        held = plan.layer_tokens[: 3 * 30 // 4]
        assert set(held) == {plan.layer_tokens[0]}, "one drop behind the encoder, then as many to three quarters"
        assert list(plan.layer_tokens[20:]) == sorted(plan.layer_tokens[20:], reverse=True)


def test_luvc_on_a_ramp_shares_the_work_as_the_paper_does_at_a_quarter():
    quarter = at_share("luvc-ramp", 0.25, 30, Grid(8, 16, 16))
    plan = schedule(SHAPE, Grid(8, 16, 16), quarter)
    assert plan.merged_tokens / plan.visual_tokens == pytest.approx(0.5, abs=0.02)
    assert quarter.prune.keep_at(15, 30) == pytest.approx(0.5, abs=0.05)
    less = at_share("luvc-ramp", 0.1, 30, Grid(8, 16, 16))
    assert less.merge == quarter.merge, "below a quarter the merger stays, the ramp takes the rest"
    assert less.prune.keep_at(0, 30) < 0.5


def test_a_cut_keeps_everything_up_to_its_depth():
    grid = Grid(8, 8, 8)
    alone = schedule(SHAPE, grid, at_share("spu-cut", 0.5, 30, grid)).layer_tokens
    assert (set(alone[:14]), set(alone[16:])) == ({512}, {0})
    both = schedule(SHAPE, grid, at_share("luvc-cut", 0.25, 30, grid))
    assert both.merged_tokens == 8 * 30
    assert both.layer_tokens[15] == 240
    assert set(both.layer_tokens[17:]) == {0}


def test_sides_are_the_nearest_to_the_share():
    assert scaled_sides(8, 8, 0.25) == (4, 4)
    assert scaled_sides(8, 8, 0.5) == (5, 6)
    assert scaled_sides(8, 8, 0.05) == (2, 2)
    assert scaled_sides(1, 8, 0.25) == (1, 4)
    assert scaled_sides(16, 9, 1.0) == (16, 9)


def test_a_share_must_be_one():
    with pytest.raises(ConfigError, match="resize"):
        at_share("oim", 0.0, 30, Grid(8, 8, 8))
