"""What all vision encoders share: merge steps between blocks, on a grid of units.

A family's encoder keeps its tokens unit by unit in a `UnitGrid`, calls `Merging.at` before each block, and
asks for the attention bias of merged tokens. Knows nothing of how blocks work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from luvc.methods.oim import UnitGrid, merge_axis
from luvc.methods.tome import merge_any
from luvc.scheduling import Schedule

Keys = Callable[[Tensor], Tensor]


class Merging:
    """The merge steps of one schedule, applied to a batch of frames as the blocks go by.

    Args:
        hidden: `[frames, height, width, slots, dim]`, clips of `plan.grid.frames` frames end to end.
        plan: its merge steps and counts.
    """

    def __init__(self, hidden: Tensor, plan: Schedule) -> None:
        self.plan, self._steps = plan, list(plan.merge_steps)
        merge = plan.compression.merge
        self._patches = merge is not None and merge.unit == "patch" and bool(self._steps)
        self._metric = merge.metric if merge is not None else "hidden"
        self._proportional = merge is not None and merge.proportional
        self.fold = plan.shape.vision.fold
        if self._patches:
            hidden = unfold_units(hidden, self.fold)
        self.grid = UnitGrid.fresh(hidden, plan.grid.frames)

    def due(self, block: int) -> bool:
        """Whether steps stand before `block` (the number of blocks: behind the last one)."""
        return bool(self._steps) and self._steps[0].block == block

    def at(self, block: int, hidden: Tensor, keys: Keys | None = None) -> Tensor:
        """Apply the steps that stand before `block`.

        Args:
            hidden: tokens in the grid's order, `[frames * height * width * slots, dim]` in any leading shape.
            keys: maps `[tokens, dim]` to the attention keys `[tokens, features]` of the coming block.

        Returns:
            The new hidden states, `[frames, height, width, slots, dim]`.
        """
        self.grid = replace(self.grid, hidden=hidden.reshape(self.grid.hidden.shape))
        while self.due(block):
            step = self._steps.pop(0)
            compared = None
            if self._metric == "key" and keys is not None:
                compared = keys(self.grid.hidden.flatten(0, 3)).view(*self.grid.hidden.shape[:4], -1).flatten(3)
            if step.axis == "any":
                self.grid = merge_any(self.grid, step.after, compared)
            else:
                self.grid = merge_axis(self.grid, step.axis, step.after, step.before, compared)
        return self.grid.hidden

    def finish(self, hidden: Tensor) -> UnitGrid:
        """The merged units with their patches as slots again, positions in units."""
        grid = replace(self.grid, hidden=hidden.reshape(self.grid.hidden.shape))
        if not self._patches:
            return grid
        fold = self.fold
        size, *positions = (
            part.unflatten(1, (-1, fold)).unflatten(3, (-1, fold)).transpose(2, 3).flatten(3)
            for part in grid.channels[1:]
        )
        time, row, column = ((part * size).sum(-1) / size.sum(-1) for part in positions)
        # The centre of unit u lies at patch coordinate fold * u + (fold - 1) / 2. Uneven sizes can move a
        # mean past the centre of an outermost unit, beyond which the language model has seen nothing.
        centre, original = (fold - 1) / 2, self.plan.grid
        row, column = (row - centre) / fold, (column - centre) / fold
        return UnitGrid(
            fold_units(grid.hidden, fold),
            size.sum(-1) / fold**2,
            time,
            row.clamp(0, original.height - 1),
            column.clamp(0, original.width - 1),
        )

    def patch_positions(self) -> tuple[Tensor, Tensor]:
        """Row and column of every patch in original patch coordinates, `[tokens]` in the grid's order.

        The patches of a merged unit sit around its mean position.
        """
        if self._patches:
            return self.grid.row.flatten(), self.grid.column.flatten()
        slot = torch.arange(self.fold**2, device=self.grid.row.device)
        row = self.grid.row[..., None] * self.fold + slot // self.fold
        column = self.grid.column[..., None] * self.fold + slot % self.fold
        return row.flatten(), column.flatten()

    def attention_bias(self) -> Tensor | None:
        """log(size) of every token `[tokens]` where attention is proportional and something was merged."""
        if not self._proportional or self.grid.hidden.shape[:3] == (0, 0, 0):
            return None
        return self.grid.size[..., None].expand(self.grid.hidden.shape[:4]).flatten().log()


def fold_units(patches: Tensor, fold: int) -> Tensor:
    """`[frames, rows, columns, 1, dim]` patches -> `[frames, height, width, fold * fold, dim]` units."""
    units = patches.squeeze(3).unflatten(1, (-1, fold)).unflatten(3, (-1, fold))
    return units.transpose(2, 3).flatten(3, 4)


def unfold_units(units: Tensor, fold: int) -> Tensor:
    """The inverse of `fold_units`."""
    patches = units.unflatten(3, (fold, fold)).transpose(2, 3)
    return patches.flatten(1, 2).flatten(2, 3).unsqueeze(3)
