"""What a decoder is asked for and what it returns: plain data.

Knows nothing of any decoding library, of processes, or of Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.section import Section


class DecodeSettings(Section):
    """The `decode` section.

    Attributes:
        policy: "strict": a corrupt frame fails the unit; "tolerant": it is replaced by the nearest good
            one and counted, as long as the share of corrupt frames stays within `tolerance`.
        tolerance: share of the sampled frames that may be corrupt (tolerant).
        deadline_s: seconds a unit's decoding may take before its worker is killed.
        memory_bytes: memory a decode worker may use.
        max_frame_tokens: upper limit of visual tokens per frame, where the model takes frames of any size.
    """

    policy: Literal["strict", "tolerant"] = "strict"
    tolerance: float = Field(default=0.1, ge=0, le=1)
    deadline_s: float = Field(default=120.0, gt=0)
    memory_bytes: int = Field(default=2 * 1024**3, ge=256 * 1024**2)
    max_frame_tokens: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class DecodedClip:
    """Frames of one unit.

    Attributes:
        frames: uint8 `[frames, height, width, 3]`, RGB, upright, at the size the manifest asked for.
        timestamps_s: time of each frame that was used, seconds from the start of the video.
        frames_expected: frames the manifest asked for.
        frames_decoded: frames that are here; always as many, so that planned tokens are the real ones.
        frames_corrupt: of these, frames that could not be decoded and are copies of their nearest neighbour.
        seconds: time spent fetching, decoding and resizing.
        storage_reads: requests to the store it took.
    """

    frames: np.ndarray
    timestamps_s: tuple[float, ...]
    frames_expected: int
    frames_decoded: int
    frames_corrupt: int
    seconds: float
    storage_reads: int = 0
