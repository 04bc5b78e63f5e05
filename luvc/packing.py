"""Prompts laid end to end, and the prefix that prompts about the same clip share.

Several questions about one clip begin with the same tokens, the clip's own among them. Only the first question
of a batch (the leader) carries that prefix; the others (followers) attend to the leader's keys and values, and get a
copy of them in their cache slot. Pruning does not ask for the question, so the prefix is the same for all of them in
every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from luvc.attention import Packed
from luvc.families.base import PromptLayout
from luvc.memory import on_device
from luvc.scheduling import Schedule


@dataclass(frozen=True)
class Shared:
    """A follower's prefix: `tokens` tokens (before pruning) of sequence `leader`."""

    leader: int
    tokens: int


@dataclass(frozen=True)
class PackedPrompts:
    """Several prompts end to end.

    Attributes:
        hidden: `[1, tokens, dim]` embeddings, visual features in place.
        positions: `[..., 1, tokens]` as the model's rotary embedding takes them; fractions are fine.
        lengths: tokens of each whole sequence, shared prefix included.
        visual: `[visual_tokens]` packed index of every visual token, sequences in order.
        plans: schedules of each sequence's clips.
        shared: prefix of each sequence that is not in `hidden` because another sequence has it; None: all is.
    """

    hidden: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    visual: Tensor
    plans: tuple[tuple[Schedule, ...], ...]
    shared: tuple[Shared | None, ...] = ()

    @property
    def clips(self) -> list[Schedule]:
        """Schedules of the clips whose tokens are in `hidden`, in order."""
        owners = self.shared or (None,) * len(self.plans)
        return [plan for plans, shared in zip(self.plans, owners, strict=True) if shared is None for plan in plans]

    def without_repeats(self, shared: Sequence[Shared | None]) -> PackedPrompts:
        """The same prompts, the followers' prefixes left out. Sizes are host integers: nothing is synchronised."""
        if not any(shared):
            return self
        keep: list[int] = []
        owned: list[bool] = []  # by visual token
        start = 0
        for length, prefix, plans in zip(self.lengths, shared, self.plans, strict=True):
            keep.extend(range(start + (prefix.tokens if prefix else 0), start + length))
            owned.extend([prefix is None] * sum(plan.merged_tokens for plan in plans))
            start += length
        index = on_device(keep, self.hidden.device)
        place = torch.zeros(start, dtype=torch.long, device=self.hidden.device)
        place[index] = torch.arange(len(keep), device=self.hidden.device)
        mine = on_device([i for i, own in enumerate(owned) if own], self.hidden.device, torch.long)
        return replace(
            self,
            hidden=self.hidden[:, index],
            positions=self.positions[..., index],
            visual=place[self.visual[mine]],
            shared=tuple(shared),
        )

    def layers(self, count: int) -> list[Layer]:
        """What each of `count` layers sees; layers with the same tokens share one object."""
        made: dict[tuple[tuple[int, ...], ...], Layer] = {}
        out = []
        for layer in range(count):
            gone = tuple(tuple(plan.merged_tokens - plan.layer_tokens[layer] for plan in plans) for plans in self.plans)
            if gone not in made:
                made[gone] = self._layer([sum(each) for each in gone])
            out.append(made[gone])
        return out

    def _layer(self, gone: Sequence[int]) -> Layer:
        lengths = [length - less for length, less in zip(self.lengths, gone, strict=True)]
        prefixes = [
            shared.tokens - less if shared else 0
            for shared, less in zip(self.shared or (None,) * len(lengths), gone, strict=True)
        ]
        starts, start = [], 0
        for length, prefix in zip(lengths, prefixes, strict=True):
            starts.append(start)
            start += length - prefix
        leaders = [
            shared.leader if shared else index for index, shared in enumerate(self.shared or [None] * len(starts))
        ]
        return Layer(tuple(lengths), tuple(prefixes), tuple(starts), tuple(starts[leader] for leader in leaders))


@dataclass(frozen=True)
class Layer:
    """One decoder layer's view of a packed batch; host integers for each sequence.

    Attributes:
        lengths: tokens alive, shared prefix included: what the cache slot holds.
        prefixes: of these, how many another sequence carries.
        starts: packed index of the first own token.
        prefix_starts: packed index of the first prefix token.
    """

    lengths: tuple[int, ...]
    prefixes: tuple[int, ...]
    starts: tuple[int, ...]
    prefix_starts: tuple[int, ...]

    @cached_property
    def attention(self) -> Packed:
        """How the layer attends."""
        own = tuple(length - prefix for length, prefix in zip(self.lengths, self.prefixes, strict=True))
        return Packed(own, prefixes=tuple(zip(self.prefix_starts, self.prefixes, strict=True)))

    @cached_property
    def sources(self) -> list[int] | None:
        """Packed index of every cache entry, sequences in order; None: they lie there one by one."""
        if not any(self.prefixes):
            return None
        rows: list[int] = []
        for length, prefix, start, prefix_start in zip(
            self.lengths, self.prefixes, self.starts, self.prefix_starts, strict=True
        ):
            rows.extend(range(prefix_start, prefix_start + prefix))
            rows.extend(range(start, start + length - prefix))
        return rows

    @property
    def ends(self) -> list[int]:
        """Packed index of the last token of each sequence."""
        zipped = zip(self.starts, self.lengths, self.prefixes, strict=True)
        return [start + length - prefix - 1 for start, length, prefix in zipped]


def shared_tokens(leader: PromptLayout, follower: PromptLayout, visual_tokens: int) -> int:
    """Tokens two prompts about the same clips have in common from the start; 0 if not all visual ones.

    At least one token of the follower stays its own: its last hidden state gives the first answer token.
    """
    if not leader.runs or leader.pieces[:-1] != follower.pieces[:-1]:
        return 0
    common = 0
    for mine, theirs in zip(leader.pieces[-1], follower.pieces[-1][:-1], strict=False):
        if mine != theirs:
            break
        common += 1
    return sum(len(piece) for piece in leader.pieces[:-1]) + visual_tokens + common
