"""Token counts, FLOPs and KV-cache bytes from shape and configuration alone.

The planner, the batcher, the cache allocator and the report all take their numbers from here; nothing
recomputes them, and nothing here looks at a pixel. Pure: no torch, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from luvc.compression import Compression, Merge, Prune
from luvc.shapes import Grid, ModelShape


@dataclass(frozen=True)
class AppliedStep:
    """A merge step with its counts: before block `block`, `axis` shrinks from `before` to `after`.

    Counted in units; in patches when patches are merged, in frames along time, and in units of the whole
    frame when the axis is "any" (merging without the axis constraint).
    """

    block: int
    axis: str
    before: int
    after: int


@dataclass(frozen=True)
class Schedule:
    """Everything that is known about one video before it is decoded.

    Attributes:
        shape, compression: what it was computed from.
        original_grid: grid of visual tokens without any compression.
        grid: the grid that enters the encoder (smaller where frames are scaled down).
        merge_steps: merge steps with their counts, in order.
        block_grids: grid in units in each encoder block.
        merged_grid: the grid after merging; one row a frame where it is no longer rectangular.
        layer_tokens: visual tokens alive in each decoder layer.
    """

    shape: ModelShape
    compression: Compression
    original_grid: Grid
    grid: Grid
    merge_steps: tuple[AppliedStep, ...]
    block_grids: tuple[Grid, ...]
    merged_grid: Grid
    layer_tokens: tuple[int, ...]

    @property
    def visual_tokens(self) -> int:
        """Visual tokens the language model would get without compression."""
        return self.original_grid.units

    @property
    def merged_tokens(self) -> int:
        """Visual tokens that come out of the encoder, after merging and before pruning."""
        return self.merged_grid.units

    @property
    def patches(self) -> int:
        """Patch tokens that enter the encoder, class tokens not counted."""
        return self.grid.units * self.shape.vision.fold**2

    @property
    def encoder_tokens(self) -> tuple[int, ...]:
        """Patch tokens (class tokens included) in each encoder block, all frames."""
        vision = self.shape.vision
        return tuple(grid.units * vision.fold**2 + grid.frames * vision.class_tokens for grid in self.block_grids)

    @property
    def merge_is_compact(self) -> bool:
        """Whether merged tokens are numbered anew instead of keeping their original positions."""
        return self.compression.merge is not None and self.compression.merge.positions == "compact"

    @property
    def mean_layer_tokens(self) -> float:
        return sum(self.layer_tokens) / len(self.layer_tokens)

    def vision_flops(self) -> int:
        """FLOPs of encoder and projector (a multiply-add counts as two)."""
        vision = self.shape.vision
        mlp_matrices = 3 if vision.gated_mlp else 2
        per_token = 2 * (4 * vision.width**2 + mlp_matrices * vision.width * vision.mlp_width)
        total = 0
        for block, (tokens, grid) in enumerate(zip(self.encoder_tokens, self.block_grids, strict=True)):
            windowed = vision.window_units and block not in vision.full_blocks
            pairs = window_pairs(grid, self.window_shape()) * vision.fold**4 if windowed else None
            if pairs is None:
                pairs = grid.frames * (tokens // max(1, grid.frames)) ** 2
            total += tokens * per_token + 4 * pairs * vision.width
        pixels = vision.patch_px**2 * vision.channels * vision.frames_per_patch
        embedding = 2 * self.patches * pixels * vision.width
        return total + embedding + self.merged_tokens * vision.projector_flops

    def prefill_flops(self, text_tokens: int) -> int:
        """FLOPs of one prompt's prefill: `text_tokens` beside the visual ones; causal attention halved."""
        total = 0
        for visual in self.layer_tokens:
            tokens = visual + text_tokens
            total += tokens * self._layer_flops_per_token() + 2 * tokens * tokens * self._query_width()
        return total + 2 * self.shape.text.width * self.shape.text.vocabulary

    def decode_flops(self, text_tokens: int, new_tokens: int) -> int:
        """FLOPs of `new_tokens` decode steps after the prefill."""
        text = self.shape.text
        per_step = text.layers * self._layer_flops_per_token() + 2 * text.width * text.vocabulary
        context = sum(visual + text_tokens for visual in self.layer_tokens)
        growth = text.layers * new_tokens * (new_tokens - 1) // 2
        return new_tokens * per_step + 4 * self._query_width() * (context * new_tokens + growth)

    def kv_bytes(self, text_tokens: int, new_tokens: int, element_bytes: int = 2) -> int:
        """Bytes of KV cache of one sequence at its end: each layer holds what lived there."""
        text = self.shape.text
        entries = sum(self.layer_tokens) + text.layers * (text_tokens + new_tokens)
        return 2 * entries * text.kv_heads * text.head_dim * element_bytes

    def window_shape(self) -> tuple[int, int]:
        """Rows and columns of an attention window in units; without a grid, as many units in a row."""
        edge = self.shape.vision.window_units
        merge = self.compression.merge
        return (1, edge * edge) if merge is not None and merge.method == "tome" and self.merge_steps else (edge, edge)

    def _query_width(self) -> int:
        return self.shape.text.heads * self.shape.text.head_dim

    def _layer_flops_per_token(self) -> int:
        text = self.shape.text
        attention = text.width * (2 * text.heads + 2 * text.kv_heads) * text.head_dim
        return 2 * (attention + 3 * text.width * text.mlp_width)


