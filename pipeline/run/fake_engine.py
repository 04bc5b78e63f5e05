"""An engine without a model: for rehearsals of a run, and for tests that break things on purpose.

Answers are a pure function of request id, prompt and frames. Requests finish out of order, as they do in
a real engine, so an answer attached to the wrong video shows. Markers in a prompt ask for trouble:

    [fake:latency=0.2]      seconds this request stays in the engine
    [fake:error]            this request fails;  [fake:retryable-until=FILE] retryable, until FILE exists
    [fake:raise]            the engine raises while this request is in it;  [fake:raise-once=FILE] the first time
    [fake:exit]             the process dies;  [fake:exit-once=FILE] the first time
    [fake:broken]           every engine built after this one fails to start

`FILE` is created to remember that it happened. Knows nothing of torch or Ray.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luvc.errors import LuvcError, ModelError, RequestError
from luvc.types import Answer, Completion, EngineLoad, Request, StageTimes, TokenCounts
from pipeline.decode.protocol import DecodedClip, DecodeSettings

MARKER = re.compile(r"\[fake:([a-z-]+)(?:=([^\]]*))?\]")
PATCH_PX = 14
WORDS = ("a", "cat", "dog", "boat", "street", "tree", "runs", "turns", "under", "near", "the", "red", "sky", "slowly")


class FakeRetryableError(LuvcError):
    """Asked for by a prompt."""

    retryable = True


@dataclass
class _Active:
    request: Request
    markers: dict[str, str]
    checksum: int
    due: float


class FakeEngine:
    """An `EngineProtocol` that answers from checksums.

    Args:
        slots: requests in the engine at once.
        latency_s: seconds a request takes, unless its prompt says otherwise.
        clock, sleep: replaced in tests.
    """

    broken = False

    def __init__(
        self,
        slots: int = 16,
        latency_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if FakeEngine.broken:
            raise ModelError("the fake engine was asked to stay broken", "remove [fake:broken] from the prompt")
        self._slots = slots
        self._latency_s = latency_s
        self._clock = clock
        self._sleep = sleep
        self._active: dict[str, _Active] = {}
        self._stepped = 0

    def has_room(self) -> bool:
        return len(self._active) < self._slots

    def submit(self, request: Request) -> None:
        markers = {name: value for text in request.prompts for name, value in MARKER.findall(text)}
        checksum = 0 if request.video is None else zlib.crc32(memoryview(request.video).cast("B"))
        # Up to half as long again, by id: later requests overtake earlier ones.
        spread = 1 + (zlib.crc32(request.id.encode()) % 100) / 200
        due = self._clock() + spread * float(markers.get("latency") or self._latency_s)
        self._active[request.id] = _Active(request, markers, checksum, due)

    def has_work(self) -> bool:
        return bool(self._active)

    def load(self) -> EngineLoad:
        """Slots stand for tokens."""
        return EngineLoad(len(self._active), prefill_tokens=self._stepped, prefill_limit_tokens=self._slots)

    def step(self) -> list[Completion]:
        self._stepped = len(self._active)
        for active in self._active.values():
            _misbehave(active.markers)
        started = self._clock()
        wait = min(active.due for active in self._active.values()) - started
        if wait > 0:
            self._sleep(wait)
        now = self._clock()
        finished = [active for active in self._active.values() if active.due <= now]
        share = (now - started) / max(1, len(finished))
        for active in finished:
            del self._active[active.request.id]
        return [_complete(active, share) for active in reversed(finished)]


def blank_clip(
    row: Mapping[str, Any], settings: DecodeSettings, storage_options: Mapping[str, Any] | None = None
) -> DecodedClip:
    """In place of `pipeline.decode.decode_unit`: the planned number of frames, black and as small as a patch.

    For rehearsals of everything but decoding (`run.engine_options: {decode: false}`); the video is not opened.
    """
    times = tuple(row["timestamps_s"])
    frames = np.zeros((len(times), PATCH_PX, PATCH_PX, 3), np.uint8)
    return DecodedClip(frames, times, len(times), len(times), frames_corrupt=0, seconds=0.0)


def _misbehave(markers: dict[str, str]) -> None:
    if "broken" in markers:
        FakeEngine.broken = True
        raise RuntimeError("asked for by the prompt; no other engine will start")
    if "exit" in markers or _first_time(markers.get("exit-once")):
        os._exit(13)
    if "raise" in markers or _first_time(markers.get("raise-once")):
        raise RuntimeError("asked for by the prompt")


def _first_time(memory: str | None) -> bool:
    if memory is None or Path(memory).exists():
        return False
    Path(memory).touch()
    return True


def _complete(active: _Active, seconds: float) -> Completion:
    request = active.request
    until = active.markers.get("retryable-until")
    if until is not None and not Path(until).exists():
        return Completion(request.id, error=FakeRetryableError("asked for by the prompt", "ask for something else"))
    if "error" in active.markers:
        return Completion(request.id, error=RequestError("asked for by the prompt", "ask for something else"))
    answers = tuple(_answer(request, prompt, active.checksum) for prompt in request.prompts)
    times = StageTimes(encode_s=0.5 * seconds, prefill_s=0.3 * seconds, decode_s=0.2 * seconds)
    return Completion(request.id, answers, _tokens(request), times)


def _answer(request: Request, prompt: str, checksum: int) -> Answer:
    digest = hashlib.sha256(f"{request.id}\0{prompt}\0{checksum}".encode()).digest()
    limit = request.max_new_tokens or 8
    ids = tuple(digest[: min(limit, 8)])
    text = " ".join(WORDS[i % len(WORDS)] for i in ids) + f" #{checksum:08x}"
    return Answer(text, ids, "length" if limit <= 8 else "stop", prompt_tokens=len(prompt.split()))


def _tokens(request: Request) -> TokenCounts:
    if request.video is None:
        return TokenCounts(by_layer=(0, 0))
    frames, height, width, _ = request.video.shape
    patches = frames * (height // PATCH_PX) * (width // PATCH_PX)
    visual, merged = patches // 4, patches // 8
    return TokenCounts(patches, visual, merged, (merged, merged // 2, 0))
