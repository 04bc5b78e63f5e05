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

AXES = {"time": 0, "height": 1, "width": 2}


@dataclass(frozen=True)
class UnitGrid:
    """Units of a batch of frames that share one grid size.

    A unit is what becomes one visual token: `slots` patches (4 for a 2x2 fold), kept apart in merging.

    Attributes:
        hidden: `[frames, height, width, slots, dim]`.
        size: `[frames, height, width]`, original units inside each unit.
        time, row, column: `[frames, height, width]`, size-weighted mean position in the original grid.
    """

    hidden: Tensor
    size: Tensor
    time: Tensor
    row: Tensor
    column: Tensor

    @staticmethod
    def fresh(hidden: Tensor, clip_frames: int = 1) -> UnitGrid:
        """An unmerged grid around `hidden` `[frames, height, width, slots, dim]`, clips of equal length."""
        frames, height, width = hidden.shape[:3]
        options = {"device": hidden.device, "dtype": torch.float32}
        time = torch.arange(frames, **options)[:, None, None].expand(frames, height, width) % clip_frames
        row = torch.arange(height, **options)[None, :, None].expand(frames, height, width)
        column = torch.arange(width, **options)[None, None, :].expand(frames, height, width)
        return UnitGrid(hidden, torch.ones(frames, height, width, **options), time, row, column)

    @property
    def channels(self) -> tuple[Tensor, ...]:
        """All parts, `hidden` and `size` first; every one starts `[frames, height, width]`."""
        return self.hidden, self.size, self.time, self.row, self.column


def merge_axis(grid: UnitGrid, axis: str, after: int, before: int = 0, keys: Tensor | None = None) -> UnitGrid:
    """One OIM step: shrink `axis` ("height", "width" or "time") to `after`.

    Args:
        grid: not changed.
        after: from `luvc.scheduling`.
        before: frames of one clip when merging along time (the batch may hold several clips of that length).
        keys: `[frames, height, width, features]` to compare instead of the hidden states.
    """
    dim = AXES[axis]
    before = before if axis == "time" else grid.hidden.shape[dim]
    if after == before:
        return grid

    def lines(part: Tensor) -> Tensor:
        """`[lines, before, ...]`: the axis second, everything else of the grid in front."""
        if axis == "time":
            part = part.unflatten(0, (-1, before)).permute(0, 2, 3, 1, *range(4, part.ndim + 1))
            return part.flatten(0, 2)
        return part.transpose(dim, 2).flatten(0, 1)

    def grids(part: Tensor) -> Tensor:
        """The inverse of `lines`, for the shrunk axis."""
        frames, height, width = grid.hidden.shape[:3]
        if axis == "time":
            part = part.unflatten(0, (frames // before, height, width))
            return part.permute(0, 3, 1, 2, *range(4, part.ndim)).flatten(0, 1)
        other = width if axis == "height" else height
        return part.unflatten(0, (frames, other)).transpose(dim, 2)

    hidden, size, *positions = (lines(part) for part in grid.channels)
    similarity = adjacent_similarity(hidden.flatten(2) if keys is None else lines(keys))
    first, paired = select_pairs(similarity, before - after)
    second = (first + 1).clamp(max=before - 1)
    first_size, second_size = size.gather(1, first), size.gather(1, second) * paired
    share = second_size / (first_size + second_size)

    def merged(values: Tensor) -> Tensor:
        trailing = (1,) * (values.ndim - 2)
        index = first.view(*first.shape, *trailing).expand(*first.shape, *values.shape[2:])
        left = values.gather(1, index)
        right = values.gather(1, (index + 1).clamp(max=before - 1))
        # a + (b - a) w leaves unpaired units (w = 0) exactly as they were.
        return left + (right - left) * share.to(values.dtype).view(*share.shape, *trailing)

    return UnitGrid(grids(merged(hidden)), grids(first_size + second_size), *(grids(merged(p)) for p in positions))


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
