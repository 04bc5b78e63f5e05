"""Reads container headers: length, displayed size, rate, codec, rotation. Decodes one frame at most.

Many files at once, and none of them can stop the plan: a probe that stalls is given up. Knows no clips.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from av.error import FFmpegError

from luvc.errors import LuvcError
from pipeline.errors import CorruptVideo, DecodeTimeout, EmptyFile, InputError
from pipeline.media import (
    clockwise_rotation,
    displayed_size,
    frame_rate,
    is_matroska,
    open_video,
    start_pts,
    stream_duration_s,
)
from pipeline.storage import FileInfo, Options, stat

PROBE_DEADLINE_S = 60.0
#: Raised when the same header would be understood otherwise: what was kept is then read again.
PROBE_VERSION = "1"
_PACKETS_FOR_FIRST_FRAME = 300


@dataclass(frozen=True, slots=True)
class Probe:
    """What a header says.

    Attributes:
        file: size and version.
        duration_s: length of the video stream, from its first frame.
        width_px, height_px: as displayed, after rotation and pixel aspect.
        rotation_deg: clockwise rotation to apply for display.
        fps: average frame rate; None when unknown.
        codec: FFmpeg's name of the codec.
        key_frames_s: times inside the display interval of each key frame; () when not asked for or no index.
    """

    file: FileInfo
    duration_s: float
    width_px: int
    height_px: int
    rotation_deg: int
    fps: float | None
    codec: str
    key_frames_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """One file to probe: its url, what the listing already told, options for fsspec."""

    url: str
    file: FileInfo | None
    options: Options


def probe(task: ProbeTask, key_frames: bool = False, deadline_s: float = PROBE_DEADLINE_S) -> Probe:
    """Probe one file.

    Raises:
        InputError, StorageError, DecodeTimeout: why it cannot be planned.
    """
    file = task.file or stat(task.url, task.options)
    if file.size_bytes == 0:
        raise EmptyFile(f"{task.url}: the file is empty (0 bytes)", "upload it again")
    ends_at = time.monotonic() + deadline_s
    with open_video(task.url, task.options, timeout_s=deadline_s) as (container, stream):
        codec = stream.codec_context
        rate = frame_rate(stream)
        fps = float(rate) if rate else None
        width_px, height_px, aspect = codec.width, codec.height, stream.sample_aspect_ratio
        times = _key_frame_times(stream, fps) if key_frames else ()
        duration_s = _header_duration(container, stream)
        packets = _Packets(container, stream, task.url, ends_at)
        rotation = clockwise_rotation(packets.first_frame())
        if duration_s is None:
            duration_s = packets.scanned_duration(fps)
        size = displayed_size(width_px, height_px, aspect, rotation)
        return Probe(file, duration_s, *size, rotation, fps, codec.name, times)


def probe_all(
    tasks: Sequence[ProbeTask],
    probe_one: Callable[[ProbeTask], Probe],
    threads: int = 8,
    deadline_s: float = PROBE_DEADLINE_S,
    progress: Callable[[int, int], None] | None = None,
) -> list[Probe | LuvcError]:
    """Probe many files; results in the order of `tasks`, errors in the place of what failed.

    Daemon threads instead of a pool: a thread stuck inside a demuxer cannot be stopped, only left behind, and
    must neither hold up the others nor the end of the process.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[int, Probe | LuvcError]] = queue.SimpleQueue()
    for index in range(len(tasks)):
        todo.put(index)
    started: dict[int, float] = {}

    def work() -> None:
        while True:
            try:
                index = todo.get_nowait()
            except queue.Empty:
                return
            started[index] = time.monotonic()
            finished.put((index, _caught(tasks[index], probe_one)))
            if index in given_up:
                return  # another thread took this one's place

    def start(count: int) -> None:
        for _ in range(count):
            threading.Thread(target=work, name="probe", daemon=True).start()

    results: dict[int, Probe | LuvcError] = {}
    given_up: set[int] = set()
    start(min(threads, len(tasks)))
    while len(results) < len(tasks):
        for index, result in _available(finished, wait_s=min(1.0, deadline_s)):
            results.setdefault(index, result)
        now = time.monotonic()
        overdue = [i for i, since in list(started.items()) if i not in results and now - since > deadline_s]
        for index in overdue:
            given_up.add(index)
            results[index] = DecodeTimeout(
                f"{tasks[index].url}: reading its header took longer than {deadline_s:g} s",
                "slow storage, or a file made to stall its reader",
            )
        start(len(overdue))
        if progress:
            progress(len(results), len(tasks))
    return [results[index] for index in range(len(tasks))]


