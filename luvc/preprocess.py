"""uint8 frames -> normalised pixels, on the device. Resizes only what does not already fit the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luvc.errors import RequestError
from luvc.memory import on_device


@dataclass(frozen=True)
class Normalisation:
    """Per-channel `(pixel / 255 - mean) / std`, as in the checkpoint's preprocessor_config.json."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Normalisation:
        """From preprocessor_config.json (or the image part of processor_config.json)."""
        part = config.get("image_processor", config)
        default = Normalisation()
        mean, std = part.get("image_mean", default.mean), part.get("image_std", default.std)
        return Normalisation(tuple(float(m) for m in mean), tuple(float(s) for s in std))  # type: ignore[arg-type]


def read_normalisation(checkpoint: str, revision: str | None = None) -> Normalisation:
    """Normalisation of a checkpoint folder or hub name; ImageNet's where the checkpoint has no such file."""
    from transformers.utils import cached_file

    for name in ("preprocessor_config.json", "processor_config.json"):
        path = cached_file(
            checkpoint,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            with open(path, encoding="utf-8") as file:
                return Normalisation.from_config(json.load(file))
    return Normalisation()


def to_tensor(video: Any, request_id: str) -> Tensor:
    """uint8 `[frames, height, width, 3]` array -> tensor of the same shape; no copy where possible.

    Raises:
        RequestError: another shape or type.
    """
    try:
        frames = video if isinstance(video, Tensor) else torch.from_numpy(writable(video))
    except (TypeError, ValueError) as error:
        raise RequestError(f"request {request_id!r}: video is not an array of numbers: {error}") from error
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise RequestError(
            f"request {request_id!r}: video has shape {tuple(frames.shape)} and type {frames.dtype}",
            "expected uint8 [frames, height, width, 3], RGB, none of them zero",
        )
    return frames


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 `[frames, height, width, 3]` -> uint8 `[frames, *size, 3]`; bicubic, antialiased, as stock processors."""
    if tuple(frames.shape[1:3]) == size:
        return frames
    pixels = frames.permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def normalise(frames: Tensor, size: tuple[int, int], norm: Normalisation, dtype: torch.dtype) -> Tensor:
    """uint8 `[frames, height, width, 3]` -> `[frames, 3, *size]` of `dtype`, resized if need be."""
    pixels = resize(frames, size).permute(0, 3, 1, 2).float()
    mean = on_device(norm.mean, frames.device).view(1, 3, 1, 1)
    std = on_device(norm.std, frames.device).view(1, 3, 1, 1)
    return pixels.div_(255).sub_(mean).div_(std).to(dtype)


def writable(values: Any) -> Any:
    """An array that torch may share; a copy where its memory is read-only."""
    import numpy as np

    array = np.asarray(values)
    # torch warns on read-only memory (Arrow, Ray's object store); such arrays are only ever read here, but
    # a copy is cheap beside one pass of the encoder or a prefill.
    return array if array.flags.writeable else array.copy()
