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
from typing import Any

import torch
from torch import Tensor

from luvc import attention, sampling
from luvc.backends import choose
from luvc.compression import Compression
from luvc.decode_graphs import DecodeGraphs
from luvc.encoder import Passes, plan_clip, to_device
from luvc.errors import LuvcError, PromptTooLong, RequestError
from luvc.failures import EngineFailure, as_request_error, is_out_of_memory, without_frames
from luvc.families.base import ClipPlan, Encoded, Runtime
from luvc.kv_cache import KVCache
from luvc.memory import keep_freed_pages, on_device, peak_bytes
from luvc.preprocess import to_tensor
from luvc.types import Answer, Clip, Completion, EngineLoad, Request, TokenCounts, drive
from luvc.work import Budgets, Job, Slot, fitting, packed_tokens, shared_prefixes, unique


class Engine:
    """Answers prompts about videos with one model. Not thread-safe.

    Args:
        runtime: the loaded model.
        compression: what is compressed; see `luvc.Compression`.
        budgets: limits of batches and memory.
        eos_ids: token ids that end an answer.
        backend: attention back end, a name of `luvc.backends.BACKENDS` or "auto".
        decode_graphs: decode in steps of fixed shapes, captured as CUDA graphs on a GPU; None: on a GPU.
    """

    def __init__(
        self,
        runtime: Runtime,
        compression: Compression,
        budgets: Budgets,
        eos_ids: Sequence[int],
        backend: str = "auto",
        decode_graphs: bool | None = None,
    ) -> None:
        runtime.check(compression)
        self.runtime, self.compression = runtime, compression
        self.eos_ids = frozenset(eos_ids)
        weight = runtime.decoder.head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.budgets = budgets = budgets.on(self.device)
        self.backend = choose(backend, self.device, self.dtype)
        if self.device.type == "cpu":
            keep_freed_pages()
        self.model_config = runtime.shape
        # Off CUDA, steps of fixed shapes would only read more of the cache than is alive.
        fixed = self.device.type == "cuda" if decode_graphs is None else decode_graphs
        self.cache = KVCache(runtime.shape.text, weight.dtype, weight.device, static=fixed)
        self.graphs = DecodeGraphs(runtime.decoder, self.cache, self.device.type == "cuda") if fixed else None
        self._waiting: deque[Slot] = deque()
        self._running: list[Slot] = []
        self.decode_steps = 0
        self._finished: list[Completion] = []
        self._prefill_limit = budgets.prefill_tokens
        self._passes = Passes(runtime, budgets.encode_tokens)
        self._prefilled_tokens = 0

    # The protocol the pipeline drives (luvc.types.EngineProtocol) --------------------------------

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Answer a stream of requests; completions come as they finish, in any order."""
        return drive(self, requests)

    def has_room(self) -> bool:
        """True while fewer tokens wait than two full prefills take."""
        return packed_tokens(self._waiting) < 2 * self._prefill_limit

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
        self._waiting.extend(Slot(job, index) for index in range(len(job.layouts)))

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Prefill what fits, then one decode step; returns the requests that finished."""
        admitted = self._admit()
        self._prefilled_tokens = packed_tokens(admitted)
        with attention.computed_by(self.backend):
            if admitted:
                self._prefill_safely(admitted)
            if self._running:
                self._decode_safely()
        finished, self._finished = self._finished, []
        return finished

    def load(self) -> EngineLoad:
        """What is held now, and what the last step prefilled."""
        return EngineLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            prefill_tokens=self._prefilled_tokens,
            prefill_limit_tokens=self._prefill_limit,
            kv_bytes=self.cache.allocated_bytes,
            kv_limit_bytes=self.budgets.kv_bytes,
            peak_bytes=peak_bytes(self.device),
        )

    def facts(self) -> dict[str, str]:
        """What it computes with, for reports."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"attention": self.backend.name, "dtype": dtype, "device": str(self.device)}

    def kv_bytes(self, request: Request) -> int:
        """KV cache that the longest prompt of a request takes by itself.

        Raises:
            RequestError: the request cannot be answered.
        """
        layers = self.model_config.text.layers
        job = self._plan(request)
        entries = (sum(self.cache.rounded(Slot(job, index).capacity(layers))) for index in range(len(job.layouts)))
        return max(entries) * self._kv_entry_bytes()

    # Planning ------------------------------------------------------------------------------------

    def _plan(self, request: Request) -> Job:
        if not request.prompts:
            raise RequestError(f"request {request.id!r} has no prompt")
        sampling.check(request.sampling, request.id)
        if request.scored_tokens and len(request.scored_tokens) != len(request.prompts):
            raise RequestError(
                f"request {request.id!r}: scored_tokens for {len(request.scored_tokens)} prompts of "
                f"{len(request.prompts)}",
                "one list for each prompt, or none at all",
            )
        clips = tuple(self._plan_clip(request.id, clip) for clip in request.media)
        layouts = [self.runtime.layout(prompt, clips) for prompt in request.prompts]
        limit = self.budgets.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        if limit < 1:
            raise RequestError(f"request {request.id!r}: max_new_tokens is {limit}", "at least 1")
        job = Job(request, clips, layouts, limit)
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
        if clip.encoded is None and self.runtime.tower is None:
            raise RequestError(f"request {request_id!r}: this engine has no encoder", "give it encoded clips")
        return plan_clip(self.model_config, self.compression, request_id, clip)

    def _admit(self) -> list[Slot]:
        """Waiting sequences that fit the budgets now, first come first served; one always fits alone."""
        admitted: list[Slot] = []
        capacity = self.cache.capacity if self._running else [0] * self.model_config.text.layers
        if not self._waiting:
            return admitted
        waiting = list(self._waiting)
        for sequence in waiting[: fitting(waiting, self._prefill_limit)]:
            rounded = self.cache.rounded(sequence.capacity(self.model_config.text.layers))
            merged = [max(pair) for pair in zip(capacity, rounded, strict=True)]
            slots = self.cache.slots_for(len(self._running) + len(admitted) + 1)
            alone = not self._running and not admitted
            if slots * sum(merged) * self._kv_entry_bytes() > self.budgets.kv_bytes and not alone:
                break
            capacity = merged
            admitted.append(sequence)
        for _ in admitted:
            self._waiting.popleft()
        return admitted

    def _kv_entry_bytes(self) -> int:
        text = self.model_config.text
        return 2 * text.kv_heads * text.head_dim * self.dtype.itemsize

    # Work ----------------------------------------------------------------------------------------

    def _prefill_safely(self, admitted: list[Slot]) -> None:
        """Prefill; on failure try smaller batches, so that only the culprit pays."""
        before = self.cache.active
        try:
            self._prefill(admitted)
            return
        except Exception as error:  # noqa: BLE001 - any failure must be pinned on one request
            self.cache.truncate(before)
            cause = without_frames(error)
        if len(admitted) == 1:
            self._fail(admitted[0].job, as_request_error(cause, admitted[0].job.request.id))
            return
        if is_out_of_memory(cause):
            # Remember the ceiling: later batches stay below it.
            self._prefill_limit = max(1, packed_tokens(admitted) // 2)
        middle = len(admitted) // 2
        for part in (admitted[:middle], admitted[middle:]):
            alive = [sequence for sequence in part if sequence.job.waiting > 0]
            if alive:
                self._prefill_safely(alive)

    def _prefill(self, admitted: list[Slot]) -> None:
        self._encode([sequence.job for sequence in admitted])
        started = self._mark()
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
        packed = packed.without_repeats(shared_prefixes(admitted))
        self.cache.reserve(len(admitted), capacity)
        logits = self.runtime.decoder.prefill(packed, self.cache, self.compression.prune)
        tokens = self._sample(logits, admitted)
        for row, sequence in zip(logits, admitted, strict=True):
            sequence.scored_logprobs = sampling.logprobs(row, sequence.scored_tokens)
        seconds = self._elapsed(started)
        for sequence, prompt in zip(admitted, prompts, strict=True):
            sequence.job.spent(prefill_s=seconds * sequence.prefill_tokens / planned)
            sequence.position = self.runtime.next_position(prompt)
            sequence.job.waiting -= 1
            if sequence.job.waiting == 0:
                sequence.job.encoded = ()
        self._running.extend(admitted)
        self._append(admitted, tokens)

    def _encode(self, jobs: list[Job]) -> None:
        """Encode each clip once, however many prompts it has; some come encoded."""
        fresh = [job for job in unique(jobs) if job.clips and not job.encoded]
        raw = [(job, clip, plan) for job in fresh for clip, plan in job.raw]
        made: Iterator[Encoded] = iter(())
        if raw:
            started = self._mark()
            frames = [on_device(to_tensor(clip.frames, job.request.id), self.device) for job, clip, _ in raw]
            made = iter(self._passes.encode(frames, [plan for _, _, plan in raw]))
            seconds = self._elapsed(started)
            total = sum(sum(plan.encoder_tokens) for _, _, plan in raw)
            for job in fresh:
                job.spent(encode_s=seconds * sum(sum(plan.encoder_tokens) for _, plan in job.raw) / total)
        for job in fresh:
            clips = job.request.media
            job.encoded = tuple(to_device(clip.encoded, self.device) if clip.encoded else next(made) for clip in clips)

    def _decode_safely(self) -> None:
        try:
            started = self._mark()
            tokens = self._sample(self._decode(), self._running)
            seconds = self._elapsed(started) / len(self._running)
        except Exception as error:  # noqa: BLE001 - the step's sequences become failures, the engine goes on
            for job in unique([sequence.job for sequence in self._running]):
                self._fail(job, EngineFailure(f"decode step failed: {type(error).__name__}: {error}"))
            return
        for sequence in self._running:
            sequence.job.spent(decode_s=seconds)
            sequence.position += 1
        self._append(list(self._running), tokens)

    def _decode(self) -> Tensor:
        """Logits `[running, vocabulary]` of the next token of every running sequence."""
        self.decode_steps += 1
        padding = [0] * (self.graphs.bucket() - len(self._running)) if self.graphs else []
        ids = on_device([*(sequence.ids[-1] for sequence in self._running), *padding], self.device)
        positions = self.runtime.decode_positions([*(sequence.position for sequence in self._running), *padding])
        if self.graphs:
            return self.graphs.step(ids, positions)
        return self.runtime.decoder.decode(ids, positions, self.cache)

    def _append(self, sequences: list[Slot], tokens: list[int]) -> None:
        """Give each sequence its new token and retire those that end."""
        for sequence, token in zip(sequences, tokens, strict=True):
            ended = token in self.eos_ids
            if not ended:
                sequence.ids.append(token)
            if ended or len(sequence.ids) >= sequence.job.max_new_tokens:
                self._retire(sequence, "stop" if ended else "length")

    def _retire(self, sequence: Slot, reason: Any) -> None:
        self._leave(sequence)
        job = sequence.job
        text = self.runtime.tokenizer.decode(sequence.ids, skip_special_tokens=True).strip()
        job.answers[sequence.prompt] = Answer(
            text, tuple(sequence.ids), reason, sequence.layout.text_tokens, sequence.scored_logprobs
        )
        if len(job.answers) == len(job.layouts):
            counts = TokenCounts(
                sum(plan.patches for plan in job.plans),
                sum(plan.visual_tokens for plan in job.plans),
                job.merged_tokens,
                job.layer_tokens(self.model_config.text.layers),
            )
            answers = tuple(job.answers[index] for index in range(len(job.layouts)))
            self._finished.append(Completion(job.request.id, answers, counts, job.times))

    def _leave(self, sequence: Slot) -> None:
        """Free the slot; the last running sequence takes it, here and in the cache."""
        slot = self._running.index(sequence)
        self.cache.remove(slot)
        self._running[slot] = self._running[-1]
        self._running.pop()

    def _fail(self, job: Job, error: LuvcError) -> None:
        for sequence in [sequence for sequence in self._running if sequence.job is job]:
            self._leave(sequence)
        self._waiting = deque(sequence for sequence in self._waiting if sequence.job is not job)
        job.waiting = 0
        self._finished.append(Completion(job.request.id, times=job.times, error=error))

    def _sample(self, logits: Tensor, sequences: Sequence[Slot]) -> list[int]:
        requests = [sequence.job.request for sequence in sequences]
        draws = [
            sampling.draw(request.sampling, request.id, sequence.prompt, len(sequence.ids))
            if request.sampling.temperature
            else 0.0
            for sequence, request in zip(sequences, requests, strict=True)
        ]
        return sampling.next_tokens(logits, [request.sampling for request in requests], draws).tolist()

    def _mark(self) -> float:
        return time.perf_counter()

    def _elapsed(self, started: float) -> float:
        """Seconds since `started`, the device's queued work included."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started
