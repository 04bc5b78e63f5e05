"""Controls on SPU's schedule: what any clever score has to beat at the same token count.

Each function scores `[videos, n_max]` candidates, higher stays; see `luvc.methods.candidates`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc.compression import Prune
from luvc.memory import on_device
from luvc.methods.candidates import Candidates


def random_scores(candidates: Candidates, prune: Prune) -> Tensor:
    """Random order by visual index: the same for a video alone and in any batch."""
    generator = torch.Generator().manual_seed(prune.seed)
    order = torch.rand(candidates.valid.shape[1], generator=generator)
    return order.to(candidates.hidden.device).expand(candidates.valid.shape)


def uniform_scores(candidates: Candidates, prune: Prune) -> Tensor:
    """Evenly spread: the first k of the bit-reversed index are close to equidistant for every k."""
    index = torch.arange(candidates.valid.shape[1], device=candidates.hidden.device)
    bits = max(1, int(candidates.valid.shape[1] - 1).bit_length())
    fraction = torch.zeros(len(index), device=candidates.hidden.device)
    for bit in range(bits):
        fraction += ((index >> bit) & 1) * 2.0 ** -(bit + 1)
    # A radical inverse does not depend on the number of bits: a longer neighbour changes nothing.
    return -fraction.expand(candidates.valid.shape)


def key_norm_scores(candidates: Candidates, prune: Prune) -> Tensor:
    """Small keys stay: a key's norm falls with the attention it gets (Devoto et al., 2406.11430)."""
    layer = candidates.layer
    keys = layer.self_attn.k_proj(layer.input_layernorm(candidates.hidden))
    return -keys.float().norm(dim=-1)[candidates.source]


def adjacent_frame_scores(candidates: Candidates, prune: Prune) -> Tensor:
    """Tokens unlike the one at the same place one frame before stay (as EVS in vLLM does behind the encoder).

    A token whose predecessor is gone, or that is of the first frame, counts as new.
    """
    device = candidates.hidden.device
    place = candidates.place[candidates.source]
    per_frame = on_device(candidates.frame_tokens, device)[:, None]
    # Where each original place is among the candidates now; -1: gone. Sized by host integers only.
    slots = max(candidates.original) + 1
    table = torch.full((len(place), slots), -1, device=device)
    columns = torch.arange(place.shape[1], device=device).expand_as(place)
    table.scatter_(1, torch.where(candidates.valid, place, slots - 1), columns)
    table[:, -1] = -1
    before = place - per_frame
    column = table.gather(1, before.clamp(min=0)).masked_fill(before < 0, -1)
    unit = torch.nn.functional.normalize(candidates.padded().float(), dim=-1)
    previous = unit.gather(1, column.clamp(min=0)[..., None].expand_as(unit))
    return (1 - (unit * previous).sum(-1)).masked_fill(column < 0, float("inf"))
