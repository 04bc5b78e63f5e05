"""Controls on SPU's schedule: what any clever score has to beat at the same token count."""

from __future__ import annotations

import torch
from torch import Tensor

from luvc.compression import Prune


def random_scores(hidden: Tensor, lengths: tuple[int, ...], prune: Prune) -> Tensor:
    """Random order by visual index: the same for a video alone and in any batch. `[videos, n_max]`."""
    generator = torch.Generator().manual_seed(prune.seed)
    order = torch.rand(hidden.shape[1], generator=generator)
    return order.to(hidden.device).expand(hidden.shape[0], -1)


def uniform_scores(hidden: Tensor, lengths: tuple[int, ...], prune: Prune) -> Tensor:
    """Evenly spread: the first k of the bit-reversed index are close to equidistant for every k."""
    index = torch.arange(hidden.shape[1], device=hidden.device)
    bits = max(1, int(hidden.shape[1] - 1).bit_length())
    reversed_index = torch.zeros_like(index)
    for bit in range(bits):
        reversed_index |= ((index >> bit) & 1) << (bits - 1 - bit)
    return -reversed_index.float().expand(hidden.shape[0], -1)
