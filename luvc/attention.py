"""The attention seam: the one function through which every layer of every model attends.

It is registered with transformers' attention interface under the name "luvc". What it computes is decided
by the `Plan` in force: packed prefill (sequences end to end), decode against the KV cache, or plain batched
attention inside the encoder. Without a plan it is transformers' own SDPA attention, so a model that was
handed to the engine still works on its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "luvc"  # under which transformers knows the seam
BACKENDS = ("sdpa",)


@dataclass(frozen=True)
class Packed:
    """Attention inside each of several sequences that lie end to end.

    Attributes:
        lengths: tokens of each sequence, host integers.
        causal: a token sees those before it only.
        bias: `[tokens]` added to the scores of each key (not with `causal`).
        prefixes: for each sequence, packed start and number of further tokens that all of its own see before
            themselves (with `causal`); () or (x, 0): none.
    """

    lengths: tuple[int, ...]
    causal: bool = True
    bias: Tensor | None = None
    prefixes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Decode:
    """One new token a sequence against its cache.

    `mask`: bool `[batch, 1, 1, length]`, true where a key is alive; None when all are.
    """

    mask: Tensor | None


@dataclass(frozen=True)
class Frames:
    """Full attention inside each row of the batch (frames of equal token count).

    `bias`: `[batch, tokens]` added to the scores of each key.
    """

    bias: Tensor | None = None


Plan = Packed | Decode | Frames

_state = threading.local()


@contextlib.contextmanager
def using(plan: Plan) -> Iterator[None]:
    """Put `plan` in force for the layers called inside the block (this thread only)."""
    previous = getattr(_state, "plan", None)
    _state.plan = plan
    try:
        yield
    finally:
        _state.plan = previous


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in transformers' calling convention.

    Args:
        query: `[batch, heads, queries, head_dim]`; key, value: `[batch, kv_heads, keys, head_dim]`.

    Returns:
        `[batch, queries, heads, head_dim]` and None (weights are never materialised).
    """
    plan: Plan | None = getattr(_state, "plan", None)
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if isinstance(plan, Packed):
        out = packed(query, key, value, plan, scaling)
    elif isinstance(plan, Decode):
        out = decode(query, key, value, plan.mask, scaling)
    else:
        bias = None if plan.bias is None else plan.bias[:, None, None].to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def packed(query: Tensor, key: Tensor, value: Tensor, plan: Packed, scaling: float | None) -> Tensor:
    """Attention over packed sequences, `[1, heads, sum(lengths), head_dim]` in and out.

    Neighbours of equal length (the windows of an encoder, above all) go through one batched call.
    """
    lengths = plan.lengths
    prefixes = plan.prefixes or ((0, 0),) * len(lengths)
    out = torch.empty_like(query)
    start, index = 0, 0
    while index < len(lengths):
        length, run = lengths[index], 1
        if prefixes[index][1]:
            stop = start + length
            out[:, :, start:stop] = _behind_prefix(query, key, value, (start, stop), prefixes[index], scaling)
            start, index = stop, index + 1
            continue
        while index + run < len(lengths) and lengths[index + run] == length and not prefixes[index + run][1]:
            run += 1
        stop = start + run * length
        q, k, v = (part[0, :, start:stop].unflatten(1, (run, length)).transpose(0, 1) for part in (query, key, value))
        bias = None if plan.bias is None else plan.bias[start:stop].view(run, 1, 1, length).to(q.dtype)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=plan.causal, scale=scaling, enable_gqa=True
        )
        out[0, :, start:stop] = attended.transpose(0, 1).flatten(1, 2)
        start, index = stop, index + run
    return out


def _behind_prefix(
    query: Tensor, key: Tensor, value: Tensor, own: tuple[int, int], prefix: tuple[int, int], scaling: float | None
) -> Tensor:
    """Causal attention of the tokens `own` (packed start and stop) behind a prefix (packed start and length)."""
    (start, stop), (first, tokens) = own, prefix
    k, v = (torch.cat((part[:, :, first : first + tokens], part[:, :, start:stop]), 2) for part in (key, value))
    mask = torch.ones(stop - start, k.shape[2], dtype=torch.bool, device=query.device).tril(tokens)
    q = query[:, :, start:stop]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True)


def decode(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """One query token a sequence, `[batch, heads, 1, head_dim]` in and out.

    The query heads that share a KV head become rows of one small matrix, so keys are never repeated.
    """
    batch, heads, _, head_dim = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], head_dim)
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, heads, 1, head_dim)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
