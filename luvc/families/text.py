"""What the families share: dimensions of their language models, and care with their prompt markers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from luvc.errors import RequestError
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


def refuse_markers(prompt: str, markers: Iterable[str]) -> None:
    """A user's text must not contain the model's control tokens: they would change the prompt's structure.

    Raises:
        RequestError: it contains one.
    """
    for marker in markers:
        if marker in prompt:
            raise RequestError(f"the prompt contains the model's own marker {marker!r}", "remove it")
