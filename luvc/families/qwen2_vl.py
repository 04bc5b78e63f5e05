"""Qwen2.5-VL and Qwen2-VL: frames of any size, 2x2 units, windows, rotary positions in three axes.

Two orders of units are used in the encoder: *frame order* (clip, frame, row, column), in which merging is a
reshape, and *window order* (windows sorted by size, so that equal ones form one batched attention call).
Positions are the size-weighted means of the original ones, in original coordinates, both in the encoder
(row, column of a patch) and in the language model (M-RoPE: time, row, column). Reference: transformers'
modeling_qwen2_5_vl; equality with its `generate` is tested token for token.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from luvc.compression import Compression
from luvc.errors import ModelError, RequestError
from luvc.families.base import ClipPlan, Encoded, Prompt, PromptLayout, Runtime
from luvc.families.text import refuse_markers, text_shape
from luvc.scheduling import Schedule
from luvc.shapes import Grid, ModelShape, VisionShape

if TYPE_CHECKING:
    from torch import Tensor

    from luvc.attention import Packed
    from luvc.packing import PackedPrompts
    from luvc.preprocess import Normalisation
    from luvc.tower import Merging

# Limits of the stock processors, in visual tokens (units of 28 x 28 pixels): transformers'
# Qwen2VLVideoProcessor (per frame, and 90 % of the context for all frames) and Qwen2VLImageProcessor.
MIN_FRAME_TOKENS, MAX_FRAME_TOKENS = 128, 768
VIDEO_TOKENS = int(128_000 * 0.9)
MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS = 4, 1280


class Qwen2VL:
    """Torch-free half; see `luvc.families.base.Family`."""

    encoder_modules: tuple[str, ...] = ("visual",)

    def __init__(self, name: str) -> None:
        self.name = name

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        vision, text = config["vision_config"], text_shape(config.get("text_config") or config)
        fold, patch_px = int(vision.get("spatial_merge_size", 2)), int(vision.get("patch_size", 14))
        windows = self.name == "qwen2_5_vl"
        width = int(vision["hidden_size"] if windows else vision.get("embed_dim", 1280))
        mlp_width = int(vision["intermediate_size"] if windows else width * vision.get("mlp_ratio", 4))
        return ModelShape(
            family=self.name,
            vision=VisionShape(
                blocks=int(vision.get("depth", 32)),
                width=width,
                heads=int(vision.get("num_heads", 16)),
                mlp_width=mlp_width,
                gated_mlp=windows,
                patch_px=patch_px,
                fold=fold,
                frames_per_patch=int(vision.get("temporal_patch_size", 2)),
                projector_flops=2 * ((width * fold**2) ** 2 + width * fold**2 * text.width),
                window_units=int(vision.get("window_size", 112)) // patch_px // fold if windows else 0,
                full_blocks=tuple(vision.get("fullatt_block_indexes", ())) if windows else (),
            ),
            text=text,
        )

    def frame_size(
        self, shape: ModelShape, height: int, width: int, frames: int, max_frame_tokens: int | None = None
    ) -> tuple[int, int]:
        edge = shape.vision.patch_px * shape.vision.fold
        if max(height, width) > 200 * min(height, width):
            raise RequestError(f"frames of {width} x {height} pixels: the aspect ratio is above 200")
        low, high = (MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS) if frames == 1 else (MIN_FRAME_TOKENS, MAX_FRAME_TOKENS)
        low_px, high_px = low * edge * edge, high * edge * edge
        if frames > 1:
            share_px = VIDEO_TOKENS * edge * edge * shape.vision.frames_per_patch // frames
            high_px = max(min(high_px, share_px), int(low_px * 1.05))
        if max_frame_tokens is not None:
            high_px = max_frame_tokens * edge * edge
            low_px = min(low_px, high_px)
        rows, columns = round(height / edge), round(width / edge)
        if rows * columns * edge * edge > high_px:
            scale = math.sqrt(height * width / high_px)
            rows, columns = (max(1, math.floor(side / scale / edge)) for side in (height, width))
        elif rows * columns * edge * edge < low_px:
            scale = math.sqrt(low_px / (height * width))
            rows, columns = (math.ceil(side * scale / edge) for side in (height, width))
        return rows * edge, columns * edge

    def fits(self, shape: ModelShape, height: int, width: int) -> bool:
        edge = shape.vision.patch_px * shape.vision.fold
        return height % edge == 0 and width % edge == 0

    def grid(self, shape: ModelShape, frames: int, height: int, width: int) -> Grid:
        edge = shape.vision.patch_px * shape.vision.fold
        return Grid(-(-frames // shape.vision.frames_per_patch), height // edge, width // edge)

    def runtime(self, model: Any, tokenizer: Any, normalisation: Normalisation) -> Runtime:
        return Qwen2VLRuntime(self, model, tokenizer, normalisation)


class Qwen2VLRuntime:
    """One loaded model; see `luvc.families.base.Runtime`."""

    def __init__(self, family: Qwen2VL, model: Any, tokenizer: Any, normalisation: Normalisation) -> None:
        from luvc.decoder import Decoder

        self.family, self.shape = family, family.shape(model.config.to_dict())
        self.tokenizer, self.normalisation = tokenizer, normalisation
        self.model, self.tower = model.model, model.model.visual
        self.decoder = Decoder(model.model.language_model, model.lm_head)
        self.video_token_id, self.image_token_id = int(model.config.video_token_id), int(model.config.image_token_id)
        self.device = next(model.parameters()).device

    def check(self, compression: Compression) -> None:
        """Every compression is supported."""

    # Prompt ------------------------------------------------------------------------------------

    def layout(self, prompt: str, clips: Sequence[ClipPlan]) -> PromptLayout:
        vision = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
        refuse_markers(prompt, (*vision, *self.tokenizer.all_special_tokens))
        kinds = ["image" if clip.image else "video" for clip in clips]
        content = [*({"type": kind, kind: kind} for kind in kinds), {"type": "text", "text": prompt}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces: list[tuple[int, ...]] = []
        start = 0
        for place in [i for i, token in enumerate(ids) if token in (self.video_token_id, self.image_token_id)]:
            pieces.append(tuple(ids[start:place]))
            start = place + 1
        layout = PromptLayout((*pieces, tuple(ids[start:])))
        if layout.runs != len(clips):
            raise ModelError(f"the chat template placed {layout.runs} of {len(clips)} clips", "check the template")
        return layout

    # Encoder -----------------------------------------------------------------------------------

    def encode(self, clips: Sequence[Tensor], schedules: Sequence[Schedule], tokens: int) -> list[Encoded]:
        import torch

        # Frames are independent in the encoder: pool those of equal grid, whatever clip they come from.
        # Merging along time is the exception: then clips of equal length are pooled, and never cut.
        pools: dict[tuple[int, ...], list[int]] = {}
        for index, plan in enumerate(schedules):
            whole = any(step.axis == "time" for step in plan.merge_steps)
            key = (plan.grid.height, plan.grid.width, plan.grid.frames if whole else 0)
            pools.setdefault(key, []).append(index)
        done: dict[int, Encoded] = {}
        for (height, width, clip_frames), members in pools.items():
            plan = schedules[members[0]]
            edge = self.shape.vision.patch_px * self.shape.vision.fold
            frames = torch.cat([self._frames(clips[index], (height * edge, width * edge)) for index in members])
            chunk = max(1, tokens // (height * width * self.shape.vision.fold**2))
            if clip_frames:
                chunk = max(1, chunk // clip_frames) * clip_frames
            # Pixels are made chunk by chunk: as float32 they are four times the frames.
            pieces = frames.split(chunk * self.shape.vision.frames_per_patch)
            parts = [self._run(self._patches(piece, height, width), plan) for piece in pieces]
            columns = [torch.cat([part[index] for part in parts]) for index in range(4)]
            sizes = [schedules[index].merged_tokens for index in members]
            for index, *encoded in zip(members, *(column.split(sizes) for column in columns), strict=True):
                features, row, column, time = encoded
                done[index] = Encoded(features, row, column, time if clip_frames else None)
        return [done[index] for index in range(len(clips))]

    def _frames(self, clip: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 `[frames, *size, 3]`; the last comes twice where frames are folded in pairs, as in stock."""
        import torch

        from luvc.preprocess import resize

        clip = resize(clip, size)
        missing = -len(clip) % self.shape.vision.frames_per_patch
        return torch.cat((clip, clip[-1:].expand(missing, -1, -1, -1))) if missing else clip

    def _patches(self, frames: Tensor, height: int, width: int) -> Tensor:
        """uint8 `[t * frames_per_patch, h, w, 3]` -> `[t, height, width, slots, patch_pixels]`, as stock processors."""
        from luvc.preprocess import normalise

        vision = self.shape.vision
        p, f, k = vision.patch_px, vision.fold, vision.frames_per_patch
        dtype = self.tower.patch_embed.proj.weight.dtype
        pixels = normalise(frames, (height * f * p, width * f * p), self.normalisation, dtype)
        pixels = pixels.reshape(-1, k, 3, height, f, p, width, f, p)
        # time, row, column, slot row, slot column | channel, frame, pixel row, pixel column
        return pixels.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, height, width, f * f, 3 * k * p * p)

    def _run(self, patches: Tensor, plan: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels `[frames, rows, columns, slots, patch_pixels]` of one grid through all blocks.

        Returns:
            Features `[tokens, dim]` and row, column, time `[tokens]`.
        """
        import torch

        from luvc.tower import Merging

        vision = self.shape.vision
        merging = Merging(torch.nn.functional.linear(patches, self.tower.patch_embed.proj.weight.flatten(1)), plan)
        hidden, windowed = merging.grid.hidden.flatten(0, 3), False
        orders = _Orders(merging, self._rotary(merging))
        for block, layer in enumerate(self.tower.blocks):
            if merging.due(block):
                hidden = orders.to_frames(hidden) if windowed else hidden
                hidden = merging.at(block, hidden, partial(_keys, layer)).flatten(0, 3)
                orders, windowed = _Orders(merging, self._rotary(merging)), False
            wanted = bool(vision.window_units) and block not in vision.full_blocks
            if wanted != windowed:
                hidden = orders.to_windows(hidden) if wanted else orders.to_frames(hidden)
                windowed = wanted
            hidden = _block(layer, hidden, orders.rotary(windowed), orders.attention(windowed))
        hidden = orders.to_frames(hidden) if windowed else hidden
        grid = merging.finish(merging.at(len(self.tower.blocks), hidden))
        features = self.tower.merger(grid.hidden.flatten(0, 3))
        return features, grid.row.flatten(), grid.column.flatten(), grid.time.flatten()

    def _rotary(self, merging: Merging) -> tuple[Tensor, Tensor]:
        """cos and sin `[patches, 1, head_dim / 2]` in frame order."""
        import torch

        frequency = self.tower.rotary_pos_emb.inv_freq.float()
        angle = torch.cat([place[:, None] * frequency for place in merging.patch_positions()], -1)[:, None]
        return angle.cos(), angle.sin()

    # Language model ----------------------------------------------------------------------------

    def pack(self, prompts: Sequence[Prompt]) -> PackedPrompts:
        import torch

        from luvc.memory import on_device
        from luvc.packing import PackedPrompts

        ids: list[int] = []
        visual: list[int] = []
        positions: list[Tensor] = []
        lengths = []
        for prompt in prompts:
            start = len(ids)
            original, _ = self._rope_index(prompt)
            clips = zip(prompt.clips, prompt.encoded, strict=True)
            for piece in prompt.layout.pieces:
                ids.extend(piece)
                positions.append(original[:, : len(piece)])
                original = original[:, len(piece) :]
                if (clip := next(clips, None)) is None:
                    continue
                plan = clip[0].schedule
                visual.extend(range(len(ids), len(ids) + plan.merged_tokens))
                ids.extend([self.image_token_id if clip[0].image else self.video_token_id] * plan.merged_tokens)
                positions.append(self._visual_positions(plan, clip[1], original))
                original = original[:, plan.grid.units :]
            lengths.append(len(ids) - start)
        hidden = self.decoder.embed(on_device(ids, self.device))
        index = on_device(visual, self.device, torch.long)
        if visual:
            features = torch.cat([clip.features for prompt in prompts for clip in prompt.encoded])
            hidden = hidden.index_copy(0, index, features.to(hidden.dtype))
        position = torch.cat([on_device(part.float(), self.device) for part in positions], 1)
        plans = tuple(tuple(clip.schedule for clip in prompt.clips) for prompt in prompts)
        return PackedPrompts(hidden[None], position[:, None], tuple(lengths), index, plans)

    def _visual_positions(self, plan: Schedule, encoded: Encoded, original: Tensor) -> Tensor:
        """M-RoPE positions `[3, merged_tokens]` of merged tokens, in original coordinates.

        `original`: `[3, >= units]`, positions of the clip's tokens without merging.
        """
        import torch

        from luvc.memory import on_device

        frame = plan.grid.height * plan.grid.width
        times = on_device(original[0, : plan.grid.units : frame].float(), self.device)
        row, column = encoded.row, encoded.column
        if plan.merge_is_compact:
            merged = plan.merged_grid
            place = torch.arange(merged.units, device=self.device) % (merged.height * merged.width)
            row, column = place // merged.width, place % merged.width
        if encoded.time is None:
            time = times.repeat_interleave(plan.merged_tokens // plan.grid.frames)
        else:  # a unit merged along time lies between two frames
            before = encoded.time.floor().long()
            time = torch.lerp(times[before], times[(before + 1).clamp(max=len(times) - 1)], encoded.time - before)
        return torch.stack((time, row + int(original[1, 0]), column + int(original[2, 0])))

    def next_position(self, prompt: Prompt) -> int:
        return self._rope_index(prompt)[1]

    def decode_positions(self, positions: Sequence[int]) -> Tensor:
        from luvc.memory import on_device

        return on_device(positions, self.device)[None, :, None].expand(3, -1, -1)

    def _rope_index(self, prompt: Prompt) -> tuple[Tensor, int]:
        """Positions `[3, tokens]` of the uncompressed prompt on the host, and the one after it."""
        per_patch = self.shape.vision.frames_per_patch
        pieces = tuple(len(piece) for piece in prompt.layout.pieces)
        # Stock processors assume two frames a second where the rate is unknown.
        clips = tuple(
            (clip.schedule.grid, clip.image, per_patch * (clip.frame_interval_s or 0.5)) for clip in prompt.clips
        )
        return self._cached_rope_index(pieces, clips)

    @lru_cache(maxsize=512)  # noqa: B019 - one runtime lives as long as its process
    def _cached_rope_index(
        self, pieces: tuple[int, ...], clips: tuple[tuple[Grid, bool, float], ...]
    ) -> tuple[Tensor, int]:
        """Asks the model's own `get_rope_index`, so that positions follow the installed transformers."""
        import torch

        total = sum(pieces) + sum(grid.units for grid, _, _ in clips)
        if not clips:
            return torch.arange(total).expand(3, -1), total
        kinds, fold = torch.zeros(1, total, dtype=torch.int), self.shape.vision.fold
        start = 0
        for piece, (grid, image, _) in zip(pieces, clips, strict=False):
            start += piece
            kinds[0, start : start + grid.units] = 1 if image else 2
            start += grid.units
        marker = torch.tensor([0, self.image_token_id, self.video_token_id])
        options: dict[str, Any] = {}
        for name, is_image in (("image_grid_thw", True), ("video_grid_thw", False)):
            sizes = [[g.frames, g.height * fold, g.width * fold] for g, image, _ in clips if image is is_image]
            options[name] = torch.tensor(sizes) if sizes else None
        known = inspect.signature(self.model.get_rope_index).parameters
        if "mm_token_type_ids" in known:
            options["mm_token_type_ids"] = kinds
        if "second_per_grid_ts" in known:
            options["second_per_grid_ts"] = torch.tensor([seconds for _, image, seconds in clips if not image])
        positions = self.model.get_rope_index(marker[kinds.long()], **options)[0][:, 0]
        # A prompt ends in text, and `generate` counts on from there (not from `rope_deltas`, which differ
        # when a long video's time axis has run ahead of the text behind it).
        return positions, int(positions[0, -1]) + 1


def _block(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], plan: Packed) -> Tensor:
    """One encoder block on packed patches `[tokens, dim]`.

    Its parts are called instead of the block: the block's own rotation makes a dozen float32 copies of queries and
    keys, a fifth of the encoder's time on a CPU (benchmarks/notes.md).
    """
    from luvc import attention

    attend = layer.attn
    qkv = attend.qkv(layer.norm1(hidden)).unflatten(-1, (3, attend.num_heads, -1))
    _rotate(qkv[:, :2], rotary)
    query, key, value = qkv.transpose(0, 2).transpose(0, 1)[:, None].unbind(0)  # [1, heads, tokens, head_dim]
    out = attention.computing().packed(query, key, value, plan, attend.scaling)
    hidden = hidden + attend.proj(out[0].transpose(0, 1).flatten(1))
    return hidden + layer.mlp(layer.norm2(hidden))


