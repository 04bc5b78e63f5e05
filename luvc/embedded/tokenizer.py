"""SmolLM2's tokenizer, taught the four names that InternVL's processor needs.

The vocabulary keeps its size: four special tokens that SmolLM2 reserved for code repositories, and that its
instruction tuning never used, get new names. So no embedding row is added and the head stays tied. Built from
the GGUF's own tables; it names the splitting rule ("smollm") that llama.cpp and SmolLM2 use: single digits,
then GPT-2's bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import GGUFReader

# id -> (reserved name, new name, the attribute InternVLProcessor reads it by)
RENAMED = {
    3: ("<repo_name>", "<img>", "start_image_token"),
    4: ("<reponame>", "</img>", "end_image_token"),
    5: ("<file_sep>", "<IMG_CONTEXT>", "context_image_token"),
    6: ("<filename>", "<video>", "video_token"),
}
CONTROL_TOKEN = 3  # GGUF's token type of special tokens

# The template of the InternVL3 checkpoints without their system prompt. The processor then replaces `<video>` by
# `Frame1: <img>...</img>\\nFrame2: ...` and `<IMG_CONTEXT>` by `<img>...</img>`.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_tokenizer(gguf: GGUFReader, folder: Path, max_tokens: int) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` into `folder`.

    Raises:
        ValueError: the GGUF's vocabulary is not SmolLM2's.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = gguf.fields["tokenizer.ggml.tokens"].contents()
    merges = gguf.fields["tokenizer.ggml.merges"].contents()
    kinds = gguf.fields["tokenizer.ggml.token_type"].contents()
    for token_id, (old, new, _) in RENAMED.items():
        if tokens[token_id] != old:
            raise ValueError(f"token {token_id} is {tokens[token_id]!r}, expected {old!r}: not SmolLM2's vocabulary")
        tokens[token_id] = new

    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL_TOKEN
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)

    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {attribute: new for _, new, attribute in RENAMED.values()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
