"""Spectrum pruning unit (SPU): score visual tokens by what a low-pass filter leaves of their hidden states.

The hidden states of one video's visual tokens are a signal, indexed by visual token even where text
splits them into runs. What changes slowly along it is backdrop; the score of a token is the magnitude of the
rest, and the largest stay. No attention weights, no similarity matrix, no query: it works beside any fused
attention kernel, and several questions can share one visual prefix.

Idea: arXiv 2512.09010. Transform, axis, cut-off and score are not published there; all are switches here, and
defaults are what was measured (docs/method.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luvc.compression import Prune
from luvc.memory import on_device
from luvc.methods.candidates import Candidates

#: Up to so many, two small products are faster than a transform: 14 times for 11 of 512 and 900 channels, level at
#: some 150 (one core, float32).
FEW_COEFFICIENTS = 160


def spectral_scores(candidates: Candidates, prune: Prune) -> Tensor:
    """Score every visual token by its part of the spectrum.

    Args:
        candidates: visual tokens of several videos.
        prune: axis, filter, cut-off, sign and residual.

    Returns:
        `[videos, n_max]` float32, higher stays; values at padding are meaningless.
    """
    signal = candidates.padded().float()
    if prune.axis == "channel":
        low = low_pass(signal, prune, dim=2)
    else:
        low = torch.zeros_like(signal)
        for length in sorted(set(candidates.lengths)):
            # A transform needs its exact length: videos of equal length are filtered together.
            rows = [row for row, other in enumerate(candidates.lengths) if other == length]
            if length:
                index = on_device(rows, signal.device)
                low[index, :length] = low_pass(signal[index, :length], prune, dim=1)
    if prune.residual:
        low = signal - low
    scores = low.norm(dim=2)
    return scores if prune.sign == "high" else -scores


def low_pass(signal: Tensor, prune: Prune, dim: int) -> Tensor:
    """Low-pass part of `signal` along `dim` (1 or 2 of three), same shape.

    "dct": ideal low-pass that keeps the first ceil(cutoff * n) coefficients of the DCT-II. "fir": binomial kernel
    with reflected borders.
    """
    n = signal.shape[dim]
    if prune.filter == "dct":
        kept = math.ceil(prune.cutoff * n)
        return _projected(signal, kept, dim) if kept <= FEW_COEFFICIENTS else _transformed(signal, kept, dim)
    # The mirror image is periodic with 2n, so a roll reflects at both borders.
    mirrored = torch.cat((signal, signal.flip(dim)), dim)
    half = prune.taps // 2
    total = 2.0 ** (2 * half)
    low = torch.zeros_like(mirrored)
    for tap in range(-half, half + 1):
        low += mirrored.roll(tap, dim) * (math.comb(2 * half, half + tap) / total)
    return low.narrow(dim, 0, n)


def _projected(signal: Tensor, kept: int, dim: int) -> Tensor:
    """By two products with the cosines that are kept: cheap while these are few, and nothing of 2n is stored."""
    n = signal.shape[dim]
    order, place = (torch.arange(count, device=signal.device) for count in (kept, n))
    # The period is taken off in whole numbers: float32 angles stay exact to the last bit however long the clip is.
    turns = (2 * place + 1) * order[:, None] % (4 * n)
    cosines = torch.cos(turns * (math.pi / (2 * n))) * math.sqrt(2 / n)
    cosines[0] *= math.sqrt(0.5)  # orthonormal rows
    return cosines.T @ (cosines @ signal) if dim == 1 else signal @ cosines.T @ cosines


def _transformed(signal: Tensor, kept: int, dim: int) -> Tensor:
    """By an FFT of the signal followed by its mirror image, whose spectrum is the DCT's."""
    n = signal.shape[dim]
    spectrum = torch.fft.rfft(torch.cat((signal, signal.flip(dim)), dim), dim=dim)
    spectrum.narrow(dim, kept, spectrum.shape[dim] - kept).zero_()
    return torch.fft.irfft(spectrum, n=2 * n, dim=dim).narrow(dim, 0, n)