def _caught(task: ProbeTask, probe_one: Callable[[ProbeTask], Probe]) -> Probe | LuvcError:
    try:
        return probe_one(task)
    except LuvcError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one strange file must not end the plan
        return InputError(f"{task.url}: {type(error).__name__}: {error}")


def _available(finished: queue.SimpleQueue[Any], wait_s: float) -> Iterator[tuple[int, Any]]:
    """Everything that has finished, waiting for the first."""
    try:
        yield finished.get(timeout=wait_s)
        while True:
            yield finished.get_nowait()
    except queue.Empty:
        return


def _header_duration(container: Any, stream: Any) -> float | None:
    """Length of the video stream; that of the whole file, with its sound, only where nothing better is known."""
    own_s = stream_duration_s(container, stream)
    if own_s is not None or not container.duration:
        return own_s
    file_s, start_s = container.duration / 1_000_000, float((stream.start_time or 0) * stream.time_base)
    # Matroska counts from zero, others from the file's first timestamp.
    counted_from_s = 0.0 if is_matroska(container) else (container.start_time or 0) / 1_000_000
    left_s = file_s - max(0.0, start_s - counted_from_s)
    return left_s if left_s > 0 else None


class _Packets:
    """One walk through a stream's packets, as far as it is needed."""

    def __init__(self, container: Any, stream: Any, url: str, ends_at: float) -> None:
        self._stream = stream
        self._packets = container.demux(stream)
        self._url = url
        self._ends_at = ends_at
        self._count = 0
        self._end = 0

    def first_frame(self) -> Any:
        """The first frame that decodes: it carries the rotation, and shows that the codec works here."""
        self._stream.codec_context.thread_count = 1
        for packet in self._packets:
            self._see(packet)
            for frame in _decoded(packet):
                return frame
            if self._count > _PACKETS_FOR_FIRST_FRAME:
                break
        raise CorruptVideo(f"{self._url}: no frame can be decoded", "the file is damaged; fetch it again")

    def scanned_duration(self, fps: float | None) -> float:
        """Length by the packets, for files whose header does not say (live recordings, raw streams)."""
        for packet in self._packets:
            self._see(packet)
        seconds = float(self._end * self._stream.time_base) if self._end else self._count / (fps or 25.0)
        if seconds <= 0:
            raise CorruptVideo(f"{self._url}: its length cannot be told", "remux it, for example with ffmpeg -c copy")
        return seconds

    def _see(self, packet: Any) -> None:
        if time.monotonic() > self._ends_at:
            raise DecodeTimeout(f"{self._url}: reading its header took too long", "remux it to complete the header")
        if packet.size:
            self._count += 1
            if packet.pts is not None:
                self._end = max(self._end, packet.pts + (packet.duration or 0) - start_pts(self._stream))


def _decoded(packet: Any) -> list[Any]:
    try:
        return list(packet.decode())
    except MemoryError:
        raise
    except FFmpegError:  # this packet is damaged, the next may be good
        return []


def _key_frame_times(stream: Any, fps: float | None) -> tuple[float, ...]:
    """From the container's index, which holds decoding times: they run ahead by a constant number of frames."""
    entries = list(stream.index_entries)
    if not entries:
        return ()
    half_frame_s = 0.5 / fps if fps else 0.0
    first = entries[0].timestamp
    return tuple(
        round(float((entry.timestamp - first) * stream.time_base) + half_frame_s, 6)
        for entry in entries
        if entry.is_keyframe
    )
