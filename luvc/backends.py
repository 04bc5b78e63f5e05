"""Attention kernels behind the seam: each computes packed and batched attention with what one library offers.

`sdpa` works everywhere and is the reference; the others are for the devices and types they say. A kernel that
cannot do what a plan asks (a bias on the keys, in the varlen kernels) leaves it to `sdpa`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luvc.errors import ConfigError
from luvc.memory import on_device

if TYPE_CHECKING:
    from luvc.attention import Decode, Packed

Dense = Callable[[Tensor, Tensor, Tensor, bool, Tensor | None, float | None], Tensor]
Cached = Callable[[Tensor, Tensor, Tensor, Tensor, float | None], Tensor]
Varlen = Callable[[Tensor, Tensor, Tensor, "Packed", float | None], Tensor]

#: Bytes of attention scores that `blocks` holds at a time: they must stay in the cache of a CPU.
SCORE_BYTES = 4 << 20


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    Attributes:
        name: as in `model.attention`.
        dense: `[batch, heads, queries, head_dim]` against `[batch, kv_heads, keys, head_dim]`; with `causal` the last
            query sees all keys; a bias `[batch, keys]` is added to the scores. Same shape as the queries.
        varlen: whole packed batches in one call, where the library can; None: runs of equal length, one call each.
        cached: one query a sequence against cache slots of which the first `lengths` keys are alive.
    """

    name: str
    dense: Dense
    varlen: Varlen | None = None
    cached: Cached | None = None

    def packed(self, query: Tensor, key: Tensor, value: Tensor, plan: Packed, scaling: float | None) -> Tensor:
        """Attention over sequences end to end, `[1, heads, tokens, head_dim]` in and out."""
        if self.varlen is not None and plan.bias is None:
            return self.varlen(query, key, value, plan, scaling)
        return _by_runs(self.dense, query, key, value, plan, scaling)

    def decode(self, query: Tensor, key: Tensor, value: Tensor, plan: Decode, scaling: float | None) -> Tensor:
        """One query a sequence, `[batch, heads, 1, head_dim]`, against `[batch, kv_heads, keys, head_dim]`."""
        mask = plan.mask
        if plan.lengths is not None:
            if self.cached is not None:
                return self.cached(query, key, value, plan.lengths, scaling)
            mask = (torch.arange(key.shape[2], device=key.device) < plan.lengths[:, None])[:, None, None]
        # The query heads that share a KV head become rows of one small matrix: keys are never repeated.
        grouped = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
        out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
        return out.reshape(query.shape)


# SDPA ------------------------------------------------------------------------------------------


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scaling: float | None) -> Tensor:
    mask = None if bias is None else bias[:, None, None].to(q.dtype)
    behind = k.shape[2] - q.shape[2]
    if causal and behind:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(behind)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and not behind, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )


def _by_runs(dense: Dense, query: Tensor, key: Tensor, value: Tensor, plan: Packed, scaling: float | None) -> Tensor:
    """Neighbours of equal length (the windows of an encoder, above all) go through one batched call."""
    lengths = plan.lengths
    prefixes = plan.prefixes or ((0, 0),) * len(lengths)
    # Heads last in memory, as the layer behind wants them.
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    start, index = 0, 0
    while index < len(lengths):
        length, run = lengths[index], 1
        first, tokens = prefixes[index]
        if tokens:
            stop = start + length
            k, v = (torch.cat((x[:, :, first : first + tokens], x[:, :, start:stop]), 2) for x in (key, value))
            out[:, :, start:stop] = dense(query[:, :, start:stop], k, v, plan.causal, None, scaling)
            start, index = stop, index + 1
            continue
        while index + run < len(lengths) and lengths[index + run] == length and not prefixes[index + run][1]:
            run += 1
        stop = start + run * length
        q, k, v = (part[0, :, start:stop].unflatten(1, (run, length)).transpose(0, 1) for part in (query, key, value))
        bias = None if plan.bias is None else plan.bias[start:stop].view(run, length)
        attended = dense(q, k, v, plan.causal, bias, scaling)
        out[0, :, start:stop] = attended.transpose(0, 1).flatten(1, 2)
        start, index = stop, index + run
    return out


# Blocks of two batched products, for bfloat16 on CPUs ----------------------------------------------


