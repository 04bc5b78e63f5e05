"""Sizes a unit before anything is decoded: frame size, grid, tokens, KV bytes, FLOPs.

All counts come from `luvc.scheduling`; this module only asks. For a model of a family that `luvc` does not know
(another engine may run it) there is a frame size and nothing else. Pure, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luvc.checkpoints import read_config
from luvc.compression import Compression
from luvc.errors import PromptTooLong
from luvc.families import FAMILIES, family_of
from luvc.families.base import Family
from luvc.scheduling import schedule
from luvc.shapes import ModelShape

#: No chat template is shorter: role marks, line ends, one word of prompt.
MINIMAL_PROMPT_TOKENS = 8
# Estimates for FLOPs and KV bytes; exact counts need the tokenizer, and text is a few percent beside the frames.
_TEMPLATE_TOKENS = 32
_TOKENS_AROUND_FRAME = 6
_CHARACTERS_PER_TOKEN = 4
# A frame for a model of unknown family: its visual tokens are taken to be squares of this edge, and as many as this.
_TOKEN_EDGE_PX = 28
_FRAME_TOKENS = 768


@dataclass(frozen=True)
class UnitSize:
    """Numbers of one unit; see the manifest schema for each. None: not known before the run."""

    frame_height_px: int
    frame_width_px: int
    patches: int | None = None
    visual_tokens: int | None = None
    merged_tokens: int | None = None
    mean_layer_tokens: float | None = None
    kv_bytes: int | None = None
    vision_flops: int | None = None
    text_flops: int | None = None
    full_vision_flops: int | None = None
    full_text_flops: int | None = None


class Sizer:
    """Sizes units for one model and compression; units of equal shape are computed once.

    Args:
        family, shape: the model.
        compression: what shrinks the tokens.
        max_new_tokens: of one answer.
        max_frame_tokens: limit per frame, where the model takes frames of any size.
        element_bytes: of a KV-cache entry.
    """

    def __init__(
        self,
        family: Family,
        shape: ModelShape,
        compression: Compression,
        max_new_tokens: int,
        max_frame_tokens: int | None = None,
        element_bytes: int = 2,
    ) -> None:
        self.family = family
        self.shape = shape
        self._compression = compression
        self._max_new_tokens = max_new_tokens
        self._max_frame_tokens = max_frame_tokens
        self._element_bytes = element_bytes
        self._known: dict[tuple[int, int, int, tuple[int, ...]], UnitSize] = {}

    @staticmethod
    def of_model(
        model_id: str,
        revision: str | None,
        compression: Compression,
        max_new_tokens: int,
        max_frame_tokens: int | None = None,
        element_bytes: int = 2,
    ) -> Sizer:
        """From a checkpoint's `config.json`. Raises ModelError."""
        config = read_config(model_id, revision)
        family = family_of(config)
        return Sizer(family, family.shape(config), compression, max_new_tokens, max_frame_tokens, element_bytes)

    def size(self, height_px: int, width_px: int, frames: int, prompts: Sequence[str]) -> UnitSize:
        """Size one unit.

        Args:
            height_px, width_px: displayed size of the video.
            frames: sampled frames.
            prompts: texts.

        Raises:
            PromptTooLong: the unit cannot fit the model even with the shortest prompt.
        """
        frame_px = self.family.frame_size(self.shape, height_px, width_px, frames, self._max_frame_tokens)
        text_tokens = tuple(_text_tokens(text, frames) for text in prompts)
        key = (*frame_px, frames, text_tokens)
        if key not in self._known:
            self._known[key] = self._compute(*key)
        return self._known[key]

    def _compute(self, height_px: int, width_px: int, frames: int, text_tokens: tuple[int, ...]) -> UnitSize:
        planned = schedule(self.shape, self.family.grid(self.shape, frames, height_px, width_px), self._compression)
        full = schedule(self.shape, planned.original_grid, "off")
        new = self._max_new_tokens
        # Kept tokens keep their positions, so compression does not make a long video fit.
        needed = planned.visual_tokens + MINIMAL_PROMPT_TOKENS + new
        limit = self.shape.text.max_positions
        if needed > limit:
            raise PromptTooLong(
                f"{frames} frames are {planned.visual_tokens} visual tokens; with {new} new tokens and the shortest "
                f"prompt that is {needed}, but the model has {limit} positions",
                "sample fewer frames, cut shorter clips, or set decode.max_frame_tokens",
            )
        return UnitSize(
            frame_height_px=height_px,
            frame_width_px=width_px,
            patches=planned.patches,
            visual_tokens=planned.visual_tokens,
            merged_tokens=planned.merged_tokens,
            mean_layer_tokens=planned.mean_layer_tokens,
            kv_bytes=planned.kv_bytes(max(text_tokens), new, self._element_bytes),
            vision_flops=planned.vision_flops(),
            text_flops=sum(planned.prefill_flops(text) + planned.decode_flops(text, new) for text in text_tokens),
            full_vision_flops=full.vision_flops(),
            full_text_flops=sum(full.prefill_flops(text) + full.decode_flops(text, new) for text in text_tokens),
        )


class FrameSizer:
    """Frame sizes for a model of a family that `luvc` does not know; its engine resizes again as it likes.

    Args:
        max_frame_tokens: bounds the area of a frame, as if a token were 28 x 28 pixels.
    """

    def __init__(self, max_frame_tokens: int | None = None) -> None:
        self._max_area_px = (max_frame_tokens or _FRAME_TOKENS) * _TOKEN_EDGE_PX**2

    @staticmethod
    def of_any_model(
        model_id: str,
        revision: str | None,
        compression: Compression,
        max_new_tokens: int,
        max_frame_tokens: int | None = None,
        element_bytes: int = 2,
    ) -> FrameSizer | Sizer:
        """The full `Sizer` where the family is known. Raises ModelError for a checkpoint that cannot be read."""
        if read_config(model_id, revision).get("model_type") in FAMILIES:
            return Sizer.of_model(model_id, revision, compression, max_new_tokens, max_frame_tokens, element_bytes)
        return FrameSizer(max_frame_tokens)

    def size(self, height_px: int, width_px: int, frames: int, prompts: Sequence[str]) -> UnitSize:
        """Frame size of one unit: its own, or smaller with the same aspect; see `Sizer.size`."""
        scale = min(1.0, math.sqrt(self._max_area_px / (height_px * width_px)))
        return UnitSize(max(1, round(height_px * scale)), max(1, round(width_px * scale)))


def _text_tokens(prompt: str, frames: int) -> int:
    return _TEMPLATE_TOKENS + frames * _TOKENS_AROUND_FRAME + math.ceil(len(prompt) / _CHARACTERS_PER_TOKEN)
