"""Walks through a video stream in display order, and knows which frames can be trusted.

Goes on linearly, or seeks where a key frame lies far enough ahead to pay. Once a packet fails, frames up to the
next sound key frame are corrupt even where the decoder returns them: it builds them on what was lost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator
from typing import Any, NamedTuple

from av.error import FFmpegError, PyAVCallbackError

from pipeline.media import frame_rate, start_pts, stream_duration_s

#: Two timestamps this close are one; decimal seconds in the manifest against ticks in the file.
_SAME_S = 1e-4
#: A jump to a key frame must spare at least so much video; flushing the decoder is not free.
_SEEK_GAIN_S = 0.5
#: Without an index, key frames are assumed to be at most so far apart.
_BLIND_SEEK_GAIN_S = 10.0
#: Where the file does not end early by its own header, its last picture may stand for a little longer.
_TAIL_S = 0.5


class Shown(NamedTuple):
    """The frame on screen at some time; None if there is none. `corrupt`: it is not the one that should be there."""

    frame: Any
    time_s: float
    corrupt: bool


class FrameReader:
    """Frames of one stream by time; times must be asked for in rising order.

    Args:
        container, stream: as opened by `pipeline.media.open_video`.
        key_frames_only: decode nothing but key frames.

    Attributes:
        decoded: frames that were decoded so far.
        length_s: length of the stream as the header tells it.
        ended: the end of the stream was reached.
        detail: what the last error of the decoder was, for messages.
    """

    def __init__(self, container: Any, stream: Any, key_frames_only: bool = False) -> None:
        self._container = container
        self._stream = stream
        self._start = start_pts(stream)
        self.length_s = stream_duration_s(container, stream)
        rate = frame_rate(stream)
        self._frame_s = 1 / float(rate) if rate else 0.0
        codec = stream.codec_context
        # One thread: a task has one core, and errors stay with the packet that caused them.
        codec.thread_count = 1
        # Streams without times are read by counting their frames, which a jump or a lost frame would upset.
        timed = stream.start_time is not None
        if timed:
            codec.options = {"err_detect": "explode"}  # damage is reported, not painted over
        if key_frames_only:
            codec.skip_frame = "NONKEY"
        self._keys = _key_frames(stream)
        self._can_seek = timed
        self._frames = self._decode()
        self._current: tuple[float, Any] | None = None
        self._next: tuple[float, Any] | None = None
        self._bad_s: list[float] = []
        self.decoded = 0
        self._read_s = 0.0
        self._sure_until_s = 0.0
        self._cut_off = False
        self.ended = False
        self.detail = ""

    @property
    def end_s(self) -> float:
        """How long the last picture counts as being on screen, once the end was reached."""
        return self._read_s if self._cut_off else self._read_s + _TAIL_S

    def frame_at(self, wanted_s: float) -> Shown:
        """The frame on screen at `wanted_s`."""
        if self._next is None and not self.ended:
            self._maybe_seek(wanted_s, position_s=0.0)
            self._advance()
        elif self._next is not None:
            self._maybe_seek(wanted_s, position_s=self._next[0])
        while self._next is not None and self._next[0] <= wanted_s + _SAME_S:
            self._advance()
        shown = self._current or self._next
        if shown is None:
            return Shown(None, wanted_s, corrupt=True)
        time_s, frame = shown
        self._bad_s = [bad_s for bad_s in self._bad_s if bad_s >= time_s - _SAME_S]
        lost = any(bad_s <= max(wanted_s, time_s) + _SAME_S for bad_s in self._bad_s)
        return Shown(frame, time_s, lost or frame.is_corrupt or (self.ended and wanted_s > self.end_s))

    def _advance(self) -> None:
        if self._next is not None:
            self._current = self._next
        self._next = next(self._frames, None)
        if self._next is None:
            self.ended = True

    def _maybe_seek(self, wanted_s: float, position_s: float) -> None:
        """Jump ahead if that pays; checks where the jump landed, since indexes are not to be trusted."""
        if not self._can_seek:
            return
        if not self._keys:
            if wanted_s - position_s > _BLIND_SEEK_GAIN_S:
                blind = self._start + int(wanted_s / float(self._stream.time_base))
                self._can_seek = self._seek(blind, wanted_s)
            return
        best = bisect_right(self._keys, (wanted_s + _SAME_S, float("inf"))) - 1
        for time_s, timestamp in reversed(self._keys[max(0, best - 1) : best + 1]):
            if time_s - position_s < _SEEK_GAIN_S:
                return
            if self._seek(timestamp, wanted_s):
                return
        self._can_seek = False

    def _seek(self, timestamp: int, wanted_s: float) -> bool:
        """Whether reading from there on meets the frame of `wanted_s`; if not, starts over from the beginning."""
        try:
            self._restart(timestamp)
        except FFmpegError:
            return False  # this container cannot seek; nothing has moved
        if self._next is not None and self._next[0] <= wanted_s + _SAME_S and not self._bad_s:
            return True
        self._restart(self._start)
        return False

    def _restart(self, timestamp: int) -> None:
        self._container.seek(timestamp, stream=self._stream, backward=True)
        self._frames.close()
        self._frames = self._decode()
        self._current = self._next = None
        self._bad_s = []
        self._read_s = self._sure_until_s = 0.0
        self.ended = self._cut_off = False
        self._advance()

    def _decode(self) -> Generator[tuple[float, Any]]:
        damaged = False
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (PyAVCallbackError, MemoryError):
                raise  # the store or this process failed, not the video
            except FFmpegError as error:
                self.detail = f" ({error.strerror})"
                self._cut_off = True
                packet = None
            if packet is None or not packet.size:
                self._cut_off |= self._ends_early()
                if self._cut_off and self.decoded:
                    self._bad_s.append(self._sure_until_s)
            if packet is None:
                return
            frames = []
            was_damaged = damaged
            try:
                frames = packet.decode()
                damaged = packet.is_corrupt or (damaged and not packet.is_keyframe)
            except MemoryError:
                raise
            except FFmpegError as error:
                self.detail = f" ({error.strerror})"
                damaged = True
            if packet.size:
                self._note(packet, damaged, was_damaged)
            for frame in frames:
                yield self._seconds(frame.pts), frame
                self.decoded += 1

    def _note(self, packet: Any, damaged: bool, was_damaged: bool) -> None:
        """Keep book of how far the stream goes and which times are lost."""
        time_s = self._seconds(packet.pts if packet.pts is not None else packet.dts)
        if damaged:
            self._bad_s.append(time_s)
            if not was_damaged:
                # Demuxers skip what they cannot read without a word: all between the last sound packet and this
                # one may be gone.
                self._bad_s.append(self._sure_until_s)
        else:
            # What comes later in the file is not shown before its decoding time.
            self._sure_until_s = self._seconds(packet.dts if packet.dts is not None else packet.pts) + self._frame_s
        on_screen_s = float((packet.duration or 0) * self._stream.time_base)
        self._read_s = max(self._read_s, time_s + max(on_screen_s, self._frame_s))

    def _ends_early(self) -> bool:
        return self.length_s is not None and self.length_s - self._read_s > max(2 * self._frame_s, _TAIL_S)

    def _seconds(self, pts: int | None) -> float:
        if pts is None:  # raw streams carry no times: frames are counted
            return self.decoded * (self._frame_s or 0.04)
        return float((pts - self._start) * self._stream.time_base)


def _key_frames(stream: Any) -> list[tuple[float, int]]:
    """(time, timestamp to seek to) of each key frame in the container's index, rising; [] without an index.

    Indexes hold decoding times, ahead of display by a constant in most files. Seeking is by display time: asked for
    the decoding time, demuxers land one key frame early. The reader checks where it landed all the same.
    """
    entries = list(stream.index_entries)
    if not entries:
        return []
    ahead = entries[0].timestamp - start_pts(stream)
    return [
        (float((one.timestamp - entries[0].timestamp) * stream.time_base), one.timestamp - ahead)
        for one in entries
        if one.is_keyframe
    ]
