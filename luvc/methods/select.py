"""Top-k selection over a packed, ragged batch of videos: one call, no per-video loop, no host sync."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from luvc.compression import Prune
from luvc.memory import on_device
from luvc.methods.candidates import Candidates
from luvc.methods.controls import adjacent_frame_scores, key_norm_scores, random_scores, uniform_scores
from luvc.methods.spu import spectral_scores

Scores = Callable[[Candidates, Prune], Tensor]

#: Score functions by `Prune.method`: `[videos, n_max]` float32, higher stays; padding is ignored.
SCORES: dict[str, Scores] = {
    "spu": spectral_scores,
    "random": random_scores,
    "uniform": uniform_scores,
    "key_norm": key_norm_scores,
    "adjacent_frames": adjacent_frame_scores,
}


def select(candidates: Candidates, keep: tuple[int, ...], prune: Prune) -> Tensor:
    """Choose `keep[i]` of the `lengths[i]` visual tokens of each video.

    Args:
        candidates: the tokens.
        keep: host integers from the schedule; keep[i] <= lengths[i].
        prune: method and its parameters.

    Returns:
        Ascending indices into the candidates, `[sum(keep)]`.
    """
    tokens, device = len(candidates.hidden), candidates.hidden.device
    if sum(keep) == 0:
        return torch.empty(0, dtype=torch.long, device=device)
    valid, source = candidates.valid, candidates.source
    scores = SCORES[prune.method](candidates, prune)
    # Rank by score (stable: ties go to the earlier token), padding last; a token stays if its rank is below k.
    order = scores.masked_fill(~valid, float("-inf")).argsort(dim=1, descending=True, stable=True)
    columns = torch.arange(valid.shape[1], device=device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, columns)
    kept = (rank < on_device(keep, device)[:, None]) & valid
    # Padding writes into a spare cell behind the tokens.
    flags = torch.zeros(tokens + 1, dtype=torch.bool, device=device)
    flags.scatter_(0, torch.where(valid, source, tokens).flatten(), kept.flatten())
    return (~flags[:-1]).to(torch.uint8).argsort(stable=True)[: sum(keep)]
