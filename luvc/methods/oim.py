"""Orthogonal iterative merger (OIM): merges adjacent units of a frame's grid, one axis at a time.

In every line along the axis the same number of disjoint adjacent pairs is merged, so the grid stays
rectangular and its size is known beforehand. Which pairs: those with the largest total similarity, found
exactly by dynamic programming over the line (a greedy choice can paint itself into a corner: taking the
middle pair of four leaves no second one). A merged unit is the size-weighted mean of its two parts.

Idea: arXiv 2512.09010; relatives: CubistMerge (2509.21764), ToMe (2210.09461).
Knows nothing of models: it works on a `UnitGrid`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class UnitGrid:
    """Units of a batch of frames that share one grid size.

    A unit is what becomes one visual token: `slots` patches (4 for a 2x2 fold), kept apart in merging.

    Attributes:
        hidden: `[frames, height, width, slots, dim]`.
        size: `[frames, height, width]`, original units inside each unit.
        row, column: `[frames, height, width]`, size-weighted mean position in the original grid.
    """

    hidden: Tensor
    size: Tensor
    row: Tensor
    column: Tensor

    @staticmethod
    def fresh(hidden: Tensor) -> UnitGrid:
        """An unmerged grid around `hidden` `[frames, height, width, slots, dim]`."""
        frames, height, width = hidden.shape[:3]
        options = {"device": hidden.device, "dtype": torch.float32}
        row = torch.arange(height, **options)[None, :, None].expand(frames, height, width)
        column = torch.arange(width, **options)[None, None, :].expand(frames, height, width)
        return UnitGrid(hidden, torch.ones(frames, height, width, **options), row, column)


def merge_axis(grid: UnitGrid, axis: str, after: int) -> UnitGrid:
    """One OIM step: shrink `axis` ("height" or "width") of every frame to `after` units.

    Returns a new grid; the input is not changed. `after` comes from `luvc.scheduling`.
    """
    dim = 1 if axis == "height" else 2
    before = grid.hidden.shape[dim]
    if after == before:
        return grid
    # Lines along the axis: [lines, before, ...].
    hidden = grid.hidden.transpose(dim, 2)
    lines_shape = hidden.shape[:2]
    hidden = hidden.reshape(-1, before, *hidden.shape[3:])
    size, row, column = (part.transpose(dim, 2).reshape(-1, before) for part in (grid.size, grid.row, grid.column))

    first, paired = select_pairs(adjacent_similarity(hidden.flatten(2)), before - after)
    second = (first + 1).clamp(max=before - 1)
    first_size, second_size = size.gather(1, first), size.gather(1, second) * paired
    share = second_size / (first_size + second_size)

    def merged(values: Tensor) -> Tensor:
        index = first.view(*first.shape, *(1,) * (values.ndim - 2)).expand(*first.shape, *values.shape[2:])
        left = values.gather(1, index)
        right = values.gather(1, (index + 1).clamp(max=before - 1))
        weight = share.to(values.dtype).view(*share.shape, *(1,) * (values.ndim - 2))
        # a + (b - a) w leaves unpaired units (w = 0) exactly as they were.
        return left + (right - left) * weight

    def folded(values: Tensor) -> Tensor:
        return values.reshape(*lines_shape, after, *values.shape[2:]).transpose(dim, 2)

    return UnitGrid(
        folded(merged(hidden)), folded(first_size + second_size), folded(merged(row)), folded(merged(column))
    )


def adjacent_similarity(lines: Tensor) -> Tensor:
    """Cosine similarity of neighbours: `[lines, n, dim]` -> `[lines, n - 1]`, float32."""
    return torch.nn.functional.cosine_similarity(lines[:, :-1].float(), lines[:, 1:].float(), dim=-1)


def select_pairs(similarity: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Choose exactly `pairs` disjoint adjacent pairs of maximal total similarity in every line.

    Args:
        similarity: `[lines, n - 1]`, of element i and i + 1.
        pairs: at most n // 2.

    Returns:
        `first` `[lines, n - pairs]`: for each surviving unit its (first) original index, ascending;
        `paired` `[lines, n - pairs]`: whether the next original index is merged into it.

    The recursion over prefixes of the line: best(i, k) = max(best(i-1, k), best(i-2, k-1) + s(i-2, i-1));
    n steps of small tensor operations, no host synchronisation. Ties leave the later pair unmerged.
    """
    lines, n = similarity.shape[0], similarity.shape[1] + 1
    device = similarity.device
    impossible = torch.full((lines, pairs + 1), float("-inf"), device=device)
    empty = impossible.clone()
    empty[:, 0] = 0.0
    older, newer = empty, empty  # best totals for prefixes of length 0 and 1
    takes = []
    for length in range(2, n + 1):
        with_pair = impossible.clone()
        with_pair[:, 1:] = older[:, :-1] + similarity[:, length - 2, None]
        take = with_pair > newer
        takes.append(take)
        older, newer = newer, torch.where(take, with_pair, newer)

    chosen = torch.zeros(lines, n, dtype=torch.bool, device=device)
    left = torch.full((lines, 1), pairs, device=device)
    blocked = torch.zeros(lines, 1, dtype=torch.bool, device=device)  # this prefix ends inside a chosen pair
    for length in range(n, 1, -1):
        take = takes[length - 2].gather(1, left) & ~blocked
        chosen[:, length - 2, None] = take
        left = left - take.long()
        blocked = take
    absorbed = torch.zeros_like(chosen)
    absorbed[:, 1:] = chosen[:, :-1]
    # A stable sort puts survivors first in their order; their number is known, so nothing is synchronised.
    first = absorbed.to(torch.uint8).argsort(dim=1, stable=True)[:, : n - pairs]
    return first, chosen.gather(1, first)
