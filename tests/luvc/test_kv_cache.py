"""Slots of the KV cache under random histories, against a plain dictionary of tensors."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luvc.kv_cache import KVCache
from luvc.shapes import TextShape

TEXT = TextShape(layers=3, width=8, heads=4, kv_heads=2, head_dim=4, mlp_width=8, vocabulary=10, max_positions=999)


def fresh() -> KVCache:
    return KVCache(TEXT, torch.float32, torch.device("cpu"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_slot_reads_back_what_was_written_through_any_history(data):
    cache = fresh()
    mirror: list[list[torch.Tensor]] = []  # [slot][layer] -> [tokens, kv_heads, head_dim]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))

    def random(tokens: int) -> torch.Tensor:
        return torch.randn(tokens, 2, 4, generator=generator)

    for _ in range(data.draw(st.integers(1, 10))):
        action = data.draw(st.sampled_from(["add", "decode", "remove"]))
        if action == "add":
            count = data.draw(st.integers(1, 3))
            lengths = [[data.draw(st.integers(1, 90)) for _ in range(count)] for _ in range(TEXT.layers)]
            cache.reserve(count, [max(layer) + 12 for layer in lengths])
            cache.add(lengths)
            new = [[random(lengths[layer][i]) for layer in range(TEXT.layers)] for i in range(count)]
            for layer in range(TEXT.layers):
                packed = torch.cat([item[layer] for item in new]).transpose(0, 1)[None]
                keys, _ = cache.update(packed, packed + 1, layer)
                assert keys is packed
            mirror.extend(new)
        elif action == "decode" and mirror:
            masks = cache.begin_decode_step()
            for layer in range(TEXT.layers):
                step = random(len(mirror))
                keys, values = cache.update(step[:, :, None], step[:, :, None] + 1, layer)
                for slot, item in enumerate(mirror):
                    item[layer] = torch.cat((item[layer], step[slot : slot + 1]))
                    length = len(item[layer])
                    assert torch.equal(keys[slot, :, :length].transpose(0, 1), item[layer])
                    assert torch.equal(values[slot, :, :length].transpose(0, 1), item[layer] + 1)
                    mask = masks[layer]
                    alive = keys.shape[2] if mask is None else int(mask[slot].sum())
                    assert alive == length
        elif action == "remove" and mirror:
            slot = data.draw(st.integers(0, len(mirror) - 1))
            cache.remove(slot)
            mirror[slot] = mirror[-1]
            mirror.pop()
        assert cache.active == len(mirror)
    for layer in range(TEXT.layers):
        assert cache.lengths[layer] == [len(item[layer]) for item in mirror]


def test_layers_with_equal_lengths_share_one_mask():
    cache = fresh()
    cache.reserve(2, [10, 10, 4])
    cache.add([[5, 7], [5, 7], [3, 3]])
    first, second, third = cache.begin_decode_step()
    assert first is second
    assert third is None


def test_an_empty_cache_shrinks_to_what_is_needed_next():
    cache = fresh()
    cache.reserve(4, [1000] * 3)
    large = cache.allocated_bytes
    cache.reserve(1, [10] * 3)
    assert cache.allocated_bytes < large / 10
