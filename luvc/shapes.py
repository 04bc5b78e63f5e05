"""The dimensions of a vision-language model, as plain numbers; no torch.

A family (`luvc.families`) reads a checkpoint's `config.json` into these; `luvc.scheduling`, the planner and
the batcher compute with nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionShape:
    """A vision encoder.

    Attributes:
        blocks: transformer blocks that run (blocks above the used feature layer do not).
        width, heads, mlp_width: of one block; `gated_mlp` has three matrices instead of two.
        patch_px: edge of a square patch in pixels; `channels` per pixel.
        fold: patches per axis that become one visual token (2 for a 2x2 pixel shuffle or patch merger);
            a `fold x fold` group is the *unit* that mergers work on.
        class_tokens: extra tokens per frame inside the encoder.
        frames_per_patch: frames folded into one patch along time (1, or 2 in Qwen2-VL).
        projector_flops: of the projector behind the tower, for each visual token.
        window_units: edge of an attention window in units; 0 when every block sees the whole frame.
        full_blocks: blocks that see the whole frame although there are windows.
    """

    blocks: int
    width: int
    heads: int
    mlp_width: int
    gated_mlp: bool
    patch_px: int
    fold: int
    class_tokens: int = 0
    frames_per_patch: int = 1
    channels: int = 3
    projector_flops: int = 0
    window_units: int = 0
    full_blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class TextShape:
    """A decoder-only language model: layers, sizes and the number of positions it was built for."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocabulary: int
    max_positions: int


@dataclass(frozen=True)
class ModelShape:
    """A vision-language model of one family.

    Attributes:
        family: name of the module in `luvc.families` that knows it.
        frame_px: fixed frame size `(height, width)`, or None when the model takes any size.
    """

    family: str
    vision: VisionShape
    text: TextShape
    frame_px: tuple[int, int] | None = None


@dataclass(frozen=True)
class Grid:
    """Visual tokens of one video before compression: `frames x height x width` units.

    `frames` counts temporal positions of the encoder (half the sampled frames in Qwen2-VL).
    """

    frames: int
    height: int
    width: int

    @property
    def units(self) -> int:
        return self.frames * self.height * self.width
