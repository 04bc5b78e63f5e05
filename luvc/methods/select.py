"""Top-k selection over a packed, ragged batch of videos: one call, no per-video loop, no host sync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from luvc.compression import Prune
from luvc.methods.controls import adjacent_frame_scores, key_norm_scores, random_scores, uniform_scores
from luvc.methods.spu import spectral_scores


@dataclass(frozen=True)
class Candidates:
    """Visual tokens to choose from, videos end to end.

    Attributes:
        hidden: `[tokens, dim]` hidden states before a decoder layer.
        place: `[tokens]` visual index of each token in its own video, before any pruning.
        lengths: tokens of each video, host integers.
        original: tokens of each video before any pruning, host integers.
        frame_tokens: tokens of each of its frames then, host integers.
        layer: the decoder layer that comes next (for its keys).
    """

    hidden: Tensor
    place: Tensor
    lengths: tuple[int, ...]
    original: tuple[int, ...]
    frame_tokens: tuple[int, ...]
    layer: Any = None

    @cached_property
    def source(self) -> Tensor:
        """`[videos, n_max]` index into the tokens; padding points at some token, see `valid`."""
        length = torch.tensor(self.lengths, device=self.hidden.device)
        offset = length.cumsum(0) - length
        column = torch.arange(max(self.lengths), device=self.hidden.device)
        return (offset[:, None] + column).clamp(max=len(self.hidden) - 1)

    @cached_property
    def valid(self) -> Tensor:
        """`[videos, n_max]` false at padding."""
        length = torch.tensor(self.lengths, device=self.hidden.device)
        return torch.arange(max(self.lengths), device=self.hidden.device) < length[:, None]

    def padded(self) -> Tensor:
        """`[videos, n_max, dim]` hidden states."""
        return self.hidden[self.source]


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
    kept = (rank < torch.tensor(keep, device=device)[:, None]) & valid
    # Padding writes into a spare cell behind the tokens.
    flags = torch.zeros(tokens + 1, dtype=torch.bool, device=device)
    flags.scatter_(0, torch.where(valid, source, tokens).flatten(), kept.flatten())
    return (~flags[:-1]).to(torch.uint8).argsort(stable=True)[: sum(keep)]
