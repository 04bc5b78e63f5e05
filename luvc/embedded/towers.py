"""Read the two pretrained towers out of the files that carry them, under transformers' names.

Knows the two file formats (GGUF, ONNX) and the names inside; does not know where the files lie, what is
trained on top of them, or how a checkpoint folder looks. Sources: SmolLM2-135M-Instruct (Apache-2.0,
arXiv 2502.02737) and DINOv2 ViT-S/14 (Apache-2.0, arXiv 2304.07193).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from gguf import GGUFReader
    from onnx import TensorProto

LANGUAGE_PREFIX = "model.language_model."
VISION_PREFIX = "model.vision_tower."

_LANGUAGE_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LANGUAGE_TOP = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}

_VISION_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.projection_layer",
    "layer_scale1.lambda1": "lambda_1",
    "layer_scale2.lambda1": "lambda_2",
}


def undo_rope_permutation(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection, from llama.cpp's interleaved order back to transformers' halves.

    weight: `[heads * head_dim, hidden]`; the same shape is returned.
    """
    rows, hidden = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def resize_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Patch position embeddings `[1, side * side, dim]` for another grid: `[1, grid * grid, dim]`.

    Bicubic without antialiasing, as DINOv2 does at run time and InternVL's `interpolate_pos_encoding` too.
    """
    side = round(positions.shape[1] ** 0.5)
    square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)


def read_language_model(gguf: GGUFReader, heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """The dequantised language model: transformers' name -> float32 tensor. The head is tied, hence absent."""
    from gguf import dequantize

    weights: dict[str, torch.Tensor] = {}
    for tensor in gguf.tensors:
        value = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name in _LANGUAGE_TOP:
            weights[LANGUAGE_PREFIX + _LANGUAGE_TOP[tensor.name]] = torch.from_numpy(value.copy())
            continue
        _, layer, part, suffix = tensor.name.split(".")
        if part in ("attn_q", "attn_k"):
            value = undo_rope_permutation(value, heads if part == "attn_q" else kv_heads)
        name = f"{LANGUAGE_PREFIX}layers.{layer}.{_LANGUAGE_NAMES[part]}.{suffix}"
        weights[name] = torch.from_numpy(value.copy())
    return weights


def read_vision_tower(onnx_path: Path, grid: int) -> dict[str, torch.Tensor]:
    """The vision tower for `grid` x `grid` patches: transformers' name -> float32 tensor.

    The exporter folded the weights of the linear layers into anonymous, transposed constants; the name of
    the MatMul node that reads one says which layer it was.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(onnx_path).graph
    constants = {item.name: item for item in graph.initializer}

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(numpy_helper.to_array(constants[name]).astype(np.float32))

    weights: dict[str, torch.Tensor] = {}
    for name in constants:
        if name.startswith("backbone."):
            weights[_vision_name(name.removeprefix("backbone."))] = read(name)
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in constants:
            path = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[_vision_name(f"{path}.weight")] = read(node.input[1]).T.contiguous()

    class_position, patch_positions = _position_constants(constants)
    weights[f"{VISION_PREFIX}embeddings.position_embeddings"] = torch.cat(
        [read(class_position), resize_positions(read(patch_positions), grid)], dim=1
    )
    return weights


def _vision_name(name: str) -> str:
    """Our name of a DINOv2 parameter: the renamed parts are whole, between dots or at the end."""
    for old, new in _VISION_NAMES.items():
        name = f"{name}.".replace(f".{old}.", f".{new}.").removesuffix(".")
    return VISION_PREFIX + name


def _position_constants(constants: Mapping[str, TensorProto]) -> tuple[str, str]:
    """Names of the class token's position `[1, 1, dim]` and the patches' `[1, 37 * 37, dim]`: also anonymous."""
    shapes = {name: tuple(item.dims) for name, item in constants.items() if name.startswith("onnx::")}
    (class_position,) = [name for name, shape in shapes.items() if len(shape) == 3 and shape[1] == 1]
    (patches,) = [name for name, shape in shapes.items() if len(shape) == 3 and shape[1] > 1]
    return class_position, patches
