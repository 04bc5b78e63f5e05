"""Decodes units in worker processes that can be killed: deadline, memory cap, crash.

Workers are kept for the life of this process and handed from unit to unit; a worker that failed in any way is
killed and never used again. They are started as fresh interpreters, never forked: the parent may be a Ray worker
with many threads. Knows nothing of video formats or Ray.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.decode.protocol import DecodedClip, DecodeSettings
from pipeline.decode.worker import HEADER, message_bytes
from pipeline.errors import DecodeMemory, DecoderCrashed, DecoderNotStarted, DecodeTimeout
from pipeline.storage import Options

_START_TIMEOUT_S = 60.0
_START_HINT = "try again; if it stays so, the machine is short of memory, processes or open files"
#: Decoding libraries leak a little; a worker is replaced after so many units.
_UNITS_PER_WORKER = 500
_COLUMNS = ("unit_id", "uri", "timestamps_s", "key_frames_only", "frame_height_px", "frame_width_px")


class _Died(Exception):
    """The worker closed its pipe."""


class _Late(Exception):
    """The deadline passed."""


class Worker:
    """One child process.

    Raises:
        DecoderNotStarted: there is none.
    """

    def __init__(self) -> None:
        self.units = 0
        try:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
            self.process = self._start()
        except OSError as error:  # too many open files or processes, no memory: no fault of the video
            raise DecoderNotStarted(f"a decode worker did not start: {error}", _START_HINT) from error
        try:
            self._receive(time.monotonic() + _START_TIMEOUT_S)
        except _Late:
            self.kill()
            raise DecoderNotStarted(
                f"a decode worker did not start within {_START_TIMEOUT_S:g} s{self.last_words()}", _START_HINT
            ) from None
        except _Died:
            self.kill()
            raise DecoderNotStarted(
                f"a decode worker did not start ({_exit_text(self.process.returncode)}){self.last_words()}", _START_HINT
            ) from None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.decode.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            # Ctrl-C is for the run, which ends in order; a worker that died of it would look like a crash.
            start_new_session=True,
            # A Ray worker finds our packages through sys.path alone; a child knows only the environment.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )

    def decode(self, unit: Mapping[str, Any], settings: DecodeSettings, options: Options, decoder: str) -> DecodedClip:
        """Decode one unit. After any error but one the worker reported itself (memory aside), it is dead.

        Raises:
            DecodeTimeout, DecoderCrashed: the worker hung or died.
            LuvcError: what the decoder raised.
        """
        self.units += 1
        ends_at = time.monotonic() + settings.deadline_s
        request = {
            "unit": {name: unit.get(name) for name in _COLUMNS},
            "settings": settings.model_dump(),
            "options": dict(options),
            "decoder": decoder,
        }
        try:
            self._send(message_bytes(request), ends_at)
            reply = self._receive(ends_at)
            # An answer never goes to another unit, whatever got out of step.
            if reply["unit_id"] != unit.get("unit_id"):
                raise _Died
            if "error" in reply:
                if isinstance(reply["error"], DecodeMemory):
                    self.kill()  # a heap that was full once stays in pieces
                raise reply["error"]
            frames = np.empty(reply["shape"], np.uint8)
            self._read_into(frames.data.cast("B"), ends_at)
        except _Late:
            self.kill()
            raise DecodeTimeout(
                f"{unit['uri']}: not decoded within {settings.deadline_s:g} s",
                "raise decode.deadline_s, or leave the video out",
            ) from None
        except _Died:
            self.kill()
            raise DecoderCrashed(
                f"{unit['uri']}: the decoder died ({_exit_text(self.process.returncode)}){self.last_words()}",
                "the file is damaged in a way that crashes its decoder; re-encode it or leave it out",
            ) from None
        except BaseException as error:
            if not isinstance(error, Exception):
                self.kill()  # interrupted between request and answer
            raise
        clip: DecodedClip = replace(reply["clip"], frames=frames)
        return clip

    @property
    def usable(self) -> bool:
        return self.process.poll() is None and self.units < _UNITS_PER_WORKER

    def kill(self) -> None:
        """End the process at once; safe to call twice."""
        with suppress(OSError):
            self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def last_words(self) -> str:
        """The innermost line of what a dying worker wrote."""
        with suppress(OSError, ValueError):
            self._log.seek(0)
            lines = self._log.read()[-4000:].decode(errors="replace").strip().splitlines()
            if lines:
                return f": {next((line for line in lines if line.startswith('Fatal')), lines[-1])}"
        return ""

    def _send(self, data: bytes, ends_at: float) -> None:
        assert self.process.stdin is not None
        rest = memoryview(data)
        while rest:
            _wait(self.process.stdin.fileno(), ends_at, write=True)
            try:
                rest = rest[os.write(self.process.stdin.fileno(), rest[:4096]) :]
            except BrokenPipeError:
                raise _Died from None

    def _receive(self, ends_at: float) -> dict[str, Any]:
        header = bytearray(HEADER.size)
        self._read_into(memoryview(header), ends_at)
        body = bytearray(HEADER.unpack(header)[0])
        self._read_into(memoryview(body), ends_at)
        message: dict[str, Any] = pickle.loads(body)
        return message

    def _read_into(self, view: memoryview, ends_at: float) -> None:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while view:
            _wait(descriptor, ends_at)
            count = os.readv(descriptor, [view])
            if count == 0:
                raise _Died
            view = view[count:]


class WorkerPool:
    """Idle workers of this process; as many exist as threads decode at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._process = os.getpid()

    def decode(self, unit: Mapping[str, Any], settings: DecodeSettings, options: Options, decoder: str) -> DecodedClip:
        """Decode one unit in a free worker, starting one if there is none. Raises as `Worker` does."""
        worker = self._take()
        try:
            return worker.decode(unit, settings, options, decoder)
        finally:
            if worker.usable:
                with self._lock:
                    self._idle.append(worker)
            else:
                worker.kill()

    def close(self) -> None:
        """End all idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def _take(self) -> Worker:
        with self._lock:
            if self._process != os.getpid():  # forked: the pipes belong to the parent
                self._process, self._idle = os.getpid(), []
            while self._idle:
                worker = self._idle.pop()
                if worker.usable:
                    return worker
                worker.kill()
        return Worker()


POOL = WorkerPool()
atexit.register(POOL.close)


def _wait(descriptor: int, ends_at: float, write: bool = False) -> None:
    # poll, not select: a Ray worker may have more than 1,024 files open.
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if write else select.POLLIN)
    if not poll.poll(max(0.0, ends_at - time.monotonic()) * 1000):
        raise _Late


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
