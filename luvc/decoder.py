"""Drives the unmodified decoder layers of a language model: packed prefill with pruning, batched decode.

Works for any transformers decoder whose layers take `(hidden, attention_mask, position_embeddings,
past_key_values)` and whose model has `embed_tokens`, `layers`, `norm` and `rotary_emb` (Llama, Qwen2,
Qwen3...). Knows nothing of videos or text: a sequence is embeddings, positions and the places of its
visual tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from luvc import attention
from luvc.compression import Prune
from luvc.kv_cache import KVCache
from luvc.memory import on_device
from luvc.methods.candidates import Candidates
from luvc.methods.select import select
from luvc.packing import PackedPrompts


class Decoder:
    """The language model of a vision-language model.

    Args:
        model: transformers decoder (`language_model`), its attention set to `luvc.attention.NAME`.
        head: maps the final hidden state to logits.
    """

    def __init__(self, model: Any, head: Any) -> None:
        self.model, self.head = model, head

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids `[tokens]` -> embeddings `[tokens, dim]`."""
        return self.model.embed_tokens(ids)

    def prefill(self, prompts: PackedPrompts, cache: KVCache, prune: Prune | None) -> Tensor:
        """Run all prompts through all layers, pruning visual tokens on the way; fill new cache slots.

        Returns:
            Logits after the last token of each sequence, `[sequences, vocabulary]`.
        """
        layers = prompts.layers(len(self.model.layers))
        cache.add([layer.lengths for layer in layers], [layer.sources for layer in layers])
        hidden, visual = prompts.hidden, Visual.fresh(prompts)
        cos, sin = self.model.rotary_emb(hidden, prompts.positions)
        for index, (module, layer) in enumerate(zip(self.model.layers, layers, strict=True)):
            wanted = tuple(plan.layer_tokens[index] for plan in prompts.clips)
            if wanted != visual.lengths:
                assert prune is not None
                keep, visual = _survivors(hidden[0], visual, wanted, prune, module)
                hidden, cos, sin = hidden[:, keep], cos[..., keep, :], sin[..., keep, :]
            with attention.using(layer.attention):
                hidden = self._layer(module, hidden, (cos, sin), cache)
        ends = on_device(layers[-1].ends, hidden.device)
        return self.head(self.model.norm(hidden[0, ends]))

    def decode(self, ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """One step of every active sequence.

        Args:
            ids: `[active]` last token of each slot.
            positions: `[..., active, 1]` its position.

        Returns:
            Logits `[active, vocabulary]`.
        """
        hidden = self.embed(ids)[:, None]
        position_embeddings = self.model.rotary_emb(hidden, positions)
        masks = cache.begin_decode_step()
        for layer, mask in zip(self.model.layers, masks, strict=True):
            with attention.using(attention.Decode(mask)):
                hidden = self._layer(layer, hidden, position_embeddings, cache)
        return self.head(self.model.norm(hidden[:, 0]))

    def decode_fixed(self, ids: Tensor, positions: Tensor, lengths: Tensor, cache: KVCache) -> Tensor:
        """`decode` over the first `len(ids)` slots, active or not, by operations of fixed shapes only.

        `lengths`: `[layers, slots]` entries of each slot before this token, see `KVCache.fixed_lengths`.
        """
        hidden = self.embed(ids)[:, None]
        position_embeddings = self.model.rotary_emb(hidden, positions)
        cache.begin_fixed_step(lengths)
        for layer, alive in zip(self.model.layers, lengths + 1, strict=True):
            with attention.using(attention.Decode(None, alive)):
                hidden = self._layer(layer, hidden, position_embeddings, cache)
        return self.head(self.model.norm(hidden[:, 0]))

    @staticmethod
    def _layer(layer: Any, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor], cache: KVCache) -> Tensor:
        out = layer(
            hidden,
            attention_mask=None,
            position_embeddings=position_embeddings,
            past_key_values=cache,
            use_cache=True,
        )
        return out[0] if isinstance(out, tuple) else out


@dataclass(frozen=True)
class Visual:
    """The visual tokens that are alive.

    Attributes:
        index: `[tokens]` their places in the packed sequence.
        place: `[tokens]` visual index of each in its own clip, before pruning.
        lengths: how many each clip has.
        original, frame_tokens: tokens of each clip and of each of its frames before pruning.
    """

    index: Tensor
    place: Tensor
    lengths: tuple[int, ...]
    original: tuple[int, ...]
    frame_tokens: tuple[int, ...]

    @staticmethod
    def fresh(prompts: PackedPrompts) -> Visual:
        lengths = tuple(plan.merged_tokens for plan in prompts.clips)
        places = [torch.arange(length, device=prompts.visual.device) for length in lengths]
        place = torch.cat(places) if places else prompts.visual
        frame_tokens = tuple(plan.merged_grid.height * plan.merged_grid.width for plan in prompts.clips)
        return Visual(prompts.visual, place, lengths, lengths, frame_tokens)


def _survivors(
    hidden: Tensor, visual: Visual, wanted: tuple[int, ...], prune: Prune, layer: Any
) -> tuple[Tensor, Visual]:
    """Packed indices of the tokens that go on, and the visual ones among them."""
    candidates = Candidates(
        hidden[visual.index], visual.place, visual.lengths, visual.original, visual.frame_tokens, layer
    )
    chosen = select(candidates, wanted, prune)
    going = torch.ones(hidden.shape[0], dtype=torch.bool, device=hidden.device)
    going[visual.index] = False
    going[visual.index[chosen]] = True
    total = hidden.shape[0] - sum(visual.lengths) + sum(wanted)
    keep = (~going).to(torch.uint8).argsort(stable=True)[:total]
    packed = (going.long().cumsum(0) - 1)[visual.index[chosen]]
    return keep, replace(visual, index=packed, place=visual.place[chosen], lengths=wanted)
