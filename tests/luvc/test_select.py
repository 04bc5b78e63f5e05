"""Selection of visual tokens: counts, order, independence of the batch, and what the spectrum sees."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luvc.compression import Prune
from luvc.methods.select import SCORES, select
from luvc.methods.spu import low_pass, spectral_scores

VARIANTS = [
    Prune(method="random"),
    Prune(method="uniform"),
    *(
        Prune(axis=axis, filter=kind, sign=sign, residual=residual)
        for axis in ("sequence", "channel")
        for kind in ("dct", "fir")
        for sign in ("high", "low")
        for residual in (False, True)
    ),
]


def name(prune: Prune) -> str:
    return f"{prune.method}-{prune.axis}-{prune.filter}-{prune.sign}-{'residual' if prune.residual else 'low-pass'}"


def test_every_method_is_covered_here():
    assert {prune.method for prune in VARIANTS} == set(SCORES)


@pytest.mark.parametrize("prune", VARIANTS, ids=name)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_counts_order_and_independence_of_the_batch(prune, data):
    lengths = tuple(data.draw(st.lists(st.integers(0, 17), min_size=1, max_size=5)))
    keep = tuple(data.draw(st.integers(0, length)) for length in lengths)
    seed = data.draw(st.integers(0, 9999))
    visual = torch.randn(sum(lengths), 12, generator=torch.Generator().manual_seed(seed))
    chosen = select(visual, lengths, keep, prune)
    assert chosen.shape == (sum(keep),)
    assert (chosen.diff() > 0).all(), "ascending: kept tokens keep their order"
    start = 0
    for length, count in zip(lengths, keep, strict=True):
        mine = chosen[(chosen >= start) & (chosen < start + length)] - start
        assert len(mine) == count
        if length:
            alone = select(visual[start : start + length], (length,), (count,), prune)
            assert torch.equal(mine, alone)
        start += length


def dct_low_pass(signal: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Textbook DCT-II: transform, drop the high coefficients, transform back. `[n, dim]`."""
    n = signal.shape[0]
    k, i = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    basis = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    coefficients = basis @ signal
    coefficients[math.ceil(cutoff * n) :] = 0
    return basis.T @ coefficients


@pytest.mark.parametrize("n", [1, 2, 7, 16])
@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.5, 1.0])
def test_the_ideal_low_pass_is_the_dcts(n, cutoff):
    signal = torch.randn(n, 5, generator=torch.Generator().manual_seed(n))
    ours = low_pass(signal[None], Prune(cutoff=cutoff), dim=1)[0]
    assert torch.allclose(ours, dct_low_pass(signal, cutoff), atol=1e-5)


@pytest.mark.parametrize("kind", ["dct", "fir"])
def test_a_constant_is_all_low_and_an_alternation_is_not(kind):
    prune = Prune(filter=kind)
    constant = torch.ones(1, 8, 1)
    alternating = torch.tensor([1.0, -1.0] * 4).view(1, 8, 1)
    assert torch.allclose(low_pass(constant, prune, dim=1), constant, atol=1e-5)
    # Away from the reflected borders, where two equal values meet.
    assert low_pass(alternating, prune, dim=1)[:, 2:-2].abs().max() < 0.35


def test_signs_and_residual_rank_smooth_tokens_as_they_should():
    smooth, rough = torch.ones(16), torch.tensor([1.0, -1.0] * 8)
    hidden = torch.stack([smooth, rough])[None]
    high, low = (spectral_scores(hidden, (2,), Prune(sign=sign))[0] for sign in ("high", "low"))
    assert high[0] > high[1]
    assert low[0] < low[1]
    rest = spectral_scores(hidden, (2,), Prune(residual=True))[0]
    assert rest[0] < rest[1]


@pytest.mark.parametrize("keep", [1, 2, 5, 8, 13])
def test_uniform_is_spread_out(keep):
    chosen = select(torch.zeros(16, 2), (16,), (keep,), Prune(method="uniform"))
    gaps = torch.cat((chosen, chosen[:1] + 16)).diff()
    assert gaps.max() <= 2 * math.ceil(16 / keep)
