"""Makes small videos for tests, among them odd ones, and reads back which frame a picture is.

A numbered video shows its frame number as white and black blocks, which survive any codec and any resizing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

EXAMPLES = Path(__file__).parents[1] / "examples" / "videos"

_COLUMNS, _ROWS = 5, 2  # 10 bits


def numbered_frame(number: int, width: int = 160, height: int = 96) -> np.ndarray:
    """`[height, width, 3]`: the bits of `number`, row by row, lowest first."""
    bits = np.array([number >> bit & 1 for bit in range(_COLUMNS * _ROWS)], np.uint8).reshape(_ROWS, _COLUMNS)
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    return np.repeat((bits[rows][:, columns] * 235)[..., None], 3, axis=2).astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    """The number in a frame made by `numbered_frame`, at any size."""
    height, width = frame.shape[:2]
    number = 0
    for bit in range(_COLUMNS * _ROWS):
        row, column = divmod(bit, _COLUMNS)
        y, x = int((row + 0.5) * height / _ROWS), int((column + 0.5) * width / _COLUMNS)
        number |= int(frame[y - 2 : y + 3, x - 2 : x + 3].mean() > 117) << bit
    return number


def corner_frame(width: int = 160, height: int = 96) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    frame = np.zeros((height, width, 3), np.uint8)
    half_y, half_x = height // 2, width // 2
    frame[:half_y, :half_x, 0] = 255
    frame[:half_y, half_x:, 1] = 255
    frame[half_y:, :half_x, 2] = 255
    frame[half_y:, half_x:] = 255
    return frame


def corners(frame: np.ndarray) -> str:
    """The colours of the four quarters, "RGBW" if the frame stands upright."""
    height, width = frame.shape[:2]
    names = ""
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            bright = frame[y, x] > 128
            names += {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}.get(
                tuple(bright.astype(int).tolist()), "?"
            )
    return names


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray] | int = 50,
    codec: str = "libx264",
    fps: int | Fraction = 25,
    pix_fmt: str = "yuv420p",
    gop: int | None = 10,
    options: dict[str, str] | None = None,
    rotation_ccw: int = 0,
    pixel_aspect: Fraction | None = None,
    times_s: Sequence[float] | None = None,
    container_options: dict[str, str] | None = None,
    audio_s: float = 0.0,
    b_frames: int = 2,
    size: tuple[int, int] = (160, 96),
    setup: Any = None,
) -> Path:
    """Write a video; `frames` as a number means that many numbered frames of `size` (width, height).

    `times_s` gives each frame its own time (variable frame rate); `audio_s` adds a silent track.
    """
    path = Path(path)
    pictures = [numbered_frame(i, *size) for i in range(frames)] if isinstance(frames, int) else list(frames)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if gop:
            stream.codec_context.gop_size = gop
        if codec in ("libx264", "libx265", "mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = b_frames
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation_ccw:
            stream.set_display_rotation(rotation_ccw)
        if times_s is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if setup:
            setup(stream)
        sound = container.add_stream("aac", rate=8000) if audio_s else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _write_silence(container, sound, audio_s)
    return path


def write_audio(path: Path | str, seconds: float = 1.0, cover: bool = False) -> Path:
    """An audio file, with a cover picture (which FFmpeg shows as a video stream) if asked for."""
    path = Path(path)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        picture = None
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        _write_silence(container, stream, seconds)
        if picture is not None:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
            container.mux(picture.encode())
    return path


def _write_silence(container: Any, stream: Any, seconds: float) -> None:
    for start in range(0, int(seconds * 8000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def truncate(source: Path, target: Path, keep: float) -> Path:
    """The first part of a file's bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target


def damage(source: Path, target: Path, at: float = 0.5, size_bytes: int = 200) -> Path:
    """A copy with some bytes overwritten, at a fraction of its length."""
    data = bytearray(source.read_bytes())
    start = int(len(data) * at)
    noise = np.random.default_rng(0).integers(0, 256, size_bytes, dtype=np.uint8).tobytes()
    data[start : start + size_bytes] = noise
    target.write_bytes(bytes(data))
    return target
