"""Dimensions of the decoder-only language models inside the supported families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luvc.shapes import TextShape


def text_shape(text: Mapping[str, Any]) -> TextShape:
    """From the text part of a `config.json` (Llama, Qwen2, Qwen3 and others of the same keys)."""
    heads = int(text["num_attention_heads"])
    return TextShape(
        layers=int(text["num_hidden_layers"]),
        width=int(text["hidden_size"]),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or int(text["hidden_size"]) // heads),
        mlp_width=int(text["intermediate_size"]),
        vocabulary=int(text["vocab_size"]),
        max_positions=int(text.get("max_position_embeddings", 32768)),
    )
