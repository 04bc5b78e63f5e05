"""Tiny random Qwen2.5-VL and Qwen2-VL models, and their reference answers from transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

import luvc
from luvc.engine import Budgets, Engine
from luvc.preprocess import Normalisation, normalise
from tests.luvc import tiny

MARKERS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.byte_tokenizer(MARKERS, TEMPLATE)


@lru_cache
def model(text: str = "qwen2_5_vl", seed: int = 0) -> Any:
    """Vision 4x32 on 4-pixel patches (8-pixel units, windows of 2x2 units), language model 4x48."""
    token = tokenizer().convert_tokens_to_ids
    shared: dict[str, Any] = dict(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=len(tokenizer()),
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
        bos_token_id=None,
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|im_end|>"),
    )
    tokens = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": False,
    }
    vision: dict[str, Any] = dict(depth=4, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
    torch.manual_seed(seed)
    if text == "qwen2_5_vl":
        vision |= dict(
            hidden_size=32, intermediate_size=64, out_hidden_size=48, window_size=16, fullatt_block_indexes=[1, 3]
        )
        built: Any = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(vision_config=vision, text_config=shared, **tokens)
        )
    else:
        vision |= dict(embed_dim=32, hidden_size=48, mlp_ratio=2)
        built = Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, text_config=shared, **tokens))
    tiny.randomise(built.eval(), seed)
    built.generation_config.eos_token_id = token("<|im_end|>")
    built.generation_config.pad_token_id = token("<|im_end|>")
    return built


def engine(compression: Any = "off", budgets: Budgets | None = None, **options: Any) -> Engine:
    return luvc.load(
        copy.deepcopy(model(**options)),
        compression,
        processor=tokenizer(),
        budgets=budgets or Budgets(max_new_tokens=12),
    )


def clip(frames: int, seed: int, size: int = 32) -> np.ndarray:
    """Frames of several shapes, all multiples of the 8-pixel unit; borders cut windows short."""
    height, width = [(size, size), (size - 8, size), (size + 8, size - 16), (8, size + 8)][seed % 4]
    return tiny.smooth_clip(frames, seed, height, width)


def stock_patches(video: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels as transformers' Qwen2VLVideoProcessor lays them out, written out longhand; and grid_thw."""
    pixels = normalise(torch.from_numpy(video), video.shape[1:3], Normalisation(), torch.float32)
    if len(pixels) % 2:
        pixels = torch.cat((pixels, pixels[-1:]))
    height, width = pixels.shape[2] // 4, pixels.shape[3] // 4
    rows = []
    for t in range(0, len(pixels), 2):
        for y in range(0, height, 2):
            for x in range(0, width, 2):
                for dy in range(2):
                    for dx in range(2):
                        top, left = (y + dy) * 4, (x + dx) * 4
                        patch = pixels[t : t + 2, :, top : top + 4, left : left + 4]
                        rows.append(patch.transpose(0, 1).flatten())  # channel, frame, row, column
    return torch.stack(rows), torch.tensor([[len(pixels) // 2, height, width]])


def reference(built: Any, clips: Sequence[luvc.Clip], prompt: str, new_tokens: int) -> list[int]:
    """Greedy `generate` of the unmodified model with inputs as the stock processor makes them."""
    tok = tokenizer()
    visual = ""
    pixels: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    grids: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    seconds = []
    for clip in clips:
        patches, grid = stock_patches(clip.frames)
        pixels[clip.image].append(patches)
        grids[clip.image].append(grid)
        pad = "<|image_pad|>" if clip.image else "<|video_pad|>"
        visual += f"<|vision_start|>{pad * (int(grid.prod()) // 4)}<|vision_end|>"
        if not clip.image:
            seconds.append(2 * (clip.frame_interval_s or 0.5))
    inputs: dict[str, Any] = {}
    if pixels[True]:
        inputs |= {"pixel_values": torch.cat(pixels[True]), "image_grid_thw": torch.cat(grids[True])}
    if pixels[False]:
        inputs |= {"pixel_values_videos": torch.cat(pixels[False]), "video_grid_thw": torch.cat(grids[False])}
        if built.config.model_type == "qwen2_5_vl":
            inputs["second_per_grid_ts"] = torch.tensor(seconds)
    text = f"<|im_start|>user\n{visual}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = tok(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    kinds = (ids == built.config.image_token_id) * 1 + (ids == built.config.video_token_id) * 2
    with torch.inference_mode():
        out = built.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=kinds,
            **inputs,
            do_sample=False,
            max_new_tokens=new_tokens,
        )
    new = out[0, ids.shape[1] :].tolist()
    eos = built.generation_config.eos_token_id
    return new[: new.index(eos)] if eos in new else new
