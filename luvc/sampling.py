"""The next token of each sequence: greedy, or drawn with a temperature from the likeliest tokens.

A draw depends on the seed, the request, the prompt and the step, and on nothing else: an answer is the same alone and
in any batch, and the same the next night.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from luvc.errors import RequestError
from luvc.memory import on_device
from luvc.types import Sampling


def check(sampling: Sampling, request_id: str) -> None:
    """Raise RequestError for a temperature below 0 or a top_p outside (0, 1]."""
    if not sampling.temperature >= 0:
        raise RequestError(f"request {request_id!r}: temperature is {sampling.temperature}", "0 is greedy; at least 0")
    if not 0 < sampling.top_p <= 1:
        raise RequestError(f"request {request_id!r}: top_p is {sampling.top_p}", "above 0, at most 1")


def draw(sampling: Sampling, request_id: str, prompt: int, step: int) -> float:
    """The number in [0, 1) that decides one token."""
    name = f"{sampling.seed}\0{request_id}\0{prompt}\0{step}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") / 2**64


def next_tokens(logits: Tensor, samplings: Sequence[Sampling], draws: Sequence[float]) -> Tensor:
    """Token of each sequence.

    Args:
        logits: `[sequences, vocabulary]`.
        samplings: of each sequence; all greedy is one argmax.
        draws: of each sequence, in [0, 1); ignored where it is greedy.

    Returns:
        `[sequences]` token ids. With top_p the smallest set of likeliest tokens whose probability reaches it stays.
    """
    greedy = logits.argmax(dim=-1)
    if all(sampling.temperature == 0 for sampling in samplings):
        return greedy
    device = logits.device
    temperature = on_device([sampling.temperature or 1.0 for sampling in samplings], device)[:, None]
    top_p = on_device([sampling.top_p for sampling in samplings], device)[:, None]
    probability, order = (logits.float() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = probability.cumsum(-1) - probability
    kept = probability * (before < top_p)
    reached = kept.cumsum(-1)
    target = on_device(list(draws), device, torch.float32)[:, None] * reached[:, -1:]
    place = (reached <= target).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    # Rounding may leave the target at the very end: never beyond the last token that was kept.
    place = torch.minimum(place, (kept > 0).sum(-1, keepdim=True) - 1)
    sampled = order.gather(1, place)[:, 0]
    is_greedy = on_device([sampling.temperature == 0 for sampling in samplings], device)
    return torch.where(is_greedy, greedy, sampled)


def logprobs(logits: Tensor, ids: Sequence[int]) -> tuple[float, ...]:
    """Log probabilities of some tokens.

    Args:
        logits: `[vocabulary]` of one sequence.
        ids: tokens; without any, the device is not waited for.

    Raises:
        IndexError: a token that is not in the vocabulary.
    """
    return tuple(logits.float().log_softmax(-1)[list(ids)].tolist()) if ids else ()
