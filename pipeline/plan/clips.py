"""Cuts videos into clips: whole, or fixed windows. Pure: durations in, spans out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.section import Section


class Clips(Section):
    """The `clips` section: how a video is cut.

    Attributes:
        mode: "whole" video as one clip, or "windows" of fixed length.
        window_s: length of a window, seconds.
        stride_s: distance between the starts of two windows; the length of a window when absent.
        min_s: a last window shorter than this is left out, unless it is the only one.
    """

    mode: Literal["whole", "windows"] = "whole"
    window_s: float | None = Field(default=None, gt=0)
    stride_s: float | None = Field(default=None, gt=0)
    min_s: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _matches_mode(self) -> Clips:
        if self.mode == "windows" and self.window_s is None:
            raise ValueError("mode windows needs window_s")
        if self.mode == "whole" and (self.window_s is not None or self.stride_s is not None):
            raise ValueError("window_s and stride_s belong to mode windows")
        return self
