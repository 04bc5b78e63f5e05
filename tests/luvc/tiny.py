"""Tiny random InternVL models with a byte-level tokenizer, and their reference answers from transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import luvc
from luvc.engine import Budgets, Engine
from luvc.preprocess import Normalisation, normalise

MARKERS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'video' %}<video>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(markers: tuple[str, ...], template: str, **extra: str) -> PreTrainedTokenizerFast:
    """One token a byte, plus `markers`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(markers))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", extra_special_tokens=extra
    )
    fast.chat_template = template
    return fast


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(
        MARKERS,
        TEMPLATE,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )


def randomise(built: torch.nn.Module, seed: int) -> None:
    """Larger weights than the usual initialisation: answers must depend on the picture and vary."""
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.12, generator=torch.Generator().manual_seed(seed + len(name)))
            if "position_embeddings" in name or "cls_token" in name:
                parameter.normal_(0, 0.5)


@lru_cache
def model(
    text: str = "llama", seed: int = 0, feature_layer: int = -1, frame_px: int = 32, layers: int = 4, blocks: int = 3
) -> InternVLForConditionalGeneration:
    """Vision 3x32 on 4x4-pixel patches (an 8x8 grid of patches, 4x4 units); language model 4x48."""
    torch.manual_seed(seed)
    vision = InternVLVisionConfig(
        hidden_size=32,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=[frame_px, frame_px],
        patch_size=[4, 4],
        attention_bias=True,
        use_mean_pooling=False,
        layer_scale_init_value=1.0,
    )
    shared: dict[str, Any] = dict(
        hidden_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=len(tokenizer()),
        max_position_embeddings=2048,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=(LlamaConfig if text == "llama" else Qwen2Config)(**shared),
        image_token_id=tokenizer().context_image_token_id,
        image_seq_length=(frame_px // 8) ** 2,
        vision_feature_layer=feature_layer,
        tie_word_embeddings=False,
    )
    built = InternVLForConditionalGeneration(config).eval()
    randomise(built, seed)
    built.generation_config.eos_token_id = tokenizer().convert_tokens_to_ids("<|im_end|>")
    built.generation_config.pad_token_id = built.generation_config.eos_token_id
    return built


def engine(compression: Any = "off", budgets: Budgets | None = None, **options: Any) -> Engine:
    # A copy: the reference keeps transformers' own attention.
    return luvc.load(
        copy.deepcopy(model(**options)),
        compression,
        processor=tokenizer(),
        budgets=budgets or Budgets(max_new_tokens=12),
    )


def smooth_clip(frames: int, seed: int, height: int, width: int) -> np.ndarray:
    """Smooth random frames: neighbouring patches differ, but not like noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (frames, 3, 6, 6))).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return smooth.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def clip(frames: int, seed: int, size: int = 32) -> np.ndarray:
    return smooth_clip(frames, seed, size, size)


def reference(
    built: InternVLForConditionalGeneration, clips: Sequence[luvc.Clip], prompt: str, new_tokens: int
) -> list[int]:
    """Greedy `generate` of the unmodified model, prompt built as transformers' InternVLProcessor does."""
    tok = tokenizer()
    one = "<img>" + "<IMG_CONTEXT>" * built.config.image_seq_length + "</img>"
    visual = ""
    for clip in clips:
        frames = [f"Frame{index + 1}: {one}" for index in range(len(clip.frames))]
        visual += (one if clip.image else "\n".join(frames)) + "\n"
    text = f"<|im_start|>user\n{visual}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    inputs: dict[str, Any] = dict(tok(text, return_tensors="pt", add_special_tokens=False))
    inputs.pop("token_type_ids", None)
    if clips:
        size = tuple(built.config.vision_config.image_size)
        pixels = [normalise(torch.from_numpy(clip.frames), size, Normalisation(), torch.float32) for clip in clips]
        inputs["pixel_values"] = torch.cat(pixels)
    with torch.inference_mode():
        out = built.generate(**inputs, do_sample=False, max_new_tokens=new_tokens)
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    eos = built.generation_config.eos_token_id
    return new[: new.index(eos)] if eos in new else new