def schedule(shape: ModelShape, grid: Grid | tuple[int, int, int], compression: Any = "balanced") -> Schedule:
    """Plan one video.

    Args:
        shape: dimensions of the model.
        grid: visual units `(frames, height, width)` before compression; see `Grid`.
        compression: preset name, mapping or `Compression`.

    Returns:
        Counts for every encoder block and decoder layer. Deterministic: only ceil and floor of the inputs.
    """
    if not isinstance(grid, Grid):
        grid = Grid(*grid)
    return _schedule(shape, grid, Compression.from_any(compression))


def retained_on_axis(original: int, before: int, cumulative_keep: float, multiple: int = 1) -> int:
    """What is left of an axis after a merge step.

    `cumulative_keep` is the product of the axis' ratios so far, applied to the original count so that
    rounding does not add up; disjoint pairs can at most halve what was `before`. The result is a multiple
    of `multiple` (as the original is).
    """
    wanted = math.ceil(round(original * cumulative_keep, 6))
    least = max(wanted, before - before // 2, 1)
    return min(before, -(-least // multiple) * multiple)


def retained_in_layers(merged_tokens: int, layers: int, prune: Prune | None) -> tuple[int, ...]:
    """Visual tokens of one video alive in each decoder layer."""
    if prune is None:
        return (merged_tokens,) * layers
    return tuple(math.ceil(round(merged_tokens * prune.keep_at(layer, layers), 6)) for layer in range(layers))


def scaled_sides(height: int, width: int, share: float) -> tuple[int, int]:
    """Sides of a grid with about `share` of the units, each side scaled alike up to rounding.

    Of the roundings of both sides the one whose number of units is nearest to the share wins, on a tie the larger;
    rounding both up would leave 36 of 64 units where a half was asked for.
    """
    target, edge = height * width * share, math.sqrt(share)
    sides = [[max(1, whole(round(side * edge, 6))) for whole in (math.floor, math.ceil)] for side in (height, width)]
    pairs = [(rows, columns) for rows in sides[0] for columns in sides[1]]
    return min(pairs, key=lambda pair: (abs(pair[0] * pair[1] - target), -pair[0] * pair[1], -pair[1]))


def window_pairs(grid: Grid, window: tuple[int, int]) -> int:
    """Query-key pairs, in units, when every frame is cut into windows; the last of an axis may be smaller."""

    def squares(length: int, edge: int) -> int:
        return length // edge * edge**2 + (length % edge) ** 2

    # Windows are products of intervals, so the sum of their squared areas factorises.
    return grid.frames * squares(grid.height, window[0]) * squares(grid.width, window[1])


@lru_cache(maxsize=4096)
def _schedule(shape: ModelShape, original: Grid, compression: Compression) -> Schedule:
    grid = original
    if compression.resize < 1.0:
        grid = Grid(original.frames, *scaled_sides(original.height, original.width, compression.resize))
    steps: tuple[AppliedStep, ...] = ()
    merged, block_grids = grid, (grid,) * shape.vision.blocks
    if compression.merge is not None and grid.units:
        steps, block_grids, merged = _merged(grid, compression.merge, shape)
    return Schedule(
        shape=shape,
        compression=compression,
        original_grid=original,
        grid=grid,
        merge_steps=steps,
        block_grids=block_grids,
        merged_grid=merged,
        layer_tokens=retained_in_layers(merged.units, shape.text.layers, compression.prune),
    )


def _merged(grid: Grid, merge: Merge, shape: ModelShape) -> tuple[tuple[AppliedStep, ...], tuple[Grid, ...], Grid]:
    """The steps with their counts, the grid in every block, and the grid behind the encoder."""
    blocks, per_unit = shape.vision.blocks, shape.vision.fold if merge.unit == "patch" else 1
    applied: list[AppliedStep] = []
    block_grids: list[Grid] = []
    current, keep = grid, {"height": 1.0, "width": 1.0, "time": 1.0, "any": 1.0}
    for step in merge.resolved_steps():
        block = min(blocks, round(step.depth * blocks))
        block_grids.extend([current] * (block - len(block_grids)))
        axis = "any" if merge.method == "tome" else step.axis
        keep[axis] *= step.keep
        if axis == "any":
            before = current.height * current.width
            after = retained_on_axis(grid.height * grid.width, before, keep[axis])
            shrunk = Grid(grid.frames, 1, after)
        else:
            field, scale = ("frames", 1) if axis == "time" else (axis, per_unit)
            before = getattr(current, field) * scale
            after = retained_on_axis(getattr(grid, field) * scale, before, keep[axis], scale)
            shrunk = replace(current, **{field: after // scale})
        if after < before:
            applied.append(AppliedStep(block, axis, before, after))
            current = shrunk
    block_grids.extend([current] * (blocks - len(block_grids)))
    return tuple(applied), tuple(block_grids), current
