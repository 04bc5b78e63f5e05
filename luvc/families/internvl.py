"""InternVL (transformers' `InternVLForConditionalGeneration`): fixed frame size, class token, pixel shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luvc.errors import ModelError
from luvc.families.text import text_shape
from luvc.shapes import Grid, ModelShape, VisionShape


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class InternVL:
    """Torch-free half; see `luvc.families.base.Family`."""

    name = "internvl"

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

    def grid(self, shape: ModelShape, frames: int, height: int, width: int) -> Grid:
        unit_px = shape.vision.patch_px * shape.vision.fold
        return Grid(frames, height // unit_px, width // unit_px)


FAMILY = InternVL()
