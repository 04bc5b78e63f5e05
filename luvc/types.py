"""What goes into an engine and what comes out: plain frozen data.

Any engine (ours, the fake one, vLLM) takes `Request`s and returns `Completion`s, in any order; the id
travels with the request, so an answer can never be attached to another video.
Knows nothing of torch: `video` is a NumPy array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from luvc.errors import LuvcError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """A clip's visual tokens behind encoder and merging, as NumPy arrays: what travels between processes.

    Attributes:
        features: uint8 `[tokens, dim * bytes of a value]`, rows of values of `dtype` (NumPy has no bfloat16).
        dtype: the model's type by torch's name: bfloat16, float16 or float32.
        row, column: float32 `[tokens]`, mean position of each token in its frame's original grid.
        time: float32 `[tokens]`, mean frame of each token; None where frames were not merged.
        frames_shape: shape of the frames it was made of, `(frames, height, width, 3)`: its token counts follow.
    """

    features: Any
    dtype: str
    row: Any
    column: Any
    time: Any | None
    frames_shape: tuple[int, ...]


@dataclass(frozen=True)
class Clip:
    """A video, or a still image (one frame).

    Attributes:
        frames: uint8 `[frames, height, width, 3]`, RGB; None where the clip comes encoded.
        timestamps_s: time of each frame in seconds, `[frames]`; None when unknown.
        image: true when the one frame is a still (some families word the prompt differently).
        encoded: what an encoder elsewhere made of the frames (`luvc.encoder`).
    """

    frames: Any
    timestamps_s: Sequence[float] | None = None
    image: bool = False
    encoded: EncodedClip | None = None

    @property
    def frame_interval_s(self) -> float | None:
        """Mean time between two frames; None when unknown."""
        times = self.timestamps_s
        if times is None or len(times) < 2:
            return None
        return (times[-1] - times[0]) / (len(times) - 1) or None


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; above 0 tokens are drawn.
        top_p: only the smallest set of likeliest tokens with this much probability is drawn from.
        seed: with the request's id, the prompt and the step it decides every draw.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One video (or image, or several of both, or none) with one or more prompts.

    Attributes:
        id: chosen by the caller, returned on the completion.
        prompts: user texts, one answer each; all share one encoding of the clips.
        video, timestamps_s, image: the one clip, see `Clip`; None for text-only prompts.
        max_new_tokens: overrides the engine's generation setting for this request.
        clips: several clips, shown before the text in this order (behind `video`, if that is given too).
        sampling: greedy unless it says otherwise.
        scored_tokens: for each prompt, token ids whose log probability as first token of the answer is wanted
            (`Answer.scored_logprobs`): how sure a choice was. () for none.
    """

    id: str
    prompts: Sequence[str]
    video: Any | None = None
    timestamps_s: Sequence[float] | None = None
    image: bool = False
    max_new_tokens: int | None = None
    clips: Sequence[Clip] = ()
    sampling: Sampling = Sampling()
    scored_tokens: Sequence[Sequence[int]] = ()

    @property
    def media(self) -> tuple[Clip, ...]:
        """All clips of the request."""
        if self.video is None:
            return tuple(self.clips)
        return (Clip(self.video, self.timestamps_s, self.image), *self.clips)


@dataclass(frozen=True)
class TwinRequest(Request):
    """A request to be answered by a twin of the engine (`luvc.twins`), to compare with.

    Attributes:
        compressed: as the engine itself would, or without compression.
    """

    compressed: bool = False


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one request before and after each compression step.

    Attributes:
        patches: patch tokens that entered the vision encoder (all frames).
        visual: visual tokens the language model would get without compression.
        merged: visual tokens that come out of the encoder, after merging and before pruning.
        by_layer: visual tokens alive in each decoder layer; the mean over layers is the honest
            measure of what the language model worked on.
    """

    patches: int = 0
    visual: int = 0
    merged: int = 0
    by_layer: tuple[int, ...] = ()

    @property
    def mean_by_layer(self) -> float:
        """Mean visual tokens per decoder layer."""
        return sum(self.by_layer) / len(self.by_layer) if self.by_layer else float(self.merged)


@dataclass(frozen=True)
class Answer:
    """The answer to one prompt.

    Attributes:
        text: decoded text without special tokens.
        token_ids: generated ids, the end-of-text id not included.
        finish_reason: "stop" (the model ended) or "length" (max_new_tokens reached).
        prompt_tokens: text and special tokens of the prompt, visual tokens not counted.
        scored_logprobs: natural logarithms, in the order of the prompt's `Request.scored_tokens`; of the model's own
            distribution, whatever `Sampling` says.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    scored_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class StageTimes:
    """Seconds of engine time attributed to one request.

    A batch serves many requests at once; its time is shared out by tokens, so the sum over all
    requests equals the busy time of the engine.
    """

    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Completion:
    """Outcome of one `Request`: answers in the order of its prompts, or an error; from an encoder its clips."""

    id: str
    answers: tuple[Answer, ...] = ()
    tokens: TokenCounts = field(default_factory=TokenCounts)
    times: StageTimes = field(default_factory=StageTimes)
    error: LuvcError | None = None
    encoded: tuple[EncodedClip, ...] = ()


class EngineProtocol(Protocol):
    """What the pipeline needs of an engine. Not thread-safe: one thread drives it."""

    def has_room(self) -> bool:
        """True while another request may be submitted."""

    def submit(self, request: Request) -> None:
        """Queue one request. A bad request never raises: it becomes a completion with `error`."""

    def has_work(self) -> bool:
        """True while any submitted request is unfinished."""

    def step(self) -> list[Completion]:
        """Advance the work by one scheduling step; return the requests that finished in it."""


@dataclass(frozen=True)
class EngineLoad:
    """What an engine held after its last step.

    Attributes:
        running, waiting: prompts being answered, and prompts not prefilled yet.
        prefill_tokens: tokens of the packed prefill of that step; 0 without one.
        prefill_limit_tokens: its budget.
        kv_bytes, kv_limit_bytes: KV cache that is allocated, and its budget.
        peak_bytes: highest memory so far, of the GPU or (resident) of the process.
    """

    running: int = 0
    waiting: int = 0
    prefill_tokens: int = 0
    prefill_limit_tokens: int = 1
    kv_bytes: int = 0
    kv_limit_bytes: int = 0
    peak_bytes: int = 0


@runtime_checkable
class TellsLoad(Protocol):
    """An engine that can be watched."""

    def load(self) -> EngineLoad:
        """State after the last step; cheap, never asks the device."""


@runtime_checkable
class TellsFacts(Protocol):
    """An engine that can say what it computes with."""

    def facts(self) -> dict[str, str]:
        """`attention` back end, `dtype` and `device`."""


def drive(engine: EngineProtocol, requests: Iterable[Request]) -> Iterator[Completion]:
    """Run `requests` through `engine`, pulling from the iterable as room allows.

    Yields completions as they finish, in any order. A stream of any length runs in bounded memory.
    """
    source = iter(requests)
    exhausted = False
    while True:
        while not exhausted and engine.has_room():
            try:
                engine.submit(next(source))
            except StopIteration:
                exhausted = True
        if not engine.has_work():
            if exhausted:
                return
            continue
        yield from engine.step()
