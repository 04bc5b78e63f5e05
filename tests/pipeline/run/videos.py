"""Small real videos, and files that only look like one."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def video(path: Path, frames: int = 12, size: int = 64, fps: int = 12, seed: int = 0) -> Path:
    """A clip of plain frames whose grey level names `seed` and the frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "4"}
        for index in range(frames):
            image = np.full((size, size, 3), (seed * 37 + index * 5) % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def audio(path: Path, seconds: float = 0.5, rate: int = 8000) -> Path:
    """A media file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        samples = np.zeros((1, int(seconds * rate)), np.float32)
        for start in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def zoo(folder: Path) -> dict[str, Path]:
    """One file for each way a file can be bad, by the name of the way."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"empty": folder / "empty.mp4", "text": folder / "text.mp4", "truncated": folder / "truncated.mp4"}
    files["empty"].write_bytes(b"")
    files["text"].write_text("this is not a video\n" * 100)
    whole = video(folder / "whole.mkv", frames=48).read_bytes()
    files["truncated"].write_bytes(whole[: len(whole) // 3])
    (folder / "whole.mkv").unlink()
    files["audio"] = audio(folder / "audio.mp4")
    return files
