"""What the engine works on: its limits, a request on its way, and one prompt of it in a slot of the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch

from luvc.families.base import ClipPlan, Encoded, Prompt, PromptLayout
from luvc.packing import Shared, shared_tokens
from luvc.scheduling import Schedule
from luvc.types import Answer, Clip, Request, StageTimes


@dataclass(frozen=True)
class Budgets:
    """Limits of one engine.

    Attributes:
        prefill_tokens: tokens (after merging, text included) of one packed prefill; 0: what suits the device.
        encode_tokens: encoder tokens of one pass of the vision encoder; 0: what suits the device.
        kv_bytes: KV cache of all running sequences.
        max_new_tokens: generated tokens of an answer unless the request says otherwise.
    """

    prefill_tokens: int = 0
    encode_tokens: int = 0
    kv_bytes: int = 2 << 30
    max_new_tokens: int = 64

    def on(self, device: torch.device) -> Budgets:
        """The same with numbers for every 0.

        A GPU needs large products to be busy; on a CPU they are as fast at 1,000 rows, and activations that
        stay in its caches are faster (benchmarks/notes.md).
        """
        prefill, encode = (32768, 65536) if device.type == "cuda" else (2048, 4096)
        return replace(self, prefill_tokens=self.prefill_tokens or prefill, encode_tokens=self.encode_tokens or encode)


@dataclass
class Job:
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
    def raw(self) -> list[tuple[Clip, Schedule]]:
        """Clips that do not come encoded."""
        pairs = zip(self.request.media, self.plans, strict=True)
        return [(clip, plan) for clip, plan in pairs if clip.encoded is None]

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
class Slot:
    """One prompt of a job: waiting, then in cache slot `index in running`."""

    job: Job
    prompt: int
    ids: list[int] = field(default_factory=list)
    position: int = 0
    scored_logprobs: tuple[float, ...] = ()

    @property
    def scored_tokens(self) -> Sequence[int]:
        wanted = self.job.request.scored_tokens
        return wanted[self.prompt] if wanted else ()

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


def shared_prefixes(sequences: Sequence[Slot]) -> list[Shared | None]:
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


def packed_tokens(sequences: Iterable[Slot]) -> int:
    """Tokens of a prefill of these sequences: a prefix that several share is computed once."""
    sequences = list(sequences)
    shared = sum(prefix.tokens for prefix in shared_prefixes(sequences) if prefix)
    return sum(sequence.prefill_tokens for sequence in sequences) - shared


def fitting(waiting: Sequence[Slot], limit: int) -> int:
    """How many of the first waiting sequences a prefill of `limit` tokens takes; at least one.

    Prompts about one clip come together if a prefill can hold them: those that are left for the next one would
    compute the clip's prefix again. Only a job that is too large for a prefill of its own is divided.
    """
    taken, tokens, laid_out = 0, 0, 0
    for _, group in groupby(waiting, key=lambda sequence: id(sequence.job)):
        prompts = list(group)
        while True:
            own, repeated = packed_tokens(prompts), sum(prompt.prefill_tokens for prompt in prompts)
            # Embeddings are laid out with repeats before these are left out: that copy is bounded, too.
            if tokens + own <= limit and laid_out + repeated <= 4 * limit:
                break
            if taken or len(prompts) == 1:
                return max(1, taken)
            prompts.pop()
        taken, tokens, laid_out = taken + len(prompts), tokens + own, laid_out + repeated
        if taken < len(waiting) and waiting[taken].job is prompts[0].job:
            break
    return taken


def unique(jobs: Iterable[Job]) -> list[Job]:
    """Each job once, in order (jobs are mutable, so identity decides)."""
    return list({id(job): job for job in jobs}.values())