def _rotate(states: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
    """Rotate `[tokens, 2, heads, head_dim]` in place, in float32 as the model does."""
    cos, sin = (part[:, None] for part in rotary)
    left, right = states.chunk(2, -1)
    first, second = left.float(), right.float()
    turned = (first * cos).addcmul_(second, sin, value=-1)
    right.copy_((second * cos).addcmul_(first, sin))  # `first` may be `left` itself, so that comes last
    left.copy_(turned)


def _keys(layer: Any, hidden: Tensor) -> Tensor:
    """Attention keys of a block for tokens of the residual stream, `[tokens, dim]` in and out."""
    return layer.attn.qkv(layer.norm1(hidden)).chunk(3, -1)[1]


class _Orders:
    """Frame order and window order of the tokens of equal frames; rotary embeddings and attention in both."""

    def __init__(self, merging: Merging, rotary: tuple[Tensor, Tensor]) -> None:
        import torch

        from luvc.attention import Packed
        from luvc.memory import on_device

        frames, height, width, slots = merging.grid.hidden.shape[:4]
        bias = merging.attention_bias()
        self._rotary = {False: rotary}
        self._attention = {False: Packed((height * width * slots,) * frames, False, bias)}
        rows, columns = merging.plan.window_shape()
        if not rows:
            return
        if slots == 1:  # patches are merged one by one
            rows, columns = rows * merging.fold, columns * merging.fold
        # Windows of one frame by size; then the same size from all frames together.
        cells: dict[int, list[list[int]]] = {}
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                tall, wide = range(top, min(top + rows, height)), range(left, min(left + columns, width))
                units = [row * width + column for row in tall for column in wide]
                cells.setdefault(len(units), []).append(units)
        device = merging.grid.hidden.device
        per_frame = torch.arange(frames, device=device)[:, None] * (height * width)
        unit_order = torch.cat(
            [(on_device(windows, device).flatten()[None] + per_frame).flatten() for windows in cells.values()]
        )
        lengths = tuple(units * slots for units, windows in cells.items() for _ in range(len(windows) * frames))
        self._order = (unit_order[:, None] * slots + torch.arange(slots, device=device)).flatten()
        self._inverse = torch.empty_like(self._order).scatter_(
            0, self._order, torch.arange(len(self._order), device=device)
        )
        self._rotary[True] = (rotary[0][self._order], rotary[1][self._order])
        self._attention[True] = Packed(lengths, False, None if bias is None else bias[self._order])

    def to_windows(self, hidden: Tensor) -> Tensor:
        return hidden[self._order]

    def to_frames(self, hidden: Tensor) -> Tensor:
        return hidden[self._inverse]

    def rotary(self, windowed: bool) -> tuple[Tensor, Tensor]:
        return self._rotary[windowed]

    def attention(self, windowed: bool) -> Packed:
        return self._attention[windowed]


QWEN2_VL, QWEN2_5_VL = Qwen2VL("qwen2_vl"), Qwen2VL("qwen2_5_vl")
