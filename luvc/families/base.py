"""What a model family must provide. Torch is imported by none of this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from luvc.shapes import Grid, ModelShape


class Family(Protocol):
    """The torch-free half of a model family."""

    name: str

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Dimensions from a checkpoint's `config.json`. Raises ModelError for what is not supported."""

    def frame_size(
        self, shape: ModelShape, height: int, width: int, frames: int, max_frame_tokens: int | None = None
    ) -> tuple[int, int]:
        """Size `(height, width)` in pixels a frame is resized to, from its displayed size.

        `max_frame_tokens` bounds the visual tokens per frame where the model takes any size; it is the
        one knob of the plain down-scaling rival.
        """

    def grid(self, shape: ModelShape, frames: int, height: int, width: int) -> Grid:
        """Grid of visual tokens for `frames` frames of that (resized) pixel size."""
