"""Visual tokens to choose from, as pruning methods see them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from luvc.memory import on_device


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
        length = on_device(self.lengths, self.hidden.device)
        offset = length.cumsum(0) - length
        column = torch.arange(max(self.lengths), device=self.hidden.device)
        return (offset[:, None] + column).clamp(max=len(self.hidden) - 1)

    @cached_property
    def valid(self) -> Tensor:
        """`[videos, n_max]` false at padding."""
        length = on_device(self.lengths, self.hidden.device)
        return torch.arange(max(self.lengths), device=self.hidden.device) < length[:, None]

    def padded(self) -> Tensor:
        """`[videos, n_max, dim]` hidden states."""
        return self.hidden[self.source]
