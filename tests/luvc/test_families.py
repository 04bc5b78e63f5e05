"""The torch-free half of the families: sizes and grids as the stock processors compute them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luvc.errors import ModelError, RequestError
from luvc.families import FAMILIES, family_of
from tests.luvc import tiny, tiny_qwen

QWEN_7B = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": 3584,
    },
}


def stock_resize(height, width, low, high, factor=28):
    """transformers' smart_resize, whose module needs torchvision: the published rule, in pixels."""
    import math

    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > high:
        beta = math.sqrt(height * width / high)
        return tuple(max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    if h * w < low:
        beta = math.sqrt(low / (height * width))
        return tuple(math.ceil(side * beta / factor) * factor for side in (height, width))
    return h, w


@settings(max_examples=300, deadline=None)
@given(height=st.integers(16, 3000), width=st.integers(16, 3000), frames=st.integers(1, 500))
def test_qwen_frame_sizes_are_the_stock_ones(height, width, frames):
    family = family_of(QWEN_7B)
    shape = family.shape(QWEN_7B)
    size = family.frame_size(shape, height, width, frames)
    low, high = (4 * 784, 1280 * 784) if frames == 1 else (128 * 784, 768 * 784)
    if frames > 1:
        high = max(min(high, int(128000 * 784 * 0.9) * 2 // frames), int(low * 1.05))
    assert size == stock_resize(height, width, low, high)
    assert family.fits(shape, *size)
    assert family.grid(shape, frames, *size).frames == (frames + 1) // 2


def test_down_scaling_is_one_number():
    family = family_of(QWEN_7B)
    shape = family.shape(QWEN_7B)
    for tokens in (16, 64, 200):
        grid = family.grid(shape, 64, *family.frame_size(shape, 1080, 1920, 64, max_frame_tokens=tokens))
        assert 0.6 * tokens <= grid.height * grid.width <= tokens


def test_an_impossible_aspect_ratio_is_a_request_error():
    family = family_of(QWEN_7B)
    with pytest.raises(RequestError, match="aspect ratio"):
        family.frame_size(family.shape(QWEN_7B), 4, 4000, 8)


def test_the_7b_shape():
    shape = family_of(QWEN_7B).shape(QWEN_7B)
    assert shape.text.layers == 28
    assert shape.text.head_dim == 128
    assert shape.vision.window_units == 4
    assert shape.vision.full_blocks == (7, 15, 23, 31)


@pytest.mark.parametrize("model", [tiny.model(), tiny_qwen.model(), tiny_qwen.model("qwen2_vl")])
def test_shapes_are_those_of_the_weights(model):
    config = model.config.to_dict()
    shape = family_of(config).shape(config)
    layers = model.model.language_model.layers
    assert shape.text.layers == len(layers)
    assert shape.text.mlp_width == layers[0].mlp.up_proj.out_features
    assert shape.text.kv_heads * shape.text.head_dim == layers[0].self_attn.k_proj.out_features
    assert shape.text.vocabulary == model.lm_head.out_features


def test_an_unknown_family_is_said_plainly():
    with pytest.raises(ModelError, match="'llava' is not supported") as caught:
        family_of({"model_type": "llava"})
    assert all(name in caught.value.hint for name in FAMILIES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_feature_layer": [-1, -2]}, "one feature layer"),
        ({"vision_feature_select_strategy": "full"}, "class token"),
        ({"downsample_ratio": 0.3}, "does not fold"),
    ],
)
def test_internvl_variants_that_are_not_supported_are_refused(change, words):
    config = {**tiny.model().config.to_dict(), **change}
    with pytest.raises(ModelError, match=words):
        family_of(config).shape(config)
