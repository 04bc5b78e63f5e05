"""A small JPEG of a clip for the report. Pure."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

THUMBNAIL_WIDTH_PX = 160


def make_thumbnail(frames: np.ndarray, width_px: int | None = None, height_px: int | None = None) -> bytes:
    """JPEG of the middle frame.

    Args:
        frames: uint8 `[frames, height, width, 3]`, RGB, squashed to the model's size.
        width_px, height_px: displayed size of the video, to undo the squashing; None keeps the frames' shape.
    """
    middle = frames[len(frames) // 2]
    aspect = height_px / width_px if width_px and height_px else middle.shape[0] / middle.shape[1]
    size = (THUMBNAIL_WIDTH_PX, max(1, round(THUMBNAIL_WIDTH_PX * aspect)))
    buffer = io.BytesIO()
    Image.fromarray(middle).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()