def _blocks(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scaling: float | None) -> Tensor:
    """Scores of a block of queries at a time, in bfloat16, small enough for the cache.

    torch's fused CPU kernel multiplies bfloat16 matrices without the instructions for it; two batched products and a
    softmax (float32 inside, as in transformers' eager attention) are twice as fast (benchmarks/notes.md).
    """
    batch, heads, queries, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    group, behind = heads // kv_heads, keys - queries if causal else 0
    scaling = dim**-0.5 if scaling is None else scaling
    row_bytes = heads * keys * q.element_size()
    rows = min(queries, max(32, SCORE_BYTES // row_bytes // 32 * 32))
    together = max(1, SCORE_BYTES // (row_bytes * rows))
    out = torch.empty(batch, queries, heads, dim, dtype=q.dtype, device=q.device)
    grouped = q.unflatten(1, (kv_heads, group))
    for start in range(0, batch, together):
        some = slice(start, min(batch, start + together))
        many = some.stop - start
        k_flat, v_flat = (x[some].reshape(many * kv_heads, keys, dim) for x in (k, v))
        for top in range(0, queries, rows):
            bottom = min(queries, top + rows)
            seen = behind + bottom if causal else keys
            block = grouped[some, :, :, top:bottom].reshape(many * kv_heads, -1, dim)
            scores = torch.baddbmm(
                block.new_empty(1, 1, 1), block, k_flat[:, :seen].transpose(1, 2), beta=0, alpha=scaling
            )
            if causal:
                future = torch.ones(bottom - top, bottom - top, dtype=torch.bool, device=q.device).triu_(1)
                scores.view(-1, bottom - top, seen)[:, :, behind + top :].masked_fill_(future, float("-inf"))
            if bias is not None:
                scores.view(many, -1, seen).add_(bias[some, None, :seen])
            attended = torch.bmm(scores.softmax(-1), v_flat[:, :seen])
            out[some, top:bottom] = attended.view(many, heads, bottom - top, dim).transpose(1, 2)
    return out.transpose(1, 2)


# Varlen kernels --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bounds:
    """Cumulative lengths as the varlen kernels take them, and which keys they stand for (None: all, in order)."""

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int
    sources: Tensor | None


@lru_cache(maxsize=256)
def _bounds(lengths: tuple[int, ...], prefixes: tuple[tuple[int, int], ...], device: torch.device) -> _Bounds:
    """Made once a batch shape: layers with the same tokens share it, and steady batches repeat."""
    prefixes = prefixes or ((0, 0),) * len(lengths)
    key_lengths = [length + prefix[1] for length, prefix in zip(lengths, prefixes, strict=True)]
    sources = None
    if any(prefix[1] for prefix in prefixes):
        rows: list[int] = []
        start = 0
        for length, (first, tokens) in zip(lengths, prefixes, strict=True):
            rows.extend(range(first, first + tokens))
            rows.extend(range(start, start + length))
            start += length
        sources = on_device(rows, device)
    ends = [torch.tensor([0, *each], dtype=torch.int32).cumsum(0, dtype=torch.int32) for each in (lengths, key_lengths)]
    queries, keys = (on_device(each, device) for each in ends)
    return _Bounds(queries, keys, max(lengths), max(key_lengths), sources)


def _varlen_with(kernel: Callable[..., Tensor]) -> Varlen:
    """`kernel(q, k, v, bounds, causal, scaling)` on `[tokens, heads, head_dim]` as a `Varlen`."""

    def varlen(query: Tensor, key: Tensor, value: Tensor, plan: Packed, scaling: float | None) -> Tensor:
        bounds = _bounds(plan.lengths, plan.prefixes, query.device)
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        if bounds.sources is not None:
            k, v = k[bounds.sources], v[bounds.sources]
        out = kernel(q.contiguous(), k.contiguous(), v.contiguous(), bounds, plan.causal, scaling)
        return out.transpose(0, 1)[None]

    return varlen


def _torch_varlen(q: Tensor, k: Tensor, v: Tensor, bounds: _Bounds, causal: bool, scaling: float | None) -> Tensor:
    varlen = importlib.import_module("torch.nn.attention.varlen")
    options: dict[str, Any] = {}
    known = _parameters(varlen.varlen_attn)
    if causal:
        # Older versions have a flag, newer ones a window that ends at the token itself.
        options.update({"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)})
    if scaling is not None and "scale" in known:
        options["scale"] = scaling
    elif scaling is not None:
        q = q * (scaling * q.shape[-1] ** 0.5)
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    return varlen.varlen_attn(q, k, v, bounds.queries, bounds.keys, bounds.longest_query, bounds.longest_key, **options)


def _torch_cached(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scaling: float | None) -> Tensor:
    """Slots as one packed sequence of keys each, of which `seqused_k` are alive (torch 2.12 and newer)."""
    varlen = importlib.import_module("torch.nn.attention.varlen")
    slots, heads, _, dim = q.shape
    capacity = k.shape[2]
    starts = torch.arange(slots + 1, dtype=torch.int32, device=q.device)
    keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (k, v))
    out = varlen.varlen_attn(
        *(q.reshape(slots, heads, dim), keys, values, starts, starts * capacity, 1, capacity),
        scale=scaling,
        enable_gqa=k.shape[1] != heads,
        seqused_k=lengths,
    )
    return out.view(q.shape)


def _flash_cached(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scaling: float | None) -> Tensor:
    flash = importlib.import_module("flash_attn")
    options = {"cache_seqlens": lengths, "softmax_scale": scaling}
    out = flash.flash_attn_with_kvcache(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), **options)
    return out.transpose(1, 2)


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, bounds: _Bounds, causal: bool, scaling: float | None) -> Tensor:
    return importlib.import_module("flash_attn").flash_attn_varlen_func(
        *(q, k, v, bounds.queries, bounds.keys, bounds.longest_query, bounds.longest_key),
        softmax_scale=scaling,
        causal=causal,  # aligned to the last key, as behind a prefix
    )


@cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


# Choice ----------------------------------------------------------------------------------------

BACKENDS = {
    "sdpa": Backend("sdpa", _sdpa),
    "blocks": Backend("blocks", _blocks),
    "varlen": Backend("varlen", _sdpa, _varlen_with(_torch_varlen), _torch_cached),
    "flash_attn": Backend("flash_attn", _sdpa, _varlen_with(_flash_attn), _flash_cached),
}


def why_not(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps a back end from working with this device and type; None: nothing."""
    half = dtype in (torch.bfloat16, torch.float16)
    if name == "blocks":
        return None if device.type == "cpu" else "for CPUs only"
    if name == "sdpa":
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    if not half:
        return f"needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    try:
        importlib.import_module("torch.nn.attention.varlen" if name == "varlen" else "flash_attn")
    except ImportError as error:
        return f"not installed ({error})"
    if torch.cuda.get_device_capability(device)[0] < 8:
        return "needs an NVIDIA GPU of the Ampere generation or newer"
    return None


def choose(name: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The back end called `name`, or with "auto" the fastest one that works, tried on a few tokens.

    Raises:
        ConfigError: unknown, or it does not work here.
    """
    if name == "auto":
        order = ("flash_attn", "varlen", "blocks", "sdpa") if dtype != torch.float32 else ("sdpa",)
        return next(found for each in order if isinstance(found := tried(each, device, dtype), Backend))
    if name not in BACKENDS:
        raise ConfigError(f"model.attention: {name!r} is unknown", "known: auto, " + ", ".join(BACKENDS))
    found = tried(name, device, dtype)
    if isinstance(found, str):
        raise ConfigError(f"model.attention: {name!r} cannot be used here: {found}", "use auto")
    return found


@lru_cache(maxsize=64)
def tried(name: str, device: torch.device, dtype: torch.dtype) -> Backend | str:
    """The back end, if it gives SDPA's values on this device; else why not.

    Kernels of other libraries come and go with versions and GPUs: what is used has been seen to work here.
    """
    reason = why_not(name, device, dtype)
    if reason is not None:
        return reason
    backend = BACKENDS[name]
    if name == "sdpa":
        return backend
    from luvc.attention import Decode, Packed

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    plans = (Packed((3, 5, 5, 2)), Packed((8, 7), causal=False), Packed((9, 6), prefixes=((0, 0), (2, 5))))
    try:
        for plan in plans:
            packed = random(1, 4, 15, 64), random(1, 2, 15, 64), random(1, 2, 15, 64)
            if not _close(backend.packed(*packed, plan, None), BACKENDS["sdpa"].packed(*packed, plan, None)):
                return "gives other values than SDPA"
    except Exception as error:  # noqa: BLE001 - whatever a library raises, it cannot be used
        return f"fails: {type(error).__name__}: {error}"
    if backend.cached is None:
        return backend
    step = random(3, 4, 1, 64), random(3, 2, 256, 64), random(3, 2, 256, 64)
    alive = Decode(None, torch.tensor([1, 200, 256], dtype=torch.int32, device=device))
    try:
        works = _close(backend.decode(*step, alive, None), BACKENDS["sdpa"].decode(*step, alive, None))
    except Exception:  # noqa: BLE001 - older versions of a library lack it; SDPA decodes instead
        works = False
    return backend if works else replace(backend, cached=None)


def _close(mine: Tensor, reference: Tensor) -> bool:
    return torch.allclose(mine.float(), reference.float(), atol=0.05, rtol=0.05)
