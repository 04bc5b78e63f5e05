"""Decodes units of the manifest into uint8 frames at the size the model takes. Knows nothing of Ray or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

# The libraries are imported late: the configuration imports its section from here and must not load PyAV for that.
if TYPE_CHECKING:
    import numpy as np

    from pipeline.decode.protocol import DecodedClip, DecodeSettings

__all__ = ["decode_unit", "make_thumbnail"]


def decode_unit(
    row: Mapping[str, Any],
    settings: DecodeSettings,
    storage_options: Mapping[str, Any] | None = None,
    decoder: str = "pipeline.decode.pyav:decode",
) -> DecodedClip:
    """Decode one unit in a worker process with a deadline and a memory cap.

    Args:
        row: a row of the manifest.
        settings: the `decode` section.
        storage_options: for fsspec.
        decoder: "module:function" that the worker calls; tests put their own here.

    Raises:
        InputError: the video is at fault. StorageError: the store is.
        DecodeTimeout, DecodeMemory, DecoderCrashed: the worker was stopped or died; the next unit gets a new one.
    """
    if str(row["uri"]).startswith("memory://"):
        # Files in memory exist in this process alone.
        from pipeline.decode.worker import load

        return load(decoder)(row, settings, storage_options or {})
    from pipeline.decode.pool import POOL

    return POOL.decode(row, settings, storage_options or {}, decoder)


def make_thumbnail(frames: np.ndarray, width_px: int | None = None, height_px: int | None = None) -> bytes:
    """JPEG of the middle frame, 160 pixels wide; see `pipeline.decode.thumbnail`."""
    from pipeline.decode.thumbnail import make_thumbnail as make

    return make(frames, width_px, height_px)
