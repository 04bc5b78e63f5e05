"""Chooses the timestamps of a clip's frames. Pure: a span in, times out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.section import Section

DEFAULT_FRAMES = 8
DEFAULT_MAX_FRAMES = 64
#: Where a container has no index of key frames, one is assumed in so many seconds.
_KEY_FRAME_INTERVAL_S = 2.0


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


def sample_times(
    from_s: float, to_s: float, sampling: Sampling, fps: float | None = None, key_frames_s: Sequence[float] = ()
) -> tuple[float, ...]:
    """Times of the frames of one clip, rising, seconds from the start of the video.

    The clip is divided into equal segments and each is looked at in its centre, so no frame stands for more of the
    clip than another. A clip with fewer frames than were asked for gives no more than it has.

    Args:
        from_s, to_s: the clip.
        sampling: what to look at.
        fps: frame rate of the video, if known.
        key_frames_s: times of all key frames of the video, if known (key_frames).
    """
    length_s = to_s - from_s
    if sampling.mode == "key_frames":
        inside = [time for time in key_frames_s if from_s <= time < to_s]
        if inside:
            return tuple(_spread(inside, sampling.max_frames))
        return _centres(from_s, to_s, _limited(length_s / _KEY_FRAME_INTERVAL_S, sampling.max_frames))
    wanted = float(sampling.frames or DEFAULT_FRAMES) if sampling.mode == "count" else length_s * (sampling.fps or 1.0)
    count = _limited(wanted, sampling.max_frames)
    if fps:
        count = min(count, max(1, math.ceil(length_s * fps - 1e-6)))
    return _centres(from_s, to_s, count)


def _limited(wanted: float, limit: int | None) -> int:
    count = max(1, round(wanted))
    return count if limit is None else min(count, limit)


def _centres(from_s: float, to_s: float, count: int) -> tuple[float, ...]:
    segment_s = (to_s - from_s) / count
    return tuple(round(from_s + (index + 0.5) * segment_s, 6) for index in range(count))


def _spread(times: list[float], limit: int | None) -> list[float]:
    """At most `limit` of the times, evenly spread over their order."""
    if limit is None or len(times) <= limit:
        return times
    return [times[int((index + 0.5) * len(times) / limit)] for index in range(limit)]
