"""Decodes the sampled frames of one unit with PyAV, at the size the model takes, upright, RGB.

The rule: the frame of time t is the one on screen at t, the last with a timestamp not after t (before the first
frame: the first). Frames are resized here and nowhere else; at most two of full size are held at any moment.
Knows nothing of processes, deadlines or Ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from pipeline.decode.protocol import DecodedClip, DecodeSettings
from pipeline.decode.reader import FrameReader
from pipeline.errors import CorruptVideo, SpanUnreadable, Truncated
from pipeline.media import clockwise_rotation, open_video
from pipeline.storage import Options

# Above this height, video without colour tags is BT.709 by convention; swscale alone would take BT.601.
_SD_HEIGHT_PX = 576
_COLORSPACE_UNSPECIFIED = 2
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


def decode(unit: Mapping[str, Any], settings: DecodeSettings, options: Options | None = None) -> DecodedClip:
    """Decode one unit.

    Args:
        unit: columns of the manifest: uri, timestamps_s, key_frames_only, frame_height_px, frame_width_px.
        settings: policy for corrupt frames.
        options: for fsspec.

    Raises:
        InputError, StorageError: why the unit cannot be decoded; CorruptVideo (Truncated) also when it could be,
            but not all of it, and the policy does not allow that.
    """
    started = time.perf_counter()
    uri, times = unit["uri"], list(unit["timestamps_s"])
    frames = np.empty((len(times), unit["frame_height_px"], unit["frame_width_px"], 3), np.uint8)
    used_s = [0.0] * len(times)
    good: list[int] = []
    with open_video(uri, options, timeout_s=settings.deadline_s) as (container, stream):
        reader = FrameReader(container, stream, bool(unit.get("key_frames_only")))
        resize = Resizer(frames.shape[1], frames.shape[2])
        last: Any = None
        for index, wanted_s in enumerate(times):
            shown = reader.frame_at(wanted_s)
            if shown.frame is None or shown.corrupt:
                if settings.policy == "strict":
                    raise _corrupt(uri, wanted_s, reader)
                continue
            # Two times may show the same frame; it is converted once.
            frames[index] = frames[good[-1]] if shown.frame is last else resize(shown.frame)
            used_s[index], last = shown.time_s, shown.frame
            good.append(index)
        corrupt = len(times) - len(good)
        if not good or corrupt / len(times) > settings.tolerance:
            error = _corrupt(uri, times[0], reader)
            message = f"{error.message}; {corrupt} of {len(times)} frames are bad"
            raise type(error)(message, error.hint)
    for index in set(range(len(times))) - set(good):
        nearest = min(good, key=lambda other: abs(times[other] - times[index]))
        frames[index], used_s[index] = frames[nearest], used_s[nearest]
    return DecodedClip(
        frames=frames,
        timestamps_s=tuple(used_s),
        frames_expected=len(times),
        frames_decoded=len(times),
        frames_corrupt=corrupt,
        seconds=time.perf_counter() - started,
    )


class Resizer:
    """Converts decoded frames to upright RGB of one size; a frame is squashed, never cropped or padded.

    Args:
        height_px, width_px: of the result.
    """

    def __init__(self, height_px: int, width_px: int) -> None:
        self._size = height_px, width_px
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        """`[height, width, 3]` uint8."""
        turns = clockwise_rotation(frame) // 90
        # Resize first, lying down if need be: turning the small picture is cheaper than the large one.
        height_px, width_px = self._size if turns % 2 == 0 else self._size[::-1]
        untagged = frame.colorspace == _COLORSPACE_UNSPECIFIED and frame.height > _SD_HEIGHT_PX
        small = self._reformatter.reformat(
            frame,
            width=width_px,
            height=height_px,
            format="rgb24",
            src_colorspace=Colorspace.ITU709 if untagged else None,
            interpolation=_SCALING,
            threads=1,
        )
        return np.rot90(small.to_ndarray(), -turns)


def _corrupt(uri: str, wanted_s: float, reader: FrameReader) -> CorruptVideo | SpanUnreadable:
    """Why there is no sound frame at `wanted_s`."""
    if reader.ended and wanted_s > reader.end_s:
        if reader.length_s is not None and wanted_s > reader.length_s:
            return SpanUnreadable(
                f"{uri}: the frame at {wanted_s:.2f} s lies behind the end of the video ({reader.length_s:.2f} s)",
                "the file changed after planning, or the clip is wrong; plan again",
            )
        return Truncated(
            f"{uri}: the video ends at {reader.end_s:.2f} s, the frame at {wanted_s:.2f} s is missing",
            "it was cut off; fetch it again, or use decode.policy: tolerant",
        )
    return CorruptVideo(
        f"{uri}: the frame at {wanted_s:.2f} s cannot be decoded{reader.detail}",
        "the file is damaged; fetch it again, or use decode.policy: tolerant",
    )
