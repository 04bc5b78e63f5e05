"""The engine: continuous batching of video prompts over one loaded model.

Requests wait in a queue; each step encodes and prefills as many prompts as the token and KV-cache budgets
allow (all counts known beforehand from `luvc.scheduling`), then advances every running sequence by one
token. Finished sequences leave, new ones enter. A request that fails costs only itself.
Knows nothing of files, decoders or Ray; families know how their models are built.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from luvc.compression import Compression
from luvc.errors import LuvcError, OutOfMemory, PromptTooLong, RequestError
from luvc.families import FAMILIES
from luvc.families.base import ClipPlan, Encoded, Prompt, PromptLayout, Runtime
from luvc.kv_cache import GRANULE, KVCache
from luvc.packing import Shared, shared_tokens
from luvc.preprocess import to_tensor
from luvc.scheduling import Schedule, schedule
from luvc.types import Answer, Clip, Completion, Request, StageTimes, TokenCounts, drive


class EngineFailure(RequestError):
    """The engine failed in a way that no request is known to have caused; trying again can help."""

    retryable = True


@dataclass(frozen=True)
class Budgets:
    """Limits of one engine.

    Attributes:
        prefill_tokens: tokens (after merging, text included) of one packed prefill.
        encode_tokens: encoder tokens of one pass of the vision encoder.
        kv_bytes: KV cache of all running sequences.
        max_new_tokens: generated tokens of an answer unless the request says otherwise.
    """

    prefill_tokens: int = 8192
    encode_tokens: int = 8192
    kv_bytes: int = 2 << 30
    max_new_tokens: int = 64


@dataclass
class _Job:
    """One request on its way."""

    request: Request
    clips: tuple[ClipPlan, ...]
    layouts: list[PromptLayout]
    max_new_tokens: int
    encoded: tuple[Encoded, ...] = ()
    waiting: int = 0  # prompts not prefilled yet; the encoding is dropped at zero
    answers: dict[int, Answer] = field(default_factory=dict)
    times: StageTimes = field(default_factory=StageTimes)

    @property
    def plans(self) -> list[Schedule]:
        return [clip.schedule for clip in self.clips]

    @property
    def merged_tokens(self) -> int:
        return sum(plan.merged_tokens for plan in self.plans)

    def layer_tokens(self, layers: int) -> tuple[int, ...]:
        """Visual tokens of all clips alive in each decoder layer."""
        return tuple(sum(plan.layer_tokens[layer] for plan in self.plans) for layer in range(layers))

    def prompt(self, index: int) -> Prompt:
        return Prompt(self.layouts[index], self.clips, self.encoded)

    def spent(self, **seconds: float) -> None:
        changed = {name: getattr(self.times, name) + value for name, value in seconds.items()}
        self.times = replace(self.times, **changed)


@dataclass
class _Sequence:
    """One prompt of a job: waiting, then in cache slot `index in running`."""

    job: _Job
    prompt: int
    ids: list[int] = field(default_factory=list)
    position: int = 0

    @property
    def layout(self) -> PromptLayout:
        return self.job.layouts[self.prompt]

    @property
    def prefill_tokens(self) -> int:
        return self.layout.text_tokens + self.job.merged_tokens

    def capacity(self, layers: int) -> list[int]:
        """KV entries of each layer at the end of the answer."""
        beside = self.layout.text_tokens + self.job.max_new_tokens
        return [visual + beside for visual in self.job.layer_tokens(layers)]


class Engine:
    """Answers prompts about videos with one model. Not thread-safe.

    Args:
        runtime: the loaded model.
        compression: what is compressed; see `luvc.Compression`.
        budgets: limits of batches and memory.
        eos_ids: token ids that end an answer.
    """

    def __init__(self, runtime: Runtime, compression: Compression, budgets: Budgets, eos_ids: Sequence[int]) -> None:
        runtime.check(compression)
        self.runtime, self.compression, self.budgets = runtime, compression, budgets
        self.eos_ids = frozenset(eos_ids)
        weight = runtime.decoder.head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.model_config = runtime.shape
        self.cache = KVCache(runtime.shape.text, weight.dtype, weight.device)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._finished: list[Completion] = []
        self._prefill_limit = budgets.prefill_tokens

    # The protocol the pipeline drives (luvc.types.EngineProtocol) --------------------------------

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Answer a stream of requests; completions come as they finish, in any order."""
        return drive(self, requests)

    def has_room(self) -> bool:
        """True while fewer tokens wait than two full prefills take."""
        return sum(sequence.prefill_tokens for sequence in self._waiting) < 2 * self._prefill_limit

    def has_work(self) -> bool:
        return bool(self._waiting or self._running or self._finished)

    def submit(self, request: Request) -> None:
        """Queue a request. A bad one becomes a completion with `error`."""
        try:
            job = self._plan(request)
        except LuvcError as error:
            self._finished.append(Completion(request.id, error=error))
            return
        job.waiting = len(job.layouts)
        self._waiting.extend(_Sequence(job, index) for index in range(len(job.layouts)))

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Prefill what fits, then one decode step; returns the requests that finished."""
        admitted = self._admit()
        if admitted:
            self._prefill_safely(admitted)
        if self._running:
            self._decode_safely()
        finished, self._finished = self._finished, []
        return finished

    # Planning ------------------------------------------------------------------------------------

    def _plan(self, request: Request) -> _Job:
        if not request.prompts:
            raise RequestError(f"request {request.id!r} has no prompt")
        clips = tuple(self._plan_clip(request.id, clip) for clip in request.media)
        layouts = [self.runtime.layout(prompt, clips) for prompt in request.prompts]
        limit = self.budgets.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        if limit < 1:
            raise RequestError(f"request {request.id!r}: max_new_tokens is {limit}", "at least 1")
        job = _Job(request, clips, layouts, limit)
        for index, layout in enumerate(layouts):
            needed = self.runtime.next_position(job.prompt(index)) + limit
            if needed > self.model_config.text.max_positions:
                visual = sum(plan.grid.units for plan in job.plans)
                raise PromptTooLong(
                    f"request {request.id!r} needs {needed} positions ({layout.text_tokens} text, "
                    f"{visual} visual, {limit} new); the model has {self.model_config.text.max_positions}",
                    "fewer frames, a shorter prompt or fewer new tokens",
                )
        return job

    def _plan_clip(self, request_id: str, clip: Clip) -> ClipPlan:
        count, height, width = to_tensor(clip.frames, request_id).shape[:3]
        if clip.image and count != 1:
            raise RequestError(f"request {request_id!r}: an image has one frame, not {count}")
        family = FAMILIES[self.model_config.family]
        if not family.fits(self.model_config, height, width):
            height, width = family.frame_size(self.model_config, height, width, count)
        grid = family.grid(self.model_config, count, height, width)
        plan = schedule(self.model_config, grid, self.compression)
        return ClipPlan(plan, clip.image, clip.frame_interval_s)

    def _admit(self) -> list[_Sequence]:
        """Waiting sequences that fit the budgets now, first come first served; one always fits alone."""
        admitted: list[_Sequence] = []
        tokens = 0
        capacity = self.cache.capacity if self._running else [0] * self.model_config.text.layers
        for sequence in self._waiting:
            rounded = [-(-length // GRANULE) * GRANULE for length in sequence.capacity(self.model_config.text.layers)]
            merged = [max(pair) for pair in zip(capacity, rounded, strict=True)]
            slots = len(self._running) + len(admitted) + 1
            alone = not self._running and not admitted
            too_many = tokens + sequence.prefill_tokens > self._prefill_limit and bool(admitted)
            if too_many or (slots * sum(merged) * self._kv_entry_bytes() > self.budgets.kv_bytes and not alone):
                break
            capacity, tokens = merged, tokens + sequence.prefill_tokens
            admitted.append(sequence)
        for _ in admitted:
            self._waiting.popleft()
        return admitted

    def _kv_entry_bytes(self) -> int:
        text = self.model_config.text
        return 2 * text.kv_heads * text.head_dim * self.dtype.itemsize

    # Work ----------------------------------------------------------------------------------------

    def _prefill_safely(self, admitted: list[_Sequence]) -> None:
        """Prefill; on failure try smaller batches, so that only the culprit pays."""
        before = self.cache.active
        try:
            self._prefill(admitted)
            return
        except Exception as error:  # noqa: BLE001 - any failure must be pinned on one request
            self.cache.truncate(before)
            cause = error
        if len(admitted) == 1:
            self._fail(admitted[0].job, _as_request_error(cause, admitted[0].job.request.id))
            return
        if _is_out_of_memory(cause):
            # Remember the ceiling: later batches stay below it.
            self._prefill_limit = max(1, sum(sequence.prefill_tokens for sequence in admitted) // 2)
        middle = len(admitted) // 2
        for part in (admitted[:middle], admitted[middle:]):
            alive = [sequence for sequence in part if sequence.job.waiting > 0]
            if alive:
                self._prefill_safely(alive)

    def _prefill(self, admitted: list[_Sequence]) -> None:
        self._encode([sequence.job for sequence in admitted])
        started = self._clock()
        prompts = [sequence.job.prompt(sequence.prompt) for sequence in admitted]
        packed = self.runtime.pack(prompts)
        planned = sum(sequence.prefill_tokens for sequence in admitted)
        if packed.hidden.shape[1] != planned:
            raise RuntimeError(f"planned {planned} tokens, packed {packed.hidden.shape[1]}")
        capacity = [
            max(lengths)
            for lengths in zip(
                *(sequence.capacity(self.model_config.text.layers) for sequence in admitted), strict=True
            )
        ]
        packed = packed.without_repeats(_shared(admitted))
        self.cache.reserve(len(admitted), capacity)
        logits = self.runtime.decoder.prefill(packed, self.cache, self.compression.prune)
        tokens = self._sample(logits)
        seconds = self._clock() - started
        for sequence, prompt in zip(admitted, prompts, strict=True):
            sequence.job.spent(prefill_s=seconds * sequence.prefill_tokens / planned)
            sequence.position = self.runtime.next_position(prompt)
            sequence.job.waiting -= 1
            if sequence.job.waiting == 0:
                sequence.job.encoded = ()
        self._running.extend(admitted)
        self._append(admitted, tokens)

    def _encode(self, jobs: list[_Job]) -> None:
        """Encode each clip once, however many prompts it has."""
        fresh = [job for job in _unique(jobs) if job.clips and not job.encoded]
        if not fresh:
            return
        started = self._clock()
        frames = [to_tensor(clip.frames, job.request.id).to(self.device) for job in fresh for clip in job.request.media]
        plans = [plan for job in fresh for plan in job.plans]
        encoded = iter(self.runtime.encode(frames, plans, self.budgets.encode_tokens))
        seconds = self._clock() - started
        total = sum(sum(plan.encoder_tokens) for plan in plans)
        for job in fresh:
            job.encoded = tuple(next(encoded) for _ in job.clips)
            job.spent(encode_s=seconds * sum(sum(plan.encoder_tokens) for plan in job.plans) / total)

    def _decode_safely(self) -> None:
        try:
            started = self._clock()
            ids = torch.tensor([sequence.ids[-1] for sequence in self._running], device=self.device)
            positions = self.runtime.decode_positions([sequence.position for sequence in self._running])
            tokens = self._sample(self.runtime.decoder.decode(ids, positions, self.cache))
            seconds = (self._clock() - started) / len(self._running)
        except Exception as error:  # noqa: BLE001 - the step's sequences become failures, the engine goes on
            for job in _unique([sequence.job for sequence in self._running]):
                self._fail(job, EngineFailure(f"decode step failed: {type(error).__name__}: {error}"))
            return
        for sequence in self._running:
            sequence.job.spent(decode_s=seconds)
            sequence.position += 1
        self._append(list(self._running), tokens)

    def _append(self, sequences: list[_Sequence], tokens: list[int]) -> None:
        """Give each sequence its new token and retire those that end."""
        for sequence, token in zip(sequences, tokens, strict=True):
            ended = token in self.eos_ids
            if not ended:
                sequence.ids.append(token)
            if ended or len(sequence.ids) >= sequence.job.max_new_tokens:
                self._retire(sequence, "stop" if ended else "length")

    def _retire(self, sequence: _Sequence, reason: Any) -> None:
        self._leave(sequence)
        job = sequence.job
        text = self.runtime.tokenizer.decode(sequence.ids, skip_special_tokens=True).strip()
        job.answers[sequence.prompt] = Answer(text, tuple(sequence.ids), reason, sequence.layout.text_tokens)
        if len(job.answers) == len(job.layouts):
            counts = TokenCounts(
                sum(plan.patches for plan in job.plans),
                sum(plan.visual_tokens for plan in job.plans),
                job.merged_tokens,
                job.layer_tokens(self.model_config.text.layers),
            )
            answers = tuple(job.answers[index] for index in range(len(job.layouts)))
            self._finished.append(Completion(job.request.id, answers, counts, job.times))

    def _leave(self, sequence: _Sequence) -> None:
        """Free the slot; the last running sequence takes it, here and in the cache."""
        slot = self._running.index(sequence)
        self.cache.remove(slot)
        self._running[slot] = self._running[-1]
        self._running.pop()

    def _fail(self, job: _Job, error: LuvcError) -> None:
        for sequence in [sequence for sequence in self._running if sequence.job is job]:
            self._leave(sequence)
        self._waiting = deque(sequence for sequence in self._waiting if sequence.job is not job)
        job.waiting = 0
        self._finished.append(Completion(job.request.id, times=job.times, error=error))

    def _sample(self, logits: Tensor) -> list[int]:
        return logits.argmax(dim=-1).tolist()

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _shared(sequences: Sequence[_Sequence]) -> list[Shared | None]:
    """The prefix of each sequence that an earlier one of the same job carries."""
    leaders: dict[int, int] = {}
    out: list[Shared | None] = []
    for index, sequence in enumerate(sequences):
        leader = leaders.setdefault(id(sequence.job), index)
        tokens = 0
        if leader != index:
            tokens = shared_tokens(sequences[leader].layout, sequence.layout, sequence.job.merged_tokens)
        out.append(Shared(leader, tokens) if tokens else None)
    return out


def _unique(jobs: Iterable[_Job]) -> list[_Job]:
    """Each job once, in order (jobs are mutable, so identity decides)."""
    return list({id(job): job for job in jobs}.values())


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _as_request_error(error: BaseException, request_id: str) -> LuvcError:
    if isinstance(error, LuvcError):
        return error
    if _is_out_of_memory(error):
        return OutOfMemory(f"request {request_id!r} does not fit into memory even alone", "fewer or smaller frames")
    return EngineFailure(f"request {request_id!r}: {type(error).__name__}: {error}")
