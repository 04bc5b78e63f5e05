"""Loads a checkpoint into an `Engine`, into an `Encoder`, or into an engine that takes encoded clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from luvc import attention as seam
from luvc import checkpoints
from luvc.compression import Compression
from luvc.encoder import Encoder
from luvc.engine import Budgets, Engine
from luvc.errors import ConfigError, ModelError
from luvc.families import family_of
from luvc.families.base import Runtime
from luvc.prepared import prepare
from luvc.preprocess import Normalisation, read_normalisation

#: What of a model is kept: all of it, its vision encoder, or its language model.
Part = Literal["all", "encoder", "decoder"]


def load(
    model: Any,
    compression: Any = "balanced",
    *,
    processor: Any = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
    budgets: Budgets | None = None,
    part: Literal["all", "decoder"] = "all",
) -> Engine:
    """Load a model and return an engine.

    Args:
        model: hub name, folder, "luvc-demo", or a loaded transformers model (then `processor` is needed:
            its processor, or its tokenizer alone).
        compression: preset name, mapping or `Compression`.
        dtype: "auto" is bfloat16 on CUDA and on CPUs with instructions for it, else float32; or a torch dtype or
            its name.
        device: "auto" is CUDA where there is one.
        attention: back end of the attention seam: "auto" or one of `luvc.backends.BACKENDS`.
        trust_remote_code: run code that comes with the checkpoint; off unless asked for.
        budgets: limits of batches and memory.
        part: "decoder" leaves the vision encoder out (of a loaded model, too); clips then have to come encoded
            (`load_encoder`).

    Raises:
        ModelError: the checkpoint cannot be found, read, or is of an unsupported family.
        ConfigError: an impossible compression, dtype or device.
    """
    if part not in ("all", "decoder"):
        raise ConfigError(f"luvc.load: part {part!r} is not known", "all or decoder; load_encoder for the encoder")
    settings = Compression.from_any(compression)
    runtime, eos_ids, ours = _open(model, part, processor, revision, dtype, device, trust_remote_code)
    engine = Engine(runtime, settings, budgets or Budgets(), eos_ids, attention)
    if ours is not None:
        prepare(ours)
    return engine


def load_encoder(
    model: Any,
    compression: Any = "balanced",
    *,
    processor: Any = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
    encode_tokens: int = 0,
) -> Encoder:
    """Load the vision encoder of a model; the language model is left out (of a loaded model, too).

    Args:
        encode_tokens: encoder tokens of one pass; 0: what suits the device.
        model, compression, processor, revision, dtype, device, attention, trust_remote_code: see `load`.

    Raises:
        ModelError: the checkpoint cannot be found, read, or is of an unsupported family.
        ConfigError: an impossible compression, dtype or device.
    """
    settings = Compression.from_any(compression)
    runtime, _, ours = _open(model, "encoder", processor, revision, dtype, device, trust_remote_code)
    encoder = Encoder(runtime, settings, encode_tokens, attention)
    if ours is not None:
        prepare(ours)
    return encoder


def _open(
    model: Any,
    part: Part,
    processor: Any,
    revision: str | None,
    dtype: str | torch.dtype,
    device: str,
    trust_remote_code: bool,
) -> tuple[Runtime, list[int], Any]:
    """A part of a model on its device, the ids that end an answer, and the model unless it was handed over."""
    ours = isinstance(model, (str, Path))  # a model that was handed over stays as it is
    if ours:
        place = _device(device)
        model, tokenizer, norm = _from_checkpoint(
            str(model), revision, _dtype(dtype, place), place, trust_remote_code, part
        )
    else:
        if processor is None:
            raise ConfigError("luvc.load: a loaded model needs its processor (or tokenizer)", "pass processor=")
        tokenizer = getattr(processor, "tokenizer", processor)
        image_processor = getattr(processor, "image_processor", None)
        norm = Normalisation.from_config(image_processor.to_dict() if image_processor is not None else {})
        _keep(model, part)
    family = family_of(model.config.to_dict())
    # One seam for all layers; without a plan it is SDPA, so the model still works on its own.
    model.set_attn_implementation(seam.NAME)
    model.eval()
    eos = model.generation_config.eos_token_id
    eos_ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    return family.runtime(model, tokenizer, norm), eos_ids, model if ours else None


def _keep(model: Any, part: Part) -> None:
    """Take out of a loaded model what the other part is for."""
    if part == "decoder":
        for name in family_of(model.config.to_dict()).encoder_modules:
            setattr(model.model, name, None)
    if part == "encoder":
        # The embedding goes with the head: many models tie the two.
        model.model.language_model = model.lm_head = None


def _from_checkpoint(
    name: str, revision: str | None, dtype: torch.dtype, device: torch.device, trust_remote_code: bool, part: Part
) -> tuple[Any, Any, Normalisation]:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    family_of(checkpoints.read_config(name, revision))  # a clear error before gigabytes are fetched
    source = checkpoints.resolve(name)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.id {name!r}: {error}") from error
    _keep(model, part)  # before it takes memory of the device
    return model.to(device), tokenizer, read_normalisation(source, revision)


def dtype_name(dtype: str, device: str) -> str:
    """What "auto" means here, and other names as they are; raises ConfigError as `load` does."""
    return str(_dtype(dtype, _device(device))).removeprefix("torch.")


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices with instructions of its own (AVX-512, AMX or Arm)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:  # not Linux: nobody to ask
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"model.device: {name!r} is not a device", "auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: no CUDA device is available", "use auto or cpu")
    return device


def _dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" or cpu_has_bfloat16() else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"model.dtype: {name!r} is not a torch dtype", "auto, float32, bfloat16 or float16")
    return dtype
