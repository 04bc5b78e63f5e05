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
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from luvc.backends import BACKENDS, Backend

NAME = "luvc"  # under which transformers knows the seam


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

    Attributes:
        mask: bool `[batch, 1, 1, keys]`, true where a key is alive; None when all are.
        lengths: int32 `[batch]` on the device, keys alive from the first on; instead of a mask.
    """

    mask: Tensor | None
    lengths: Tensor | None = None


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


@contextlib.contextmanager
def computed_by(backend: Backend) -> Iterator[None]:
    """Let `backend` compute all plans inside the block (this thread only); SDPA otherwise."""
    previous = getattr(_state, "backend", None)
    _state.backend = backend
    try:
        yield
    finally:
        _state.backend = previous


def computing() -> Backend:
    """The back end in force."""
    return getattr(_state, "backend", None) or BACKENDS["sdpa"]


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
        out = computing().packed(query, key, value, plan, scaling)
    elif isinstance(plan, Decode):
        out = computing().decode(query, key, value, plan, scaling)
    else:
        out = computing().dense(query, key, value, False, plan.bias, scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
