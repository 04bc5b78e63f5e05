"""Media of the harness -> clips of the engine: video files are decoded, pictures opened, arrays taken as they are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luvc.errors import RequestError
from luvc.shapes import ModelShape
from luvc.types import Clip
from pipeline.decode.protocol import DecodeSettings
from pipeline.frames import read_clip
from pipeline.lmms_eval.questions import Medium
from pipeline.plan.sampling import Sampling, sample_times


def read_medium(medium: Medium, shape: ModelShape, sampling: Sampling, settings: DecodeSettings) -> Clip:
    """The frames of a medium.

    Args:
        medium: a video or a still.
        shape: the model.
        sampling, settings: for video files; frames that a task chose itself are all taken.

    Raises:
        LuvcError: why there are none.
    """
    source = medium.source
    if medium.image:
        return Clip(_picture(source)[None], image=True)
    if isinstance(source, str) and Path(source).is_dir():
        return Clip(_frames(_folder(Path(source), sampling)))
    if isinstance(source, str):
        return read_clip(source.removeprefix("file://"), shape, sampling, settings, medium.from_s, medium.to_s)
    if isinstance(source, np.ndarray):
        return Clip(source)
    if isinstance(source, Sequence) and not isinstance(source, bytes) and source:
        return Clip(_frames([_picture(one) for one in source]))
    raise RequestError(f"a video of type {type(source).__name__}", "a path, frames as pictures, or a uint8 array")


def _folder(folder: Path, sampling: Sampling) -> list[np.ndarray]:
    """A video as a folder of frames (MVBench has one task of them), evenly sampled in the order of their names."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise RequestError(f"{folder}: a folder without frames", "pictures (.jpg, .png) are needed")
    wanted = Sampling(frames=sampling.frames or sampling.max_frames)  # nobody knows how fast they follow one another
    return [_picture(files[int(place)]) for place in sample_times(0.0, float(len(files)), wanted, fps=1.0)]


def _frames(pictures: Sequence[np.ndarray]) -> np.ndarray:
    if len({picture.shape for picture in pictures}) > 1:
        raise RequestError("frames of one video have several sizes")
    return np.stack(pictures)


def _picture(source: Any) -> np.ndarray:
    """uint8 `[height, width, 3]` of a PIL image, a file or its bytes; upright."""
    from PIL import Image, ImageOps

    try:
        if isinstance(source, Image.Image):
            return np.array(source.convert("RGB"))
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        return np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, AttributeError, Image.DecompressionBombError) as error:
        what = f"of {len(source)} bytes" if isinstance(source, bytes) else repr(source)
        raise RequestError(f"image {what} cannot be read: {error}") from error
