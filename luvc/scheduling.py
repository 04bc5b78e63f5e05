"""Token counts, FLOPs and KV-cache bytes from shape and configuration alone.

The planner, the batcher, the cache allocator and the report all take their numbers from here; nothing
recomputes them, and nothing here looks at a pixel. Pure: no torch, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from luvc.compression import Compression, MergeStep, Prune
from luvc.shapes import Grid, ModelShape


@dataclass(frozen=True)
class AppliedStep:
    """A merge step with its counts: before block `block`, `axis` shrinks from `before` to `after` units."""

    block: int
    axis: str
    before: int
    after: int


@dataclass(frozen=True)
class Schedule:
    """Everything that is known about one video before it is decoded.

    Attributes:
        shape, grid, compression: what it was computed from.
        merge_steps: merge steps with their counts, in order.
        block_grids: `(height, width)` in units of one frame in each encoder block.
        visual_tokens: tokens the language model would get uncompressed.
        merged_tokens: tokens the language model gets.
        merged_grid: the grid after merging.
        layer_tokens: visual tokens alive in each decoder layer.
    """

    shape: ModelShape
    grid: Grid
    compression: Compression
    merge_steps: tuple[AppliedStep, ...]
    block_grids: tuple[tuple[int, int], ...]
    visual_tokens: int
    merged_tokens: int
    merged_grid: Grid
    layer_tokens: tuple[int, ...]

    @property
    def patches(self) -> int:
        """Patch tokens that enter the encoder, class tokens not counted."""
        return self.grid.units * self.shape.vision.fold**2

    @property
    def encoder_tokens(self) -> tuple[int, ...]:
        """Patch tokens (class tokens included) in each encoder block, all frames."""
        vision = self.shape.vision
        return tuple(
            self.grid.frames * (height * width * vision.fold**2 + vision.class_tokens)
            for height, width in self.block_grids
        )

    @property
    def mean_layer_tokens(self) -> float:
        return sum(self.layer_tokens) / len(self.layer_tokens)

    def vision_flops(self) -> int:
        """FLOPs of encoder and projector (a multiply-add counts as two)."""
        vision, frames = self.shape.vision, self.grid.frames
        mlp_matrices = 3 if vision.gated_mlp else 2
        per_token = 2 * (4 * vision.width**2 + mlp_matrices * vision.width * vision.mlp_width)
        total = 0
        for block, (tokens, (height, width)) in enumerate(zip(self.encoder_tokens, self.block_grids, strict=True)):
            if vision.window_units and block not in vision.full_blocks:
                # Windows are products of intervals, so the sum of their squared areas factorises.
                squares = _interval_squares(height, vision.window_units) * _interval_squares(width, vision.window_units)
                pairs = frames * squares * vision.fold**4
            else:
                pairs = frames * (height * width * vision.fold**2 + vision.class_tokens) ** 2
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


def retained_on_axis(original: int, before: int, cumulative_keep: float) -> int:
    """Units left on an axis after a merge step.

    `cumulative_keep` is the product of the axis' ratios so far, applied to the original count so that
    rounding does not add up; disjoint pairs can at most halve what was `before`.
    """
    wanted = math.ceil(round(original * cumulative_keep, 6))
    return min(before, max(wanted, before - before // 2, 1))


def retained_in_layers(merged_tokens: int, layers: int, prune: Prune | None) -> tuple[int, ...]:
    """Visual tokens of one video alive in each decoder layer."""
    if prune is None:
        return (merged_tokens,) * layers
    return tuple(math.ceil(round(merged_tokens * prune.keep_at(layer, layers), 6)) for layer in range(layers))


@lru_cache(maxsize=4096)
def _schedule(shape: ModelShape, grid: Grid, compression: Compression) -> Schedule:
    steps = compression.merge.resolved_steps() if compression.merge else ()
    applied = _apply_steps(grid, steps, shape.vision.blocks)
    block_grids = []
    height, width, done = grid.height, grid.width, 0
    for block in range(shape.vision.blocks + 1):
        while done < len(applied) and applied[done].block == block:
            if applied[done].axis == "height":
                height = applied[done].after
            else:
                width = applied[done].after
            done += 1
        if block < shape.vision.blocks:
            block_grids.append((height, width))
    merged_grid = Grid(grid.frames, height, width)
    return Schedule(
        shape=shape,
        grid=grid,
        compression=compression,
        merge_steps=applied,
        block_grids=tuple(block_grids),
        visual_tokens=grid.units,
        merged_tokens=merged_grid.units,
        merged_grid=merged_grid,
        layer_tokens=retained_in_layers(merged_grid.units, shape.text.layers, compression.prune),
    )


def _apply_steps(grid: Grid, steps: tuple[MergeStep, ...], blocks: int) -> tuple[AppliedStep, ...]:
    original = {"height": grid.height, "width": grid.width}
    size = dict(original)
    keep = {"height": 1.0, "width": 1.0}
    applied = []
    for step in steps:
        keep[step.axis] *= step.keep
        before = size[step.axis]
        after = retained_on_axis(original[step.axis], before, keep[step.axis])
        size[step.axis] = after
        if after < before:
            applied.append(AppliedStep(min(blocks, round(step.depth * blocks)), step.axis, before, after))
    return tuple(applied)


def _interval_squares(length: int, window: int) -> int:
    """Sum of squares of the pieces when `length` is cut into pieces of `window`, the last one shorter."""
    return length // window * window**2 + (length % window) ** 2
