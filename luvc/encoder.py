"""The vision encoder by itself: clips in, visual tokens out, for engines in other processes.

`Encoder` follows the same protocol as the engine (`luvc.types.EngineProtocol`), so whatever drives one drives the
other; its completions carry `encoded` clips instead of answers. Planning a clip and encoding within memory are what
both share. Knows nothing of prompts or of how encodings travel.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luvc import attention
from luvc.backends import choose
from luvc.compression import Compression
from luvc.errors import LuvcError, RequestError
from luvc.failures import as_request_error, is_out_of_memory, without_frames
from luvc.families import FAMILIES
from luvc.families.base import ClipPlan, Encoded, Runtime
from luvc.memory import keep_freed_pages, on_device, peak_bytes
from luvc.preprocess import to_tensor, writable
from luvc.scheduling import Schedule, schedule
from luvc.shapes import ModelShape
from luvc.types import Clip, Completion, EncodedClip, EngineLoad, Request, StageTimes
from luvc.work import Budgets


def plan_clip(shape: ModelShape, compression: Compression, request_id: str, clip: Clip) -> ClipPlan:
    """What is known about a clip before it is encoded, or of one that came encoded.

    Raises:
        RequestError: no frames of uint8 `[frames, height, width, 3]`, or an encoding that this model or this
            compression does not make.
    """
    encoded = clip.encoded
    count, height, width = (to_tensor(clip.frames, request_id).shape if encoded is None else encoded.frames_shape)[:3]
    if clip.image and count != 1:
        raise RequestError(f"request {request_id!r}: an image has one frame, not {count}")
    family = FAMILIES[shape.family]
    if not family.fits(shape, height, width):
        height, width = family.frame_size(shape, height, width, count)
    plan = schedule(shape, family.grid(shape, count, height, width), compression)
    if encoded is not None:
        tokens, row_bytes = encoded.features.shape
        got = (tokens, row_bytes // _dtype(encoded).itemsize)
        wanted = (plan.merged_tokens, shape.text.width)
        if got != wanted:
            raise RequestError(
                f"request {request_id!r}: its encoding is {list(got)} (tokens, dimensions), not {list(wanted)}",
                "encoder and engine need the same model and compression",
            )
    return ClipPlan(plan, clip.image, clip.frame_interval_s)


class Passes:
    """Encodes clips in passes that fit into memory.

    Args:
        runtime: the loaded model.
        limit_tokens: encoder tokens of one pass; out of memory halves it, for good.
    """

    def __init__(self, runtime: Runtime, limit_tokens: int) -> None:
        self._runtime = runtime
        self.limit_tokens = limit_tokens

    def encode(self, frames: list[Tensor], plans: Sequence[Schedule]) -> list[Encoded]:
        """uint8 clips `[frames, height, width, 3]` on the device -> their visual tokens."""
        while True:
            try:
                return self._runtime.encode(frames, plans, self.limit_tokens)
            except Exception as error:
                one_frame = max(max(plan.encoder_tokens) // plan.grid.frames for plan in plans)
                if not is_out_of_memory(error) or self.limit_tokens <= one_frame:
                    raise
                self.limit_tokens = max(one_frame, self.limit_tokens // 2)


@dataclass(frozen=True)
class _Task:
    request: Request
    plans: tuple[Schedule, ...]

    @property
    def tokens(self) -> int:
        """Encoder tokens of the widest block: what a pass is bounded by."""
        return sum(max(plan.encoder_tokens) for plan in self.plans)

    @property
    def work(self) -> int:
        """Encoder tokens of all blocks: what time is shared out by."""
        return sum(sum(plan.encoder_tokens) for plan in self.plans)


class Encoder:
    """Encodes the clips of many requests together. Not thread-safe.

    Args:
        runtime: the loaded model; its language model is not used.
        compression: what is compressed; the engine that takes the encodings needs the same.
        encode_tokens: encoder tokens of one pass; 0: what suits the device.
        backend: attention back end, a name of `luvc.backends.BACKENDS` or "auto".
    """

    def __init__(
        self, runtime: Runtime, compression: Compression, encode_tokens: int = 0, backend: str = "auto"
    ) -> None:
        runtime.check(compression)
        self.runtime, self.compression = runtime, compression
        weight = next(runtime.tower.parameters())
        self.device = weight.device
        self.backend = choose(backend, weight.device, weight.dtype)
        if self.device.type == "cpu":
            keep_freed_pages()
        self._passes = Passes(runtime, Budgets(encode_tokens=encode_tokens).on(self.device).encode_tokens)
        self._waiting: deque[_Task] = deque()
        self._finished: list[Completion] = []

    def has_room(self) -> bool:
        """True while fewer encoder tokens wait than two full passes take."""
        return sum(task.tokens for task in self._waiting) < 2 * self._passes.limit_tokens

    def has_work(self) -> bool:
        return bool(self._waiting or self._finished)

    def load(self) -> EngineLoad:
        """What waits, and the highest memory so far; it has no KV cache and fills no prefill."""
        return EngineLoad(waiting=len(self._waiting), peak_bytes=peak_bytes(self.device))

    def submit(self, request: Request) -> None:
        """Queue a request. A bad one becomes a completion with `error`."""
        try:
            plans = [plan_clip(self.runtime.shape, self.compression, request.id, clip) for clip in request.media]
        except LuvcError as error:
            self._finished.append(Completion(request.id, error=error))
            return
        self._waiting.append(_Task(request, tuple(plan.schedule for plan in plans)))

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Encode as many requests as fill a pass, at least one; returns those that finished."""
        taken: list[_Task] = []
        while self._waiting and (
            not taken or sum(task.tokens for task in (*taken, self._waiting[0])) <= self._passes.limit_tokens
        ):
            taken.append(self._waiting.popleft())
        with attention.computed_by(self.backend):
            self._encode_safely(taken)
        finished, self._finished = self._finished, []
        return finished

    def _encode_safely(self, tasks: list[_Task]) -> None:
        """Encode; on failure try smaller batches, so that only the culprit pays."""
        if not tasks:
            return
        try:
            self._finished.extend(self._encode(tasks))
            return
        except Exception as error:  # noqa: BLE001 - any failure must be pinned on one request
            cause = without_frames(error)
        if len(tasks) == 1:
            request_id = tasks[0].request.id
            self._finished.append(Completion(request_id, error=as_request_error(cause, request_id)))
            return
        middle = len(tasks) // 2
        self._encode_safely(tasks[:middle])
        self._encode_safely(tasks[middle:])

    def _encode(self, tasks: list[_Task]) -> list[Completion]:
        started = time.perf_counter()
        clips = [(task.request.id, clip, plan) for task in tasks for clip, plan in _pairs(task) if clip.encoded is None]
        frames = [on_device(to_tensor(clip.frames, request_id), self.device) for request_id, clip, _ in clips]
        encoded = iter(self._passes.encode(frames, [plan for _, _, plan in clips]) if clips else [])
        # Copying to the host waits for the device, so the time is that of the work.
        made = [tuple(clip.encoded or to_host(next(encoded), clip) for clip in task.request.media) for task in tasks]
        seconds, total = time.perf_counter() - started, max(1, sum(task.work for task in tasks))
        return [
            Completion(task.request.id, times=StageTimes(encode_s=seconds * task.work / total), encoded=clips_of)
            for task, clips_of in zip(tasks, made, strict=True)
        ]


