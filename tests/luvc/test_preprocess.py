"""Pixels on the device against transformers' own image processors (their PIL back end, which needs no torchvision)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from luvc.families import FAMILIES
from luvc.preprocess import Normalisation, normalise, resize
from tests.luvc import tiny_qwen

CLIP_NORM = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours with sharp edges, uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(height * width)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    frame = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    frame[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 60)
    return frame


@pytest.mark.parametrize("size", [(112, 168), (56, 56)])
def test_qwen_patches_are_the_stock_processors(size):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    frame = photo(*size)
    stock = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    theirs = torch.as_tensor(np.asarray(stock(images=[frame], return_tensors="np")["pixel_values"]))
    family = FAMILIES["qwen2_5_vl"]
    model = tiny_qwen.model()
    runtime = family.runtime(model, None, CLIP_NORM)
    # The layout is that of patches of 14 pixels whatever the model's width.
    runtime.shape = replace(runtime.shape, vision=replace(runtime.shape.vision, patch_px=14, fold=2))
    frames = runtime._frames(torch.from_numpy(frame)[None], size)
    ours = runtime._patches(frames, size[0] // 28, size[1] // 28).flatten(0, 3)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_internvl_pixels_are_the_stock_processors():
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    frame = photo(448, 448)
    stock = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=False)
    theirs = torch.as_tensor(np.asarray(stock(images=[frame], return_tensors="np")["pixel_values"]))
    ours = normalise(torch.from_numpy(frame)[None], (448, 448), CLIP_NORM, torch.float32)
    assert torch.allclose(ours, theirs[:1], atol=1e-5)


@pytest.mark.parametrize(("before", "after"), [((240, 320), (112, 168)), ((60, 80), (112, 168))])
def test_resizing_is_that_of_the_stock_processors_to_a_level(before, after):
    frame = photo(*before)
    ours = resize(torch.from_numpy(frame)[None], after)[0].numpy().astype(int)
    theirs = np.asarray(Image.fromarray(frame).resize(after[::-1], Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(ours - theirs)
    assert difference.max() <= 8  # at sharp edges, where PIL clamps between its two passes
    assert difference.mean() < 0.2  # and rounds there, too
