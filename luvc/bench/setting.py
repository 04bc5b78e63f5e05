"""What is run: a model's shape with random weights, and the inputs that all contestants get."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """One benchmark: a model's shape and the inputs.

    Attributes:
        vision, text: fields of transformers' Qwen2.5-VL configurations.
        videos, frames, frame_px, new_tokens: the work.
    """

    vision: dict[str, Any]
    text: dict[str, Any]
    videos: int
    frames: int
    frame_px: int
    new_tokens: int

    def resized(self, videos: int | None = None, frames: int | None = None) -> Setting:
        """The same with another number of videos or frames."""
        return replace(self, videos=videos or self.videos, frames=frames or self.frames)


SETTINGS = {
    "tiny": Setting(
        dict(depth=4, hidden_size=64, intermediate_size=128, num_heads=4, fullatt_block_indexes=[1, 3]),
        dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128),
        *(4, 4, 112, 4),
    ),
    "cpu": Setting(
        dict(depth=12, hidden_size=384, intermediate_size=1536, num_heads=6, fullatt_block_indexes=[2, 5, 8, 11]),
        dict(
            hidden_size=896,
            num_hidden_layers=16,
            num_attention_heads=14,
            num_key_value_heads=2,
            intermediate_size=4864,
        ),
        *(16, 32, 224, 32),
    ),
    "gpu": Setting(
        dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, fullatt_block_indexes=[7, 15, 23, 31]),
        dict(
            hidden_size=3584,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            intermediate_size=18944,
            vocab_size=152064,
        ),
        *(64, 64, 448, 128),
    ),
}


def build(setting: Setting, device: torch.device, dtype: torch.dtype) -> Any:
    """A Qwen2.5-VL of random weights on `device`."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    head_dim = setting.text["hidden_size"] // setting.text["num_attention_heads"]
    section = [head_dim // 8, head_dim * 3 // 16, head_dim * 3 // 16]
    text = {
        "vocab_size": 32000,
        **setting.text,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {**setting.vision, "out_hidden_size": setting.text["hidden_size"]}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=2,
        video_token_id=3,
        vision_start_token_id=4,
        vision_end_token_id=5,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None  # every answer is exactly as long
    return model


def videos(setting: Setting, device: torch.device) -> list[Tensor]:
    """uint8 `[frames, px, px, 3]`, smooth noise, different for each video."""
    made = []
    for seed in range(setting.videos):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(setting.frames, 3, 8, 8, generator=generator) * 255
        frames = torch.nn.functional.interpolate(coarse, size=(setting.frame_px,) * 2, mode="bilinear")
        made.append(frames.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().to(device))
    return made