def _pairs(task: _Task) -> list[tuple[Clip, Schedule]]:
    return list(zip(task.request.media, task.plans, strict=True))


def to_host(encoded: Encoded, clip: Clip) -> EncodedClip:
    """An encoding as plain arrays; `clip` is what it was made of."""
    features = encoded.features.contiguous().cpu()
    row, column = (place.float().cpu().numpy() for place in (encoded.row, encoded.column))
    time_of = None if encoded.time is None else encoded.time.float().cpu().numpy()
    # NumPy has no bfloat16: the rows' bytes.
    rows = features.view(torch.uint8).numpy()
    shape = tuple(int(side) for side in clip.frames.shape)
    return EncodedClip(rows, str(features.dtype).removeprefix("torch."), row, column, time_of, shape)


def to_device(encoded: EncodedClip, device: torch.device) -> Encoded:
    """Plain arrays as an encoding on `device`."""
    row, column = (on_device(torch.from_numpy(writable(place)), device) for place in (encoded.row, encoded.column))
    time_of = None if encoded.time is None else on_device(torch.from_numpy(writable(encoded.time)), device)
    return Encoded(on_device(_features(encoded), device), row, column, time_of)


def _features(encoded: EncodedClip) -> Tensor:
    """`[tokens, dim]` in the encoder's type."""
    return torch.from_numpy(writable(encoded.features)).view(_dtype(encoded))


def _dtype(encoded: EncodedClip) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, encoded.dtype)
    return dtype
