from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.decode import make_thumbnail
from tests.videos import corner_frame, corners


def test_the_middle_frame_in_the_videos_own_shape() -> None:
    frames = np.zeros((3, 224, 224, 3), np.uint8)
    frames[1] = corner_frame(224, 224)
    data = make_thumbnail(frames, width_px=1280, height_px=720)
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("JPEG", (160, 90))
    assert corners(np.asarray(picture)) == "RGBW"
    assert len(data) < 10_000


def test_without_a_size_the_frames_shape_is_kept() -> None:
    assert Image.open(io.BytesIO(make_thumbnail(np.zeros((1, 48, 96, 3), np.uint8)))).size == (160, 80)
