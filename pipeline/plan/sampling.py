"""Chooses the timestamps of a clip's frames. Pure: a span in, times out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.section import Section

DEFAULT_FRAMES = 8
DEFAULT_MAX_FRAMES = 64


class Sampling(Section):
    """The `sampling` section: which frames of a clip are looked at.

    Attributes:
        mode: "count": the same number for every clip; "fps": by the length of the clip; "key_frames":
            only frames that decode on their own, the cheapest to reach.
        frames: how many (count).
        fps: frames per second of video (fps).
        max_frames: upper limit (fps, key_frames).
    """

    mode: Literal["count", "fps", "key_frames"] = "count"
    frames: int | None = Field(default=None, ge=1)
    fps: float | None = Field(default=None, gt=0)
    max_frames: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_mode(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        counted = values.get("mode", "count") == "count"
        return {**({"frames": DEFAULT_FRAMES} if counted else {"max_frames": DEFAULT_MAX_FRAMES}), **values}

    @model_validator(mode="after")
    def _matches_mode(self) -> Sampling:
        allowed = {"count": {"frames"}, "fps": {"fps", "max_frames"}, "key_frames": {"max_frames"}}[self.mode]
        for key in ("frames", "fps", "max_frames"):
            if key not in allowed and getattr(self, key) is not None:
                raise ValueError(f"{key} does not belong to mode {self.mode} (it takes {', '.join(sorted(allowed))})")
        if self.mode == "fps" and self.fps is None:
            raise ValueError("mode fps needs fps")
        return self
