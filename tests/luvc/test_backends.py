"""Every attention back end that this machine has computes the same thing: attention, written out longhand."""

from __future__ import annotations

import pytest
import torch

from luvc import attention, backends
from luvc.errors import ConfigError

DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
USABLE = [
    pytest.param(name, device, dtype, id=f"{name}-{device}-{str(dtype)[6:]}")
    for device in DEVICES
    for dtype in (torch.float32, torch.bfloat16)
    for name in backends.BACKENDS
    if backends.why_not(name, device, dtype) is None
]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}

PLANS = {
    "ragged, causal": attention.Packed((5, 5, 1, 9, 3, 3, 3)),
    "one long": attention.Packed((300,)),
    "many equal windows": attention.Packed((16,) * 40, causal=False),
    "frames longer than a block": attention.Packed((200, 200), causal=False),
    "a shared prefix": attention.Packed((9, 4, 1), prefixes=((0, 0), (2, 6), (0, 9))),
    "biased keys": attention.Packed((8, 8, 5), causal=False, bias=torch.linspace(0, 2, 21)),
}


def longhand(query, key, value, plan, scale):
    """Softmax attention in float64, sequence by sequence, head by head."""
    out = torch.empty_like(query, dtype=torch.float64)
    group = query.shape[1] // key.shape[1]
    start = 0
    for index, length in enumerate(plan.lengths):
        first, tokens = plan.prefixes[index] if plan.prefixes else (0, 0)
        rows = [*range(first, first + tokens), *range(start, start + length)]
        for head in range(query.shape[1]):
            q, k, v = (x[0, h].double() for x, h in ((query, head), (key, head // group), (value, head // group)))
            scores = q[start : start + length] @ k[rows].T * scale
            if plan.bias is not None:
                scores += plan.bias[rows].double()
            if plan.causal:
                future = torch.ones(length, len(rows), dtype=torch.bool, device=q.device).triu(tokens + 1)
                scores = scores.masked_fill(future, float("-inf"))
            out[0, head, start : start + length] = scores.softmax(-1) @ v[rows]
        start += length
    return out


@pytest.mark.parametrize("heads", [(4, 2), (3, 3)], ids=["grouped", "plain"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(("name", "device", "dtype"), USABLE)
def test_packed_attention(name, device, dtype, plan, heads, monkeypatch):
    monkeypatch.setattr(backends, "SCORE_BYTES", 4096)  # several blocks even for these sizes
    generator = torch.Generator().manual_seed(0)
    tokens = sum(plan.lengths)
    query, key, value = (
        torch.randn(1, count, tokens, 16, generator=generator).to(device, dtype)
        for count in (heads[0], heads[1], heads[1])
    )
    if plan.bias is not None:
        plan = attention.Packed(plan.lengths, plan.causal, plan.bias.to(device))
    out = backends.BACKENDS[name].packed(query, key, value, plan, 0.3)
    assert out.shape == query.shape
    expected = longhand(query, key, value, plan, 0.3)
    assert (out.double() - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("given", ["mask", "lengths"])
@pytest.mark.parametrize(("name", "device", "dtype"), USABLE)
def test_decode_attention_ignores_what_is_not_alive(name, device, dtype, given):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 1, 16, generator=generator).to(device, dtype)
    key, value = (torch.randn(3, 2, 64, 16, generator=generator).to(device, dtype) for _ in range(2))
    lengths = torch.tensor([1, 40, 64], dtype=torch.int32, device=device)
    mask = (torch.arange(64, device=device) < lengths[:, None])[:, None, None]
    plan = attention.Decode(mask) if given == "mask" else attention.Decode(None, lengths)
    backend = backends.tried(name, device, dtype)
    assert isinstance(backend, backends.Backend), backend
    out = backend.decode(query, key, value, plan, 0.3)
    for row, length in enumerate((1, 40, 64)):
        alone = attention.Packed((length,), causal=False)
        wide = query[row].expand(-1, length, -1)[None]
        expected = longhand(wide, key[row, None, :, :length], value[row, None, :, :length], alone, 0.3)[0, :, :1]
        assert (out[row].double() - expected).abs().max() < TOLERANCE[dtype]


def test_what_cannot_be_used_is_said_with_the_reason():
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match=r"varlen.*needs a CUDA device"):
        backends.choose("varlen", cpu, torch.bfloat16)
    with pytest.raises(ConfigError, match=r"known: auto, sdpa, blocks, varlen, flash_attn"):
        backends.choose("xformers", cpu, torch.bfloat16)


def test_a_kernel_that_gives_other_values_is_not_chosen(monkeypatch):
    cpu = torch.device("cpu")
    wrong = backends.Backend("blocks", lambda q, k, v, causal, bias, scaling: q * 0)
    monkeypatch.setitem(backends.BACKENDS, "blocks", wrong)
    backends.tried.cache_clear()
    try:
        assert backends.choose("auto", cpu, torch.bfloat16).name == "sdpa"
        assert backends.tried("blocks", cpu, torch.bfloat16) == "gives other values than SDPA"
    finally:
        backends.tried.cache_clear()


def test_float32_is_computed_by_sdpa_and_bfloat16_on_a_cpu_in_blocks():
    cpu = torch.device("cpu")
    assert backends.choose("auto", cpu, torch.float32).name == "sdpa"
    assert backends.choose("auto", cpu, torch.bfloat16).name == "blocks"
