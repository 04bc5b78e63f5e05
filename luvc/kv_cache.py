"""KV cache with per-layer lengths: each layer holds what lived there, and no more.

Sequences sit in slots `0 .. active - 1`; a finished one is replaced by the last, so the active part is a
contiguous view and decode needs no gather. Lengths are host integers from the schedule: the device is never
asked. The layers of an unmodified transformers model talk to it through `update`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from luvc.memory import on_device
from luvc.shapes import TextShape

GRANULE = 64  # capacities grow in steps of this many tokens


class KVCache:
    """Slots of keys and values for one language model.

    Args:
        text: dimensions of the language model.
        dtype, device: of keys and values.
        static: keep the number of slots a power of two and grow in large steps, for captured decode steps.
    """

    def __init__(self, text: TextShape, dtype: torch.dtype, device: torch.device, static: bool = False) -> None:
        self.text, self.dtype, self.device, self.static = text, dtype, device, static
        self.granule = 256 if static else GRANULE
        self.generation = 0  # counts moves of the memory; what was captured before a move is void
        self.slots = 0
        self.active = 0
        self.capacity = [0] * text.layers
        self.lengths: list[list[int]] = [[] for _ in range(text.layers)]  # [layer][slot]
        self._keys: list[Tensor] = [self._empty(0, 0) for _ in range(text.layers)]
        self._values: list[Tensor] = [self._empty(0, 0) for _ in range(text.layers)]
        self._write: list[Tensor] = []
        self._sources: list[Tensor | None] = []
        self._decoding = False
        self._fixed: Tensor | None = None

    def slots_for(self, sequences: int) -> int:
        """Slots that so many sequences take up."""
        return 1 << max(0, sequences - 1).bit_length() if self.static else sequences

    @property
    def allocated_bytes(self) -> int:
        """Bytes held by keys and values of all slots."""
        return sum(part.numel() * part.element_size() for part in (*self._keys, *self._values))

    def reserve(self, sequences: int, capacity: list[int]) -> None:
        """Make room for `sequences` more slots of at least `capacity[layer]` tokens each."""
        slots = max(self.slots, self.slots_for(self.active + sequences))
        rounded = self.rounded(capacity)
        wanted = [max(old, new) for old, new in zip(self.capacity, rounded, strict=True)]
        if self.active == 0 and not self.static:
            wanted = rounded  # nobody to keep: shrink to what is needed
        elif self.active == 0 and sum(rounded) * 2 < sum(wanted):
            wanted = rounded  # captured steps are worth some room
        moved = slots != self.slots or wanted != self.capacity
        self.generation += moved
        for layer, tokens in enumerate(wanted):
            if slots == self.slots and tokens == self.capacity[layer]:
                continue
            keys, values = (self._moved(old, slots, tokens) for old in (self._keys[layer], self._values[layer]))
            # Together, so that a layer for which there is no memory leaves all as they are said to be.
            self._keys[layer], self._values[layer], self.capacity[layer] = keys, values, tokens
        self.slots = slots

    def rounded(self, capacity: Sequence[int]) -> list[int]:
        """Capacities as they are reserved."""
        return [-(-tokens // self.granule) * self.granule for tokens in capacity]

    def release(self) -> None:
        """Give the memory back, unless somebody is in it."""
        if self.active or not self.slots:
            return
        self.slots, self.capacity = 0, [0] * self.text.layers
        self._keys = [self._empty(0, 0) for _ in range(self.text.layers)]
        self._values = [self._empty(0, 0) for _ in range(self.text.layers)]
        self.generation += 1

    def add(self, layer_lengths: Sequence[Sequence[int]], sources: Sequence[list[int] | None] | None = None) -> None:
        """Take the next slots for a packed prefill; `layer_lengths[layer][i]` entries of new sequence i.

        The following `update` calls, one a layer, write packed `[1, kv_heads, tokens, head_dim]`. Entries are taken
        from the packed tokens one by one, or from `sources[layer]` where sequences share tokens.
        """
        first = self.active
        self._write, self._sources = [], []
        known: dict[int, Tensor | None] = {}
        for layer, lengths in enumerate(layer_lengths):
            starts = [(first + index) * self.capacity[layer] for index in range(len(lengths))]
            rows = [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
            self._write.append(on_device(torch.cat(rows), self.device))
            self.lengths[layer].extend(lengths)
            source = sources[layer] if sources is not None else None
            if id(source) not in known:
                known[id(source)] = None if source is None else on_device(source, self.device)
            self._sources.append(known[id(source)])
        self.active += len(layer_lengths[0])
        self._decoding, self._fixed = False, None

    def begin_decode_step(self) -> list[Tensor | None]:
        """Open one more token in every active slot; returns each layer's key mask (None: all alive).

        Masks are bool `[active, 1, 1, longest]`. Layers with the same lengths share one mask.
        """
        self._write, self._fixed = [], None
        masks: dict[tuple[int, ...], Tensor | None] = {}
        out = []
        for layer, lengths in enumerate(self.lengths):
            self._write.append(
                on_device([slot * self.capacity[layer] + length for slot, length in enumerate(lengths)], self.device)
            )
            self.lengths[layer] = lengths = [length + 1 for length in lengths]
            key = tuple(lengths)
            if key not in masks:
                longest = max(lengths)
                alive = on_device(lengths, self.device)[:, None, None, None]
                same = longest == min(lengths)
                masks[key] = None if same else torch.arange(longest, device=self.device) < alive
            out.append(masks[key])
        self._decoding = True
        return out

    def fixed_lengths(self, bucket: int) -> Tensor:
        """`[layers, bucket]` int32 entries of every slot, 0 where it is free; for `begin_fixed_step`."""
        padding = [0] * (bucket - self.active)
        return on_device([[*lengths, *padding] for lengths in self.lengths], self.device, torch.int32)

    def begin_fixed_step(self, lengths: Tensor) -> None:
        """Open one more token in the first slots, whatever is in them, by operations that can be captured.

        `lengths`: as `fixed_lengths` gives them, on the device. The host's lengths follow with `advance`.
        """
        self._fixed, self._decoding = lengths, True

    def advance(self) -> None:
        """Count the token of a fixed step."""
        self._fixed = None
        self.lengths = [[length + 1 for length in lengths] for lengths in self.lengths]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's layers: write the new keys and values, return those to attend to.

        Prefill returns what came in (packed); decode returns `[active, kv_heads, longest, head_dim]` views.
        """
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        flat = (0, 1)
        if self._fixed is not None:
            bucket, capacity = self._fixed.shape[1], self.capacity[layer_idx]
            rows = torch.arange(0, bucket * capacity, capacity, device=self.device) + self._fixed[layer_idx]
        else:
            rows = self._write[layer_idx]
        # Prefill is [1, heads, tokens, dim], decode [slots, heads, 1, dim]: both are tokens x heads x dim.
        source = None if self._decoding else self._sources[layer_idx]
        for cached, states in ((keys, key_states), (values, value_states)):
            new = states.transpose(1, 2).flatten(*flat)
            cached.flatten(*flat).index_copy_(0, rows, new if source is None else new[source])
        if not self._decoding:
            return key_states, value_states
        if self._fixed is not None:
            bucket = self._fixed.shape[1]
            return keys[:bucket].transpose(1, 2), values[:bucket].transpose(1, 2)
        longest = max(self.lengths[layer_idx])
        return (
            keys[: self.active, :longest].transpose(1, 2),
            values[: self.active, :longest].transpose(1, 2),
        )

    def remove(self, slot: int) -> None:
        """Free `slot`; the last active sequence moves into it. The caller mirrors the move."""
        last = self.active - 1
        for layer, lengths in enumerate(self.lengths):
            if slot != last:
                length = lengths[last]
                self._keys[layer][slot, :length] = self._keys[layer][last, :length]
                self._values[layer][slot, :length] = self._values[layer][last, :length]
                lengths[slot] = length
            lengths.pop()
        self.active = last

    def truncate(self, active: int) -> None:
        """Forget the sequences of slot `active` and above (a prefill that failed half-way)."""
        for lengths in self.lengths:
            del lengths[active:]
        self.active = active

    def _empty(self, slots: int, tokens: int) -> Tensor:
        shape = (slots, tokens, self.text.kv_heads, self.text.head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _moved(self, old: Tensor, slots: int, tokens: int) -> Tensor:
        new = self._empty(slots, tokens)
        if self.active:
            common = min(old.shape[1], tokens)
            new[: self.active, :common] = old[: self.active, :common]
        return new
