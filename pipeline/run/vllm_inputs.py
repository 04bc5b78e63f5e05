"""A request in vLLM's words: chat prompt, frames, and the count of its visual tokens. Does not import vllm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luvc.errors import ModelError, RequestError
from luvc.families import family_of
from luvc.families.base import Family
from luvc.scheduling import schedule
from luvc.shapes import ModelShape
from luvc.types import Clip, Request, TokenCounts

#: Seconds between two frames when nobody knows; as in transformers' processors (2 frames a second).
FRAME_INTERVAL_S = 0.5


class Chat:
    """Words user prompts with the checkpoint's chat template.

    Args:
        template: a processor or tokenizer of transformers that has one.
    """

    def __init__(self, template: Any) -> None:
        self._template = template

    @staticmethod
    def load(name: str, revision: str | None, trust_remote_code: bool) -> Chat:
        """From a folder or hub name. Raises ModelError."""
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(f"model.id {name!r}: its processor cannot be loaded: {error}") from error
        for found in (processor, getattr(processor, "tokenizer", None)):
            if getattr(found, "chat_template", None):
                return Chat(found)
        raise ModelError(f"model.id {name!r} has no chat template", "use a checkpoint made for chat or instructions")

    def text(self, prompt: str, clips: Sequence[Clip]) -> str:
        """The prompt behind its clips, ready for an answer."""
        content = [{"type": "image" if clip.image else "video"} for clip in clips]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
        text: str = self._template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text


def media_of(request: Request) -> dict[str, list[Any]]:
    """The clips of a request as `multi_modal_data`; empty without any.

    Raises:
        RequestError: frames that are not uint8 `[frames, height, width, 3]`.
    """
    media: dict[str, list[Any]] = {}
    for clip in request.media:
        frames = np.asarray(clip.frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise RequestError(
                f"request {request.id!r}: frames are {frames.dtype} {list(frames.shape)}",
                "uint8 [frames, height, width, 3] is needed",
            )
        if clip.image:
            from PIL import Image

            media.setdefault("image", []).append(Image.fromarray(frames[0]))
        else:
            media.setdefault("video", []).append((frames, _metadata(clip, len(frames))))
    return media


def _metadata(clip: Clip, frames: int) -> dict[str, Any]:
    """What vLLM wants to know of a video: it was sampled already, at this rate."""
    interval_s = clip.frame_interval_s or FRAME_INTERVAL_S
    return {
        "fps": 1 / interval_s,
        "duration": frames * interval_s,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "decoded",
        "do_sample_frames": False,
    }


class TokenCounter:
    """Counts visual tokens of prompts as vLLM made them.

    Args:
        config: the checkpoint's `config.json`.
        pruning_rate: share of a video's tokens that vLLM drops behind the encoder.
    """

    def __init__(self, config: Mapping[str, Any], pruning_rate: float = 0.0) -> None:
        text = config.get("text_config") or config.get("llm_config") or config
        self._layers = int(text.get("num_hidden_layers") or 0)
        names = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
        self._placeholders = frozenset(config[name] for name in names if config.get(name) is not None)
        self._pruning_rate = pruning_rate
        self._known = _family(config)

    def visual(self, prompt_ids: Sequence[int]) -> int:
        """Visual tokens among the ids of a prompt, as they enter the language model."""
        return sum(token in self._placeholders for token in prompt_ids)

    def count(self, prompt_ids: Sequence[int], clips: Sequence[Clip]) -> TokenCounts:
        """Counts of one request.

        vLLM reports what enters the language model. What the encoder saw follows from the frames where `luvc` knows
        the family; elsewhere patches are 0, and the count before pruning is estimated from its rate.
        """
        merged = self.visual(prompt_ids)
        by_layer = (merged,) * self._layers
        if self._known is None:
            return TokenCounts(0, round(merged / (1 - self._pruning_rate)), merged, by_layer)
        family, shape = self._known
        grids = [family.grid(shape, *np.asarray(clip.frames).shape[:3]) for clip in clips]
        patches = sum(schedule(shape, grid, "off").patches for grid in grids)
        visual = sum(grid.units for grid in grids) if self._pruning_rate else merged
        return TokenCounts(patches, visual, merged, by_layer)


def _family(config: Mapping[str, Any]) -> tuple[Family, ModelShape] | None:
    try:
        family = family_of(config)
        return family, family.shape(config)
    except ModelError:
        return None
