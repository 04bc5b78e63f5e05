"""The child process that decodes: `python -m pipeline.decode.worker`. Its parent is `pipeline.decode.pool`.

Serves one request after another from stdin until it is closed. Lives outside its parent because a decoder may
crash, hang or eat the memory, and a video must not take anything but itself down. Imports neither torch nor Ray,
so it starts in a fraction of a second.

A message is a 4-byte length and a pickle; the frames of an answer follow it as raw bytes, so that the parent
reads them straight into their array.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from luvc.errors import LuvcError
from pipeline.decode.protocol import DecodedClip, DecodeSettings
from pipeline.errors import DecodeError, DecodeMemory
from pipeline.requests import requests

HEADER = struct.Struct("<I")
#: Past its deadline the parent kills the worker. If the parent is gone, the worker ends itself this much later.
_ORPHAN_GRACE_S = 30


def main() -> None:
    """Serve until stdin is closed."""
    faulthandler.enable()
    # If the machine runs out of memory all the same, the kernel shall take the decoder, not the engine.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # What anyone prints must not get between the frames: the pipe gets a number of its own.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    _send(answers, {"ready": os.getpid()})
    baseline_bytes = _address_space_bytes()
    while (request := receive(requests)) is not None:
        settings = DecodeSettings(**request["settings"])
        _limit_memory(baseline_bytes + settings.memory_bytes)
        signal.alarm(int(settings.deadline_s) + _ORPHAN_GRACE_S)
        reply, clip = _serve(request, settings)
        signal.alarm(0)
        _limit_memory(None)
        _send(answers, reply)
        if clip is not None:
            write_all(answers.fileno(), np.ascontiguousarray(clip.frames).data.cast("B"))
        del clip


def _serve(request: dict[str, Any], settings: DecodeSettings) -> tuple[dict[str, Any], DecodedClip | None]:
    unit = request["unit"]
    reply: dict[str, Any] = {"unit_id": unit.get("unit_id")}
    before = requests()
    try:
        clip: DecodedClip = load(request["decoder"])(unit, settings, request["options"])
    except LuvcError as error:
        return {**reply, "error": error}, None
    except MemoryError:
        message = f"{unit['uri']}: decoding needs more than {settings.memory_bytes / 1024**2:.0f} MiB"
        hint = "raise decode.memory_bytes, or leave the video out"
        return {**reply, "error": DecodeMemory(message, hint)}, None
    except Exception as error:  # noqa: BLE001 - reported, not swallowed
        return {**reply, "error": DecodeError(f"{unit['uri']}: {type(error).__name__}: {error}")}, None
    shape = clip.frames.shape
    reads = requests().since(before).reads
    bare = replace(clip, frames=np.empty((0, *shape[1:]), np.uint8), storage_reads=reads)
    return {**reply, "shape": shape, "clip": bare}, clip


def load(name: str) -> Callable[..., DecodedClip]:
    """The function behind "package.module:function"."""
    module, _, function = name.partition(":")
    found: Callable[..., DecodedClip] = getattr(importlib.import_module(module), function)
    return found


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None at the end."""
    header = _read_exactly(stream, HEADER.size)
    body = _read_exactly(stream, HEADER.unpack(header)[0]) if header else None
    if body is None:
        return None
    message: dict[str, Any] = pickle.loads(body)
    return message


def message_bytes(message: dict[str, Any]) -> bytes:
    """A message as it goes through the pipe."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Write everything, however little the pipe takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _send(stream: BinaryIO, message: dict[str, Any]) -> None:
    write_all(stream.fileno(), message_bytes(message))


def _read_exactly(stream: BinaryIO, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            return None
        data += piece
    return data


def _address_space_bytes() -> int:
    with suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 1024**3


def _limit_memory(limit_bytes: int | None) -> None:
    """Cap the address space; allocations beyond it fail inside this process instead of starving the node."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = resource.RLIM_INFINITY if limit_bytes is None else limit_bytes
    if hard != resource.RLIM_INFINITY:
        soft = hard if limit_bytes is None else min(limit_bytes, hard)
    with suppress(ValueError, OSError):  # macOS knows the limit but does not keep it
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main()
