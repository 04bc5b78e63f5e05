"""Opens video containers safely and answers what their headers say: the one place that knows PyAV's errors.

Shared by the prober (plan) and the decoder. Knows nothing of clips, sampling or processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Disposition

from luvc.errors import LuvcError
from pipeline.errors import (
    CorruptVideo,
    DecodeTimeout,
    EmptyFile,
    NotAVideo,
    NoVideoStream,
    Truncated,
    UnsupportedCodec,
)
from pipeline.storage import Options, is_local, open_read, read_error

# Containers only. Playlists (hls, dash, concat) are kept out: a downloaded "video" could make FFmpeg open other
# files and addresses. Audio containers are in, to say "audio only" rather than "not a video".
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,mxf,gxf,nut,rm,dv,ivf,obu,h264,hevc,vvc,m4v,"
    "mjpeg,gif,apng,yuv4mpegpipe,wtv,bink,smjpeg,3gp,amr,aac,mp3,wav,flac,aiff,caf,w64,ac3,eac3,dts"
)
#: Limits of what FFmpeg reads and analyses before a container counts as open.
_OPTIONS = {"probesize": str(5 * 1024**2), "analyzeduration": "5000000", "format_whitelist": _FORMATS}
#: Pixels longer than this many times their breadth are a damaged header, and taken to be square.
_ODDEST_PIXEL = 100


@contextmanager
def open_video(url: str, options: Options | None = None, timeout_s: float = 30.0) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream.

    Args:
        url: local path or URL.
        options: for fsspec.
        timeout_s: for opening, and for each read after that.

    Raises:
        SourceMissing, PermissionDenied, StorageError: the file cannot be had.
        EmptyFile, NotAVideo, NoVideoStream, Truncated, UnsupportedCodec, DecodeTimeout: what is wrong with it.
            FFmpeg's errors inside the `with` block are translated likewise (CorruptVideo).
    """
    head = b""
    file: Any = None
    container: Any = None
    try:
        if is_local(url):
            source: Any = url.removeprefix("file://")
            file = open(source, "rb")  # noqa: SIM115 - closed below
        else:
            file = open_read(url, options)
            source = file
        head = file.read(16)
        file.seek(0)
        if not head:
            raise EmptyFile(f"{url}: the file is empty (0 bytes)", "upload it again")
        # A timeout cannot interrupt a Python file object; a remote file has its store's own timeouts.
        local = {"protocol_whitelist": "file"} if is_local(url) else {}
        container = av.open(source, container_options={**_OPTIONS, **local}, timeout=timeout_s)
        yield container, _video_stream(container, url)
    except (LuvcError, GeneratorExit, MemoryError):
        raise
    except FFmpegError as error:
        raise translate(url, error, opened=container is not None, head=head) from error
    except OSError as error:
        raise read_error(url, error) from error
    finally:
        for one in (container, file):
            with suppress(Exception):
                if one is not None:
                    one.close()


def translate(url: str, error: FFmpegError, opened: bool, head: bytes = b"") -> LuvcError:
    """The error of our tree for one of FFmpeg's."""
    detail = error.strerror or type(error).__name__
    if isinstance(error, (av.error.TimeoutError, av.error.ExitError)):
        return DecodeTimeout(f"{url}: reading timed out", "slow storage, or a file made to stall its reader")
    if isinstance(error, (av.error.DecoderNotFoundError, av.error.PatchWelcomeError)):
        return UnsupportedCodec(f"{url}: {detail}", "re-encode it, for example to H.264")
    if opened:
        return CorruptVideo(f"{url}: {detail}", "the file is damaged; fetch it again, or use decode.policy: tolerant")
    if head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3":
        return Truncated(f"{url}: the container has no readable index ({detail})", "it was cut off; fetch it again")
    return NotAVideo(f"{url}: not a video file ({detail})", "remove it from the input")


def _video_stream(container: Any, url: str) -> Any:
    """The stream to look at: not a cover picture, the default one if there are several."""
    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        kinds = sorted({one.type for one in container.streams})
        if not kinds:
            raise Truncated(f"{url}: the container holds no streams", "the file was cut off; fetch it again")
        raise NoVideoStream(f"{url}: holds no video ({', '.join(kinds)} only)", "remove it from the input")
    stream = next((one for one in streams if one.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        raise UnsupportedCodec(f"{url}: the video codec is unknown to FFmpeg", "re-encode it, for example to H.264")
    if stream.codec_context.width <= 0 or stream.codec_context.height <= 0:
        raise Truncated(f"{url}: the header tells no frame size", "the file was cut off; fetch it again")
    return stream


def start_pts(stream: Any) -> int:
    """The stream's own zero: timestamps in the manifest count from its first frame."""
    return stream.start_time or 0


def stream_duration_s(container: Any, stream: Any) -> float | None:
    """Length of the video stream itself, not of the file, as the header tells it."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if is_matroska(container):
        # When the stream ends, counted from zero, is a tag such as "00:01:02.500000000".
        try:
            hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
            end_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except (ValueError, OverflowError):
            return None
        length_s = end_s - float((stream.start_time or 0) * stream.time_base)
        return length_s if length_s > 0 and math.isfinite(length_s) else None
    return None


def is_matroska(container: Any) -> bool:
    """Matroska or WebM."""
    return bool(container.format.name.startswith("matroska"))


def frame_rate(stream: Any) -> Fraction | None:
    """Average frames per second; None when the header does not say."""
    rate = stream.average_rate or stream.guessed_rate
    # A tick rate (90 kHz, 1 kHz) in the place of a frame rate means that it is unknown.
    return rate if rate and 0 < rate <= 500 else None


def clockwise_rotation(frame: Any) -> int:
    """Degrees to turn a decoded frame clockwise for display: 0, 90, 180 or 270."""
    return round(-frame.rotation / 90) % 4 * 90  # FFmpeg counts counter-clockwise


def displayed_size(width_px: int, height_px: int, pixel_aspect: Fraction | None, rotation_deg: int) -> tuple[int, int]:
    """Displayed `(width, height)`: square pixels, upright."""
    if pixel_aspect and 1 / _ODDEST_PIXEL <= pixel_aspect <= _ODDEST_PIXEL:
        width_px = max(1, round(width_px * pixel_aspect))
    return (height_px, width_px) if rotation_deg % 180 else (width_px, height_px)
