"""A tiny Qwen2.5-VL folder that both engines can run, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from luvc.bench_checkpoint import save_for_vllm
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.luvc import tiny
from tests.luvc.tiny_qwen import tokenizer


def save_tiny_qwen(folder: Path) -> Path:
    """Random weights; 14-pixel patches, heads of 32 channels (the least that vLLM attends with on CPUs)."""
    token = tokenizer().convert_tokens_to_ids
    text: dict[str, Any] = dict(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=96,
        vocab_size=len(tokenizer()),
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        bos_token_id=None,
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|im_end|>"),
    )
    vision: dict[str, Any] = dict(
        depth=2,
        hidden_size=64,
        num_heads=2,
        intermediate_size=96,
        out_hidden_size=64,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=56,
        fullatt_block_indexes=[1],
    )
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    tiny.randomise(model, 0)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|im_end|>")
    save_for_vllm(model, folder, tokenizer())
    return folder
