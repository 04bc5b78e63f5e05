"""InternVL (transformers' `InternVLForConditionalGeneration`): fixed frame size, class token, pixel shuffle.

A frame's patches are kept unit by unit (the 2x2 patches that pixel shuffle folds into one visual token),
so that merging whole units and the final fold are plain reshapes. Reference: transformers' modeling_internvl
and processing_internvl; equality with its `generate` is tested token for token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from luvc.compression import Compression
from luvc.errors import ConfigError, ModelError
from luvc.families.base import ClipPlan, Encoded, Prompt, PromptLayout, Runtime
from luvc.families.text import refuse_markers, text_shape
from luvc.scheduling import Schedule
from luvc.shapes import Grid, ModelShape, VisionShape

if TYPE_CHECKING:
    from torch import Tensor

    from luvc.packing import PackedPrompts
    from luvc.preprocess import Normalisation


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class InternVL:
    """Torch-free half; see `luvc.families.base.Family`."""

    name = "internvl"
    encoder_modules: tuple[str, ...] = ("vision_tower", "multi_modal_projector")

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        vision, text = config["vision_config"], text_shape(config["text_config"])
        frame_px, patch_px = _pair(vision.get("image_size", 448)), _pair(vision.get("patch_size", 14))
        fold = round(1 / float(config.get("downsample_ratio", 0.5)))
        layer = config.get("vision_feature_layer", -1)
        if not isinstance(layer, int):
            raise ModelError(f"vision_feature_layer {layer!r}: only one feature layer is supported")
        if patch_px[0] != patch_px[1] or any(edge % (patch_px[0] * fold) for edge in frame_px):
            raise ModelError(f"image_size {frame_px} with patch_size {patch_px} does not fold into {fold}x{fold} units")
        if config.get("vision_feature_select_strategy", "default") != "default":
            raise ModelError("vision_feature_select_strategy: only 'default' (class token dropped) is supported")
        depth = int(vision.get("num_hidden_layers", 24))
        width = int(vision.get("hidden_size", 1024))
        return ModelShape(
            family=self.name,
            vision=VisionShape(
                # Hidden state `layer` of depth + 1: blocks above it never run.
                blocks=layer if layer >= 0 else depth + 1 + layer,
                width=width,
                heads=int(vision.get("num_attention_heads", 16)),
                mlp_width=int(vision.get("intermediate_size", 4096)),
                gated_mlp=False,
                patch_px=patch_px[0],
                fold=fold,
                class_tokens=1,
                projector_flops=2 * (width * fold**2 * text.width + text.width**2),
            ),
            text=text,
            frame_px=frame_px,
        )

    def frame_size(
        self, shape: ModelShape, height: int, width: int, frames: int, max_frame_tokens: int | None = None
    ) -> tuple[int, int]:
        assert shape.frame_px is not None
        return shape.frame_px

    def fits(self, shape: ModelShape, height: int, width: int) -> bool:
        return (height, width) == shape.frame_px

    def grid(self, shape: ModelShape, frames: int, height: int, width: int) -> Grid:
        unit_px = shape.vision.patch_px * shape.vision.fold
        return Grid(frames, height // unit_px, width // unit_px)

    def runtime(self, model: Any, tokenizer: Any, normalisation: Normalisation) -> Runtime:
        return InternVLRuntime(model, tokenizer, normalisation)


class InternVLRuntime:
    """One loaded InternVL model; see `luvc.families.base.Runtime`."""

    def __init__(self, model: Any, tokenizer: Any, normalisation: Normalisation) -> None:
        from luvc.decoder import Decoder

        self.shape = FAMILY.shape(model.config.to_dict())
        self.tokenizer, self.normalisation = tokenizer, normalisation
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.decoder = Decoder(model.model.language_model, model.lm_head)
        self.image_token_id = int(model.config.image_token_id)
        self.device = next(model.parameters()).device
        # The tower's final norm applies only to its last hidden state.
        self.final_norm = model.config.vision_feature_layer in (-1, int(model.config.vision_config.num_hidden_layers))

    def check(self, compression: Compression) -> None:
        if compression.merge is not None and any(step.axis == "time" for step in compression.merge.steps):
            raise ConfigError(
                "compression.merge.steps: InternVL writes text between frames, which merging along time would tear",
                "use the axes height and width",
            )

    # Prompt ------------------------------------------------------------------------------------

    def layout(self, prompt: str, clips: Sequence[ClipPlan]) -> PromptLayout:
        tokenizer = self.tokenizer
        image, video = tokenizer.context_image_token, tokenizer.video_token
        one = tokenizer.start_image_token + image + tokenizer.end_image_token
        refuse_markers(prompt, (image, video, *tokenizer.all_special_tokens))
        content = [{"type": "image" if clip.image else "video"} for clip in clips]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for clip in clips:
            # From left to right; what is already filled in holds a marker of its own, hence the stand-in.
            listing = "\n".join(f"Frame{index + 1}: <\0>" for index in range(clip.schedule.grid.frames))
            text = text.replace(image, "<\0>", 1) if clip.image else text.replace(video, listing, 1)
        ids = tokenizer(text.replace("<\0>", one), add_special_tokens=False)["input_ids"]
        pieces: list[tuple[int, ...]] = []
        start = 0
        for place in [index for index, token in enumerate(ids) if token == self.image_token_id]:
            pieces.append(tuple(ids[start:place]))
            start = place + 1
        layout = PromptLayout((*pieces, tuple(ids[start:])))
        frames = sum(clip.schedule.grid.frames for clip in clips)
        if layout.runs != frames:
            raise ModelError(f"the chat template placed {layout.runs} of {frames} frames", "check the chat template")
        return layout

    # Encoder -----------------------------------------------------------------------------------

    def encode(self, clips: Sequence[Tensor], schedules: Sequence[Schedule], tokens: int) -> list[Encoded]:
        import torch

        from luvc.preprocess import resize

        plan = schedules[0]  # all clips share the frame size, hence grid and merge steps
        edge = self.shape.vision.patch_px * self.shape.vision.fold
        frames = torch.cat([resize(clip, (plan.grid.height * edge, plan.grid.width * edge)) for clip in clips])
        chunk = max(1, tokens * plan.grid.frames // max(plan.encoder_tokens))
        parts = [self._encode_frames(part, plan) for part in frames.split(chunk)]
        features, row, column = (torch.cat([part[index] for part in parts]) for index in range(3))
        sizes = [schedule.merged_tokens for schedule in schedules]
        split = zip(features.split(sizes), row.split(sizes), column.split(sizes), strict=True)
        return [Encoded(part, place, line) for part, place, line in split]

    def _encode_frames(self, frames: Tensor, plan: Schedule) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 `[frames, h, w, 3]` -> features `[tokens, dim]` and row, column `[tokens]`."""
        import torch

        from luvc import attention
        from luvc.preprocess import normalise
        from luvc.tower import Merging, fold_units

        fold, edge = self.shape.vision.fold, self.shape.vision.patch_px * self.shape.vision.fold
        dtype = self.tower.embeddings.patch_embeddings.projection.weight.dtype
        size = (plan.grid.height * edge, plan.grid.width * edge)
        sequence = self.tower.embeddings(normalise(frames, size, self.normalisation, dtype))
        patches = sequence[:, 1:].unflatten(1, (plan.grid.height * fold, plan.grid.width * fold))
        merging = Merging(fold_units(patches[:, :, :, None], fold), plan)
        sequence = torch.cat((sequence[:, :1], merging.grid.hidden.flatten(1, 3)), 1)
        bias = None
        for block, layer in enumerate(self.tower.encoder.layer[: self.shape.vision.blocks]):
            if merging.due(block):
                units = merging.at(block, sequence[:, 1:], partial(_keys, layer))
                sequence = torch.cat((sequence[:, :1], units.flatten(1, 3)), 1)
                bias = merging.attention_bias()
                if bias is not None:  # the class token has size 1
                    bias = torch.nn.functional.pad(bias.view(len(frames), -1), (1, 0))
            with attention.using(attention.Frames(bias)):
                sequence = layer(sequence)
                sequence = sequence[0] if isinstance(sequence, tuple) else sequence
        if self.final_norm:
            sequence = self.tower.layernorm(sequence)
        grid = merging.finish(merging.at(self.shape.vision.blocks, sequence[:, 1:]))
        features = self.projector(grid.hidden.flatten(3).flatten(0, 2))
        return features, grid.row.flatten(), grid.column.flatten()

    # Language model ----------------------------------------------------------------------------

    def pack(self, prompts: Sequence[Prompt]) -> PackedPrompts:
        import torch

        from luvc.memory import on_device
        from luvc.packing import PackedPrompts

        ids: list[int] = []
        positions: list[int] = []
        visual: list[int] = []
        lengths = []
        for prompt in prompts:
            start, position = len(ids), 0
            # Every frame is a run of its own between two pieces of text.
            plans = [clip.schedule for clip in prompt.clips for _ in range(clip.schedule.grid.frames)]
            for piece, plan in zip(prompt.layout.pieces, [*plans, None], strict=True):
                ids.extend(piece)
                positions.extend(range(position, position + len(piece)))
                position += len(piece)
                if plan is None:
                    continue
                merged = plan.merged_grid.height * plan.merged_grid.width
                visual.extend(range(len(ids), len(ids) + merged))
                ids.extend([self.image_token_id] * merged)
                # Original scale: the place inside the frame is added on the device, below.
                compact = plan.merge_is_compact
                positions.extend(range(position, position + merged) if compact else [position] * merged)
                position += merged if compact else plan.grid.height * plan.grid.width
            lengths.append(len(ids) - start)
        hidden = self.decoder.embed(on_device(ids, self.device))
        position_ids = on_device(positions, self.device, torch.float32)
        index = on_device(visual, self.device, torch.long)
        if visual:
            encoded = [pair for prompt in prompts for pair in zip(prompt.encoded, prompt.clips, strict=True)]
            features = torch.cat([clip.features for clip, _ in encoded])
            inside = [
                torch.zeros_like(clip.row)
                if plan.schedule.merge_is_compact
                else clip.row * plan.schedule.grid.width + clip.column
                for clip, plan in encoded
            ]
            hidden = hidden.index_copy(0, index, features.to(hidden.dtype))
            position_ids = position_ids.index_add(0, index, torch.cat(inside))
        plans_by_prompt = tuple(tuple(clip.schedule for clip in prompt.clips) for prompt in prompts)
        return PackedPrompts(hidden[None], position_ids[None], tuple(lengths), index, plans_by_prompt)

    def next_position(self, prompt: Prompt) -> int:
        plans = [clip.schedule for clip in prompt.clips]
        visual = sum(plan.merged_tokens if plan.merge_is_compact else plan.grid.units for plan in plans)
        return prompt.layout.text_tokens + visual

    def decode_positions(self, positions: Sequence[int]) -> Tensor:
        from luvc.memory import on_device

        return on_device(positions, self.device)[:, None]


def _keys(layer: Any, hidden: Tensor) -> Tensor:
    """Attention keys of a block for tokens of the residual stream, `[tokens, dim]` in and out."""
    keys = layer.attention.k_proj(layer.layernorm_before(hidden))
    return layer.attention.k_norm(keys)


FAMILY = InternVL()
