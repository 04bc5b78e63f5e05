"""Drives the unmodified decoder layers of a language model: packed prefill with pruning, batched decode.

Works for any transformers decoder whose layers take `(hidden, attention_mask, position_embeddings,
past_key_values)` and whose model has `embed_tokens`, `layers`, `norm` and `rotary_emb` (Llama, Qwen2,
Qwen3...). Knows nothing of videos or text: a sequence is embeddings, positions and the places of its
visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luvc import attention
from luvc.compression import Prune
from luvc.kv_cache import KVCache
from luvc.methods.select import select


@dataclass(frozen=True)
class PackedPrompts:
    """Several prompts end to end.

    Attributes:
        hidden: `[1, tokens, dim]` embeddings, visual features in place.
        positions: `[..., 1, tokens]` as the model's rotary embedding takes them; fractions are fine.
        lengths: tokens of each sequence.
        visual: `[visual_tokens]` packed index of every visual token, sequences in order.
        layer_visual: visual tokens alive, `[layer][sequence]`, from the schedule.
    """

    hidden: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    visual: Tensor
    layer_visual: tuple[tuple[int, ...], ...]

    def layer_lengths(self) -> list[list[int]]:
        """Tokens (text and visual) of each sequence in each layer."""
        text = [length - visual for length, visual in zip(self.lengths, self.layer_visual[0], strict=True)]
        return [[t + v for t, v in zip(text, alive, strict=True)] for alive in self.layer_visual]


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
        layer_lengths = prompts.layer_lengths()
        cache.add(layer_lengths)
        hidden, visual, alive = prompts.hidden, prompts.visual, prompts.layer_visual[0]
        cos, sin = self.model.rotary_emb(hidden, prompts.positions)
        for index, layer in enumerate(self.model.layers):
            wanted = prompts.layer_visual[index]
            if wanted != alive:
                assert prune is not None
                keep, visual = _survivors(hidden[0], visual, alive, wanted, prune)
                hidden, cos, sin, alive = hidden[:, keep], cos[..., keep, :], sin[..., keep, :], wanted
            with attention.using(attention.Packed(tuple(layer_lengths[index]))):
                hidden = self._layer(layer, hidden, (cos, sin), cache)
        ends = torch.tensor(layer_lengths[-1], device=hidden.device).cumsum(0) - 1
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


def _survivors(
    hidden: Tensor, visual: Tensor, alive: Seq[int], wanted: Seq[int], prune: Prune
) -> tuple[Tensor, Tensor]:
    """Packed indices of the tokens that go on, and the visual tokens' places among them."""
    kept_visual = visual[select(hidden[visual], tuple(alive), tuple(wanted), prune)]
    going = torch.ones(hidden.shape[0], dtype=torch.bool, device=hidden.device)
    going[visual] = False
    going[kept_visual] = True
    total = hidden.shape[0] - sum(alive) + sum(wanted)
    keep = (~going).to(torch.uint8).argsort(stable=True)[:total]
    place = going.long().cumsum(0) - 1
    return keep, place[kept_visual]
