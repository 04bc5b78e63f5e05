"""Cuts videos into clips: whole, or fixed windows. Pure: durations in, spans out."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from pipeline.errors import SpanUnreadable
from pipeline.section import Section

#: An end this little behind the video's end is rounding, not a mistake.
END_TOLERANCE_S = 0.5
#: A video of more is one whose header is damaged: three days in windows of a second.
MAX_WINDOWS = 250_000


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


class Span(NamedTuple):
    """A clip of a video.

    Attributes:
        start_s, end_s: as the user or the window says; None = the video's own beginning or end.
        from_s, to_s: the same with the video's length filled in.
    """

    start_s: float | None
    end_s: float | None
    from_s: float
    to_s: float

    @property
    def length_s(self) -> float:
        return self.to_s - self.from_s


def cut(duration_s: float, clips: Clips, start_s: float | None = None, end_s: float | None = None) -> list[Span]:
    """Clips of one video, at least one.

    Args:
        duration_s: length of the video.
        clips: how to cut.
        start_s, end_s: the part of the video to cut; windows are counted from `start_s`.

    Raises:
        SpanUnreadable: that part is not inside the video, or the video has no length that can be.
    """
    if not math.isfinite(duration_s):
        raise SpanUnreadable(f"the video is said to be {duration_s} s long", "its header is damaged; remux it")
    from_s = start_s or 0.0
    to_s = duration_s if end_s is None else end_s
    if from_s >= duration_s or to_s > duration_s + END_TOLERANCE_S:
        asked = f"{from_s:g} s to {'its end' if end_s is None else f'{end_s:g} s'}"
        raise SpanUnreadable(
            f"the clip from {asked} is not inside the video, which is {duration_s:.2f} s long",
            "correct start_s and end_s in the input manifest",
        )
    to_s = min(to_s, duration_s)
    if clips.mode == "whole":
        return [Span(start_s, end_s, from_s, to_s)]
    assert clips.window_s is not None
    stride_s = clips.stride_s or clips.window_s
    if (to_s - from_s) / stride_s > MAX_WINDOWS:
        raise SpanUnreadable(
            f"{to_s - from_s:g} s in windows every {stride_s:g} s are more than {MAX_WINDOWS:,} clips",
            "the header is damaged (remux the video), or raise clips.stride_s",
        )
    spans: list[Span] = []
    begin = from_s
    # A window that reaches the end is the last: one more would only repeat part of it.
    while begin < to_s and not (spans and spans[-1].to_s >= to_s):
        end = min(begin + clips.window_s, to_s)
        if spans and end - begin < min(clips.min_s, clips.window_s) - 1e-9:
            break
        spans.append(Span(round(begin, 6), round(end, 6), begin, end))
        begin = from_s + len(spans) * stride_s
    return spans
