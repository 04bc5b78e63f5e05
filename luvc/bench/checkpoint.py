"""Writes the benchmark's random model as a folder that vLLM can load.

vLLM takes no model object: it wants weights, a tokenizer and a processor's configuration on disk. The benchmark has
no text of any meaning, so the tokenizer is one word for each id. The processor is told not to resize: a frame
gives exactly the patches that the other contestants get.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luvc.preprocess import Normalisation

#: Names that transformers' Qwen2.5-VL processor looks for, by the field of the configuration that holds their id.
MARKS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
#: Far above any benchmark's clip, so that no frame is ever made smaller.
_MAX_PIXELS = 2**31
_CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def save_for_vllm(model: Any, folder: Path, tokenizer: Any = None) -> None:
    """Save a random Qwen2.5-VL with a tokenizer and a processor that fit it.

    Args:
        model: transformers' `Qwen2_5_VLForConditionalGeneration`; its ids say which words are special.
        folder: made if it is missing; files in it are overwritten.
        tokenizer: of transformers; None: one word for each id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if tokenizer is None:
        _save_words(model.config, folder)
    else:
        tokenizer.save_pretrained(folder)
    _save_processor(model.config.vision_config, folder)


def _save_words(config: Any, folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    text = config.get_text_config()
    special = {getattr(config, field): name for field, name in MARKS.items()} | {text.eos_token_id: END_OF_TEXT}
    unknown = next(index for index in range(text.vocab_size) if index not in special)
    special[unknown] = UNKNOWN
    words = {special.get(index, f"w{index}"): index for index in range(text.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": UNKNOWN,
        "model_max_length": text.max_position_embeddings,
        "chat_template": _CHAT_TEMPLATE,
    }
    _write(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")


def _save_processor(vision: Any, folder: Path) -> None:
    norm = Normalisation()
    shared = {
        "processor_class": "Qwen2_5_VLProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": False,
        "image_mean": list(norm.mean),
        "image_std": list(norm.std),
        "rescale_factor": 1 / 255,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "size": {"shortest_edge": (vision.patch_size * vision.spatial_merge_size) ** 2, "longest_edge": _MAX_PIXELS},
    }
    _write(folder / "preprocessor_config.json", {**shared, "image_processor_type": "Qwen2VLImageProcessor"})
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False}
    _write(folder / "video_preprocessor_config.json", {**shared, **video})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
