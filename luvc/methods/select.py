"""Top-k selection over a packed, ragged batch of videos: one call, no per-video loop, no host sync."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from luvc.compression import Prune
from luvc.methods.controls import random_scores, uniform_scores
from luvc.methods.spu import spectral_scores

Scores = Callable[[Tensor, tuple[int, ...], Prune], Tensor]

#: Score functions by `Prune.method`: padded hidden states and lengths in, one score a token out.
SCORES: dict[str, Scores] = {"spu": spectral_scores, "random": random_scores, "uniform": uniform_scores}


def select(visual: Tensor, lengths: tuple[int, ...], keep: tuple[int, ...], prune: Prune) -> Tensor:
    """Choose `keep[i]` of the `lengths[i]` visual tokens of each video.

    Args:
        visual: `[sum(lengths), dim]` hidden states, videos end to end.
        lengths, keep: host integers from the schedule; keep[i] <= lengths[i].
        prune: method and its parameters.

    Returns:
        Ascending indices into `visual`, `[sum(keep)]`.
    """
    device = visual.device
    if sum(keep) == 0:
        return torch.empty(0, dtype=torch.long, device=device)
    n_max = max(lengths)
    length = torch.tensor(lengths, device=device)
    offset = length.cumsum(0) - length
    column = torch.arange(n_max, device=device)
    valid = column < length[:, None]
    source = (offset[:, None] + column).clamp(max=visual.shape[0] - 1)
    scores = SCORES[prune.method](visual[source], lengths, prune)
    # Rank by score (stable: ties go to the earlier token), padding last; a token stays if its rank is below k.
    order = scores.masked_fill(~valid, float("-inf")).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, column.expand_as(order))
    kept = (rank < torch.tensor(keep, device=device)[:, None]) & valid
    # Padding points at some real token's place; writing through a spare cell keeps it harmless.
    spare = torch.zeros(visual.shape[0] + 1, dtype=torch.bool, device=device)
    spare.scatter_(0, torch.where(valid, source, visual.shape[0]).flatten(), kept.flatten())
    flat = spare[:-1]
    return (~flat).to(torch.uint8).argsort(stable=True)[: sum(keep)]
