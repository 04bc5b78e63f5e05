"""transformers and this engine on the same model and the same uint8 frames; called once a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import luvc
from luvc import attention
from luvc.bench.setting import Setting
from luvc.compression import Compression
from luvc.engine import Budgets, Engine
from luvc.families import family_of
from luvc.prepared import prepare
from luvc.preprocess import Normalisation, normalise

PROMPT = tuple(range(100, 140))  # 40 text tokens around the video


class _Tokenizer:
    """The engine's tokenizer with random weights: one prompt, and text of no meaning."""

    chat_template = None
    all_special_tokens: tuple[str, ...] = ()

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return ""

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [*PROMPT[:20], 3, *PROMPT[20:]]}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return " ".join(map(str, ids))


class Generate:
    """transformers' greedy `generate` in batches of `size`."""

    def __init__(self, model: Any, setting: Setting, clips: Sequence[Tensor], size: int) -> None:
        self.model, self.setting, self.size = model, setting, size
        patches = [stock_patches(clip, model.dtype) for clip in clips]
        self.batches = [patches[start : start + size] for start in range(0, len(patches), size)]
        edge = setting.frame_px // 14
        self.grid = [(setting.frames + 1) // 2, edge, edge]
        visual = self.grid[0] * edge * edge // 4
        self.ids = torch.tensor([[*PROMPT[:20], *[3] * visual, *PROMPT[20:]]], device=clips[0].device)
        self.visual = visual

    def warm_up(self) -> None:
        """One batch."""
        self._run(self.batches[:1])

    def __call__(self) -> dict[str, Any]:
        """All videos."""
        self._run(self.batches)
        return {"tokens": {"visual": self.visual, "merged": self.visual, "mean_by_layer": self.visual}}

    @torch.inference_mode()
    def _run(self, batches: Sequence[Sequence[Tensor]]) -> None:
        for batch in batches:
            ids = self.ids.expand(len(batch), -1)
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == 3) * 2,
                pixel_values_videos=torch.cat(batch),
                video_grid_thw=torch.tensor([self.grid] * len(batch), device=ids.device),
                do_sample=False,
                max_new_tokens=self.setting.new_tokens,
            )


def stock_patches(clip: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels as the stock processor lays them out, `[patches, channel * 2 * 14 * 14]`."""
    size = (clip.shape[1], clip.shape[2])
    pixels = normalise(clip, size, Normalisation(), dtype)
    grid = pixels.reshape(len(pixels) // 2, 2, 3, size[0] // 28, 2, 14, size[1] // 28, 2, 14)
    return grid.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(0, 4).flatten(1).contiguous()


class Ours:
    """Our engine with one compression."""

    def __init__(self, model: Any, setting: Setting, clips: Sequence[Tensor], compression: Any) -> None:
        model.set_attn_implementation(attention.NAME)
        runtime = family_of(model.config.to_dict()).runtime(model, _Tokenizer(), Normalisation())
        budgets = Budgets(kv_bytes=(40 if clips[0].is_cuda else 2) << 30, max_new_tokens=setting.new_tokens)
        self.engine = Engine(runtime, Compression.from_any(compression), budgets, ())
        layers = (*runtime.decoder.model.layers.parameters(), *runtime.decoder.head.parameters())
        self._step_bytes = sum(weight.nbytes for weight in layers)  # of weights that every decode step reads
        prepare(model)  # as `luvc.load` does
        self.requests = [luvc.Request(str(index), ["?"], clip) for index, clip in enumerate(clips)]
        self.setting = setting

    def warm_up(self) -> None:
        """A few videos; on a GPU all, so that every size of batch has been seen and captured."""
        graphs = self.engine.graphs is not None
        list(self.engine.generate(self.requests if graphs else self.requests[:4]))

    def _rates(self, stages: dict[str, float]) -> dict[str, float]:
        """How near to the hardware: the schedule's FLOP a second, and bytes of weights read by decode steps."""
        (plan,) = self.engine._plan(self.requests[0]).plans
        steps, self.engine.decode_steps = self.engine.decode_steps, 0
        return {
            "encode_flop_per_s": plan.vision_flops() * len(self.requests) / stages["encode_s"],
            "prefill_flop_per_s": plan.prefill_flops(len(PROMPT)) * len(self.requests) / stages["prefill_s"],
            "decode_weight_bytes_per_s": self._step_bytes * steps / stages["decode_s"],
        }

    def __call__(self) -> dict[str, Any]:
        """All videos."""
        self.engine.decode_steps = 0
        done = list(self.engine.generate(self.requests))
        for each in done:
            if each.error is not None or len(each.answers[0].token_ids) != self.setting.new_tokens:
                raise RuntimeError(f"a request failed in the benchmark: {each.error}")
        counts = done[0].tokens
        names = ("encode_s", "prefill_s", "decode_s")
        stages = {name: sum(getattr(each.times, name) for each in done) for name in names}
        return {
            "stages": stages,
            "rates": self._rates(stages),
            "tokens": {"visual": counts.visual, "merged": counts.merged, "mean_by_layer": counts.mean_by_layer},
            "attention": self.engine.backend.name,
            "kv_bytes": self.engine.cache.allocated_bytes,
        }
