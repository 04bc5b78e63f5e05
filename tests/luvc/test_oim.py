"""Properties of the orthogonal iterative merger."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luvc.families import internvl
from luvc.methods.oim import UnitGrid, adjacent_similarity, merge_axis, select_pairs
from luvc.methods.tome import merge_any
from luvc.scheduling import schedule
from luvc.tower import Merging, fold_units, unfold_units
from tests.luvc import tiny

SHAPE = internvl.FAMILY.shape(tiny.model().config.to_dict())


def best_by_brute_force(similarity: list[float], pairs: int) -> float:
    n = len(similarity) + 1
    totals = [
        sum(similarity[i] for i in chosen)
        for chosen in itertools.combinations(range(n - 1), pairs)
        if all(b - a > 1 for a, b in itertools.pairwise(chosen))
    ]
    return max(totals)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pairs_are_disjoint_adjacent_and_of_maximal_total_similarity(data):
    n = data.draw(st.integers(2, 9))
    pairs = data.draw(st.integers(1, n // 2))
    lines = data.draw(
        st.lists(st.lists(st.floats(-1, 1, width=32), min_size=n - 1, max_size=n - 1), min_size=1, max_size=4)
    )
    similarity = torch.tensor(lines)
    first, paired = select_pairs(similarity, pairs)
    assert first.shape == paired.shape == (len(lines), n - pairs)
    for line in range(len(lines)):
        starts = first[line].tolist()
        flags = paired[line].tolist()
        covered = [i for s, p in zip(starts, flags, strict=True) for i in ((s, s + 1) if p else (s,))]
        assert covered == list(range(n)), "every unit exactly once, in order"
        total = sum(lines[line][s] for s, p in zip(starts, flags, strict=True) if p)
        assert total == pytest.approx(best_by_brute_force(lines[line], pairs), abs=1e-5)


def test_greedy_would_fail_here():
    # Greedy takes the middle pair (0.9) and is left with none; two pairs exist only as (0,1), (2,3).
    first, paired = select_pairs(torch.tensor([[0.1, 0.9, 0.1]]), 2)
    assert first.tolist() == [[0, 2]]
    assert paired.all()


@settings(max_examples=80, deadline=None)
@given(
    frames=st.integers(1, 3),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_grid_stays_rectangular_and_sizes_sum_to_the_original(frames, height, width, seed, data):
    generator = torch.Generator().manual_seed(seed)
    grid = UnitGrid.fresh(torch.randn(frames, height, width, 4, 6, generator=generator))
    original = grid
    axes = set()
    for _ in range(data.draw(st.integers(1, 4))):
        axis = data.draw(st.sampled_from(["height", "width"]))
        axes.add(axis)
        before = grid.hidden.shape[1 if axis == "height" else 2]
        after = data.draw(st.integers(before - before // 2, before))
        grid = merge_axis(grid, axis, after)
        assert grid.hidden.shape[1 if axis == "height" else 2] == after
        assert grid.hidden.shape[:3] == grid.size.shape == grid.row.shape == grid.column.shape
    assert torch.allclose(grid.size.sum(dim=(1, 2)), torch.full((frames,), float(height * width)))
    # Size-weighted means conserve the total of everything, and stay inside the hull of their parts.
    weight = grid.size[..., None, None]
    assert torch.allclose((grid.hidden * weight).sum((1, 2)), original.hidden.sum((1, 2)), atol=1e-3)
    assert torch.allclose((grid.row * grid.size).sum((1, 2)), original.row.sum((1, 2)), atol=1e-3)
    assert grid.row.min() >= 0
    assert grid.row.max() <= height - 1
    assert grid.column.min() >= 0
    assert grid.column.max() <= width - 1
    # Once lines of the other axis have merged different pairs, what stands below may come from beside.
    if axes == {"height"}:
        assert (grid.row.diff(dim=1) > 0).all(), "rows keep their order in every column"
    if axes == {"width"}:
        assert (grid.column.diff(dim=2) > 0).all(), "columns keep their order in every row"
    assert torch.all(grid.hidden.amax() <= original.hidden.amax() + 1e-5)


def test_a_unit_that_is_not_merged_is_bitwise_unchanged():
    hidden = torch.randn(1, 1, 6, 1, 5, dtype=torch.float32)
    hidden[0, 0, 3] = hidden[0, 0, 2] * 1.001  # the one similar pair
    merged = merge_axis(UnitGrid.fresh(hidden), "width", 5)
    assert torch.equal(merged.hidden[0, 0, [0, 1, 3, 4]], hidden[0, 0, [0, 1, 4, 5]])
    assert merged.size.tolist() == [[[1, 1, 2, 1, 1]]]
    assert merged.column.tolist() == [[[0, 1, 2.5, 4, 5]]]


def test_the_four_sub_slots_of_a_unit_are_averaged_apart():
    hidden = torch.arange(2 * 4 * 1.0).view(1, 1, 2, 4, 1) + 1
    merged = merge_axis(UnitGrid.fresh(hidden), "width", 1)
    assert merged.hidden.flatten().tolist() == [3, 4, 5, 6]


def test_a_merge_weighs_by_size():
    values = torch.tensor([0.0, 0.0, 6.0]).view(1, 1, 3, 1, 1)
    nowhere = torch.zeros(1, 1, 3)
    grid = UnitGrid(values, torch.tensor([[[1.0, 1.0, 2.0]]]), nowhere, nowhere, torch.tensor([[[0.0, 1.0, 2.5]]]))
    grid = merge_axis(grid, "width", 2)
    assert grid.size.sum() == 4
    assert float((grid.hidden.flatten() * grid.size.flatten()).sum()) == pytest.approx(12.0)
    assert float((grid.column.flatten() * grid.size.flatten()).sum()) == pytest.approx(6.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), axis=st.sampled_from(["height", "width"]))
def test_a_frame_merges_the_same_alone_and_in_a_batch(seed, axis):
    hidden = torch.randn(4, 6, 6, 4, 8, generator=torch.Generator().manual_seed(seed))
    together = merge_axis(UnitGrid.fresh(hidden), axis, 4)
    for index in range(4):
        alone = merge_axis(UnitGrid.fresh(hidden[index : index + 1]), axis, 4)
        assert torch.equal(alone.size, together.size[index : index + 1])
        assert torch.equal(alone.hidden, together.hidden[index : index + 1])


def test_similarity_is_cosine_and_zero_vectors_are_harmless():
    lines = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    assert adjacent_similarity(lines)[0].tolist() == pytest.approx([1.0, 0.0, 0.0])


@settings(max_examples=40, deadline=None)
@given(clips=st.integers(1, 3), frames=st.integers(1, 6), seed=st.integers(0, 999), data=st.data())
def test_merging_along_time_stays_inside_a_clip(clips, frames, seed, data):
    after = data.draw(st.integers(frames - frames // 2, frames))
    hidden = torch.randn(clips * frames, 2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    together = merge_axis(UnitGrid.fresh(hidden, frames), "time", after, frames)
    assert together.hidden.shape == (clips * after, 2, 3, 4, 5)
    assert together.time.max() <= frames - 1
    for clip in range(clips):
        part = slice(clip * frames, (clip + 1) * frames)
        alone = merge_axis(UnitGrid.fresh(hidden[part], frames), "time", after, frames)
        mine = slice(clip * after, (clip + 1) * after)
        assert torch.equal(alone.hidden, together.hidden[mine])
        assert torch.equal(alone.time, together.time[mine])
        assert torch.allclose(alone.size.sum(0), torch.full((2, 3), float(frames)))


@settings(max_examples=80, deadline=None)
@given(
    frames=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_merging_without_axes_conserves_sizes_and_means_too(frames, height, width, seed, data):
    units = height * width
    after = data.draw(st.integers(units - units // 2, units))
    hidden = torch.randn(frames, height, width, 4, 6, generator=torch.Generator().manual_seed(seed))
    original = UnitGrid.fresh(hidden)
    merged = merge_any(original, after)
    assert merged.hidden.shape == (frames, 1, after, 4, 6)
    assert torch.allclose(merged.size.sum((1, 2)), torch.full((frames,), float(units)))
    weight = merged.size[..., None, None]
    assert torch.allclose((merged.hidden * weight).sum((1, 2)), hidden.sum((1, 2)), atol=1e-3)
    assert torch.allclose((merged.column * merged.size).sum((1, 2)), original.column.sum((1, 2)), atol=1e-3)
    alone = merge_any(UnitGrid.fresh(hidden[:1]), after)
    assert torch.equal(alone.hidden, merged.hidden[:1])
    untouched = merged.size[0, 0] == 1
    kept = merged.hidden[0, 0][untouched]
    assert all(any(torch.equal(unit, other) for other in hidden[0].flatten(0, 1)) for unit in kept)


def test_folding_patches_is_the_order_of_the_models_own_fold():
    patches = torch.arange(4 * 6.0).view(1, 4, 6, 1, 1)
    units = fold_units(patches, 2)
    assert units[0, 1, 2].flatten().tolist() == [16, 17, 22, 23]
    assert torch.equal(unfold_units(units, 2), patches)


def test_merged_patches_are_folded_back_with_positions_in_units():
    plan = schedule(SHAPE, (1, 4, 4), {"merge": {"unit": "patch", "steps": [[0.0, "width", 0.5]]}})
    merging = Merging(torch.randn(1, 4, 4, 4, 3), plan)
    assert merging.grid.hidden.shape == (1, 8, 8, 1, 3)
    hidden = merging.at(0, merging.grid.hidden)
    assert hidden.shape == (1, 8, 4, 1, 3)
    grid = merging.finish(hidden)
    assert grid.hidden.shape == (1, 4, 2, 4, 3)
    assert grid.row[0, :, 0].tolist() == [0, 1, 2, 3]
    assert grid.column[0, 0].tolist() == [0.5, 2.5]
    assert grid.size.sum() == 16


@pytest.mark.parametrize("proportional", [False, True])
def test_patches_of_a_merged_unit_sit_around_its_mean_and_weigh_by_its_size(proportional):
    merge = {"steps": [[0.0, "width", 0.5]], "proportional": proportional}
    merging = Merging(torch.randn(1, 2, 4, 4, 3), schedule(SHAPE, (1, 2, 4), {"merge": merge}))
    merging.at(0, merging.grid.hidden)
    assert merging.grid.column[0].tolist() == [[0.5, 2.5]] * 2
    row, column = merging.patch_positions()
    assert row.tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    assert column.tolist() == [1, 2, 1, 2, 5, 6, 5, 6] * 2
    bias = merging.attention_bias()
    if proportional:
        assert bias.tolist() == pytest.approx([0.6931472] * 16)
    else:
        assert bias is None
