"""Selection of visual tokens: counts, order, independence of the batch, and what the spectrum sees."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luvc.compression import Prune
from luvc.methods import spu
from luvc.methods.candidates import Candidates
from luvc.methods.select import SCORES, select
from luvc.methods.spu import low_pass, spectral_scores


class Layer:
    """The part of a decoder layer that scores look at."""

    class self_attn:  # noqa: N801 - the name transformers' layers use
        k_proj = torch.nn.Linear(12, 4)

    input_layernorm = torch.nn.Identity()


def candidates(visual: torch.Tensor, lengths: tuple[int, ...], frame: int = 3) -> Candidates:
    place = torch.cat([torch.arange(length) for length in lengths])
    return Candidates(visual, place, lengths, lengths, (frame,) * len(lengths), Layer)


VARIANTS = [
    Prune(method="random"),
    Prune(method="uniform"),
    Prune(method="key_norm"),
    Prune(method="adjacent_frames"),
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
    chosen = select(candidates(visual, lengths), keep, prune)
    assert chosen.shape == (sum(keep),)
    assert (chosen.diff() > 0).all(), "ascending: kept tokens keep their order"
    start = 0
    for length, count in zip(lengths, keep, strict=True):
        mine = chosen[(chosen >= start) & (chosen < start + length)] - start
        assert len(mine) == count
        if length:
            alone = select(candidates(visual[start : start + length], (length,)), (count,), prune)
            assert torch.equal(mine, alone)
        start += length


def dct_low_pass(signal: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Textbook DCT-II: transform, drop the high coefficients, transform back. `[n, dim]`."""
    n = signal.shape[0]
    k, i = torch.meshgrid(torch.arange(n).double(), torch.arange(n).double(), indexing="ij")
    basis = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    coefficients = basis @ signal.double()
    coefficients[math.ceil(cutoff * n) :] = 0
    return (basis.T @ coefficients).float()


@pytest.mark.parametrize("n", [1, 2, 7, 16])
@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.5, 1.0])
def test_the_ideal_low_pass_is_the_dcts(n, cutoff):
    signal = torch.randn(n, 5, generator=torch.Generator().manual_seed(n))
    ours = low_pass(signal[None], Prune(cutoff=cutoff), dim=1)[0]
    assert torch.allclose(ours, dct_low_pass(signal, cutoff), atol=1e-5)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("few", [0, 1000])
def test_few_coefficients_and_many_are_filtered_alike(dim, few, monkeypatch):
    """By products or by a transform: a long axis, where angles that are not reduced would lose digits."""
    monkeypatch.setattr(spu, "FEW_COEFFICIENTS", few)
    signal = torch.randn(2, 3000, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([dct_low_pass(one, 0.02) for one in signal])
    ours = low_pass(signal.movedim(1, dim), Prune(cutoff=0.02), dim).movedim(dim, 1)
    assert torch.allclose(ours, expected, atol=1e-5)


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
    hidden = candidates(torch.stack([smooth, rough]), (2,))
    along = Prune(axis="channel", cutoff=0.25, residual=False)
    high, low = (spectral_scores(hidden, replace(along, sign=sign))[0] for sign in ("high", "low"))
    assert high[0] > high[1]
    assert low[0] < low[1]
    rest = spectral_scores(hidden, replace(along, residual=True))[0]
    assert rest[0] < rest[1]


@pytest.mark.parametrize("kind", ["dct", "fir"])
def test_what_differs_from_a_slowly_changing_backdrop_stays(kind):
    """A backdrop that brightens over the clip, strong everywhere, and four tokens of something else that is weaker."""
    backdrop = torch.linspace(1, 2, 64)[:, None] * torch.ones(12) * 5
    thing = torch.tensor([7, 20, 41, 58])
    hidden = backdrop.clone()
    hidden[thing] = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    chosen = select(candidates(hidden, (64,)), (4,), Prune(filter=kind))
    assert chosen.tolist() == thing.tolist()
    largest = select(candidates(hidden, (64,)), (32,), Prune(filter=kind, axis="channel", residual=False))
    assert not set(thing.tolist()) & set(largest.tolist()), "by magnitude the backdrop stays"


@pytest.mark.parametrize("keep", [1, 2, 5, 8, 13])
def test_uniform_is_spread_out(keep):
    chosen = select(candidates(torch.zeros(16, 2), (16,)), (keep,), Prune(method="uniform"))
    gaps = torch.cat((chosen, chosen[:1] + 16)).diff()
    assert gaps.max() <= 2 * math.ceil(16 / keep)


def test_adjacent_frames_keeps_what_changed():
    frame = torch.eye(4, 12)
    second = frame.clone()
    second[2] = torch.ones(12)  # one place changes, the rest repeats
    visual = torch.cat((frame, second))
    chosen = select(candidates(visual, (8,), frame=4), (5,), Prune(method="adjacent_frames"))
    assert chosen.tolist() == [0, 1, 2, 3, 6]


def test_adjacent_frames_knows_which_predecessors_are_gone():
    visual = torch.eye(1, 12).repeat(3, 1)
    place = torch.tensor([1, 4, 7])  # one place of three frames; of another video's frames, only one is left
    alive = Candidates(torch.cat((visual, visual[:1])), torch.cat((place, torch.tensor([8]))), (3, 1), (9, 9), (3, 3))
    scores = SCORES["adjacent_frames"](alive, Prune(method="adjacent_frames"))
    assert scores[0].tolist() == pytest.approx([float("inf"), 0.0, 0.0])
    assert scores[1, 0] == float("inf")


def test_key_norm_keeps_the_smallest_keys():
    visual = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    norms = Layer.self_attn.k_proj(visual).norm(dim=1)
    chosen = select(candidates(visual, (6,)), (3,), Prune(method="key_norm"))
    assert chosen.tolist() == sorted(norms.argsort()[:3].tolist())
