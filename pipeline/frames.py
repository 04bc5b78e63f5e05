"""From a video file to the clip a model takes, outside a run: probe, sample, size, decode. Knows nothing of Ray."""

from __future__ import annotations

from luvc.families import FAMILIES
from luvc.shapes import ModelShape
from luvc.types import Clip
from pipeline.decode import decode_unit
from pipeline.decode.protocol import DecodeSettings
from pipeline.errors import SpanUnreadable
from pipeline.plan.probe import ProbeTask, probe
from pipeline.plan.sampling import Sampling, sample_times


def read_clip(
    url: str,
    shape: ModelShape,
    sampling: Sampling,
    settings: DecodeSettings | None = None,
    from_s: float | None = None,
    to_s: float | None = None,
) -> Clip:
    """Frames of a video at the size the model takes, decoded in a worker process. Any number of threads may call it.

    Args:
        url: local path or URL.
        shape: the model.
        sampling: which frames.
        settings: how to decode; `max_frame_tokens` bounds the size of a frame.
        from_s, to_s: part of the video, cut at its end; None: from its start, to its end.

    Raises:
        InputError, DecodeError, StorageError: what is wrong with the video, its decoding or its store.
    """
    settings = settings or DecodeSettings()
    found = probe(ProbeTask(url, None, {}), key_frames=sampling.mode == "key_frames")
    start_s, end_s = from_s or 0.0, min(found.duration_s if to_s is None else to_s, found.duration_s)
    if not 0 <= start_s < end_s:
        raise SpanUnreadable(
            f"{url}: nothing lies between {start_s:g} and {end_s:g} s; the video has {found.duration_s:g} s"
        )
    times = sample_times(start_s, end_s, sampling, found.fps, found.key_frames_s)
    height, width = FAMILIES[shape.family].frame_size(
        shape, found.height_px, found.width_px, len(times), settings.max_frame_tokens
    )
    unit = {
        "uri": url,
        "timestamps_s": times,
        "frame_height_px": height,
        "frame_width_px": width,
        "key_frames_only": sampling.mode == "key_frames",
    }
    decoded = decode_unit(unit, settings)
    return Clip(decoded.frames, list(decoded.timestamps_s))
