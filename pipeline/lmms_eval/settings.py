"""`--model_args` of the harness, checked, with a hint for a misspelt name. Does not import the harness."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError

from luvc.compression import Compression
from luvc.errors import ConfigError
from pipeline.config_text import explain, parse_yaml
from pipeline.decode.protocol import DecodeSettings
from pipeline.plan.sampling import Sampling
from pipeline.section import Section


class ModelArgs(Section):
    """What `--model_args` may say.

    Attributes:
        model: checkpoint folder, hub name or `luvc-demo`; `pretrained` is the same.
        compression: a preset, or a mapping as in a run's YAML, in braces.
        revision, dtype, device, attention, trust_remote_code: as in a run's `model`.
        frames: of each video, evenly spread; 32 unless `fps` is set.
        fps, max_frames: instead of `frames`: frames a second, and their limit (64).
        max_frame_tokens: limit of visual tokens per video frame, where the model takes frames of any size.
        max_new_tokens: of an answer, where the task does not say.
        seed: decides draws, where a task asks for a temperature.
        prefill_tokens, kv_bytes: limits of a batch; prefill_tokens 0: what suits the device.
        decode_workers: videos decoded at a time; 0: as many as there are cores, at most 8.
        decode_policy, decode_deadline_s: as in a run's `decode`.
        on_error: what becomes of a request that cannot be answered: an empty answer with a warning, or the end.
        batch_size, max_batch_size: of the harness; have no effect, batches form by tokens.
    """

    # The harness turns whatever looks like a number into one: a revision may.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, protected_namespaces=())

    model: str = Field(min_length=1)
    compression: Any = "off"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    attention: str = "auto"
    trust_remote_code: bool = False
    frames: int | None = Field(default=None, ge=1)
    fps: float | None = Field(default=None, gt=0)
    max_frames: int | None = Field(default=None, ge=1)
    max_frame_tokens: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=1024, ge=1)
    seed: int = 0
    prefill_tokens: int = Field(default=0, ge=0)
    kv_bytes: int = Field(default=2 << 30, ge=1)
    decode_workers: int = Field(default=0, ge=0)
    decode_policy: Literal["strict", "tolerant"] = "strict"
    decode_deadline_s: float = Field(default=600.0, gt=0)
    on_error: Literal["empty", "raise"] = "empty"
    batch_size: Any = None
    max_batch_size: Any = None

    @property
    def sampling(self) -> Sampling:
        """Which frames of a video are looked at."""
        if self.fps is None:
            return Sampling(frames=self.frames or 32)
        return Sampling(mode="fps", fps=self.fps, max_frames=self.max_frames or 64)

    @property
    def decoding(self) -> DecodeSettings:
        """How videos are decoded."""
        return DecodeSettings(
            policy=self.decode_policy, deadline_s=self.decode_deadline_s, max_frame_tokens=self.max_frame_tokens
        )

    @property
    def threads(self) -> int:
        """Videos decoded at a time."""
        return self.decode_workers or min(8, os.cpu_count() or 1)


def parse_args(given: Mapping[str, Any]) -> tuple[ModelArgs, Compression]:
    """The arguments, and the compression they name.

    Raises:
        ConfigError: an unknown name, or a value that cannot be.
    """
    values = dict(given)
    if "pretrained" in values:
        values.setdefault("model", values.pop("pretrained"))
    try:
        args = ModelArgs.model_validate(values)
    except ValidationError as error:
        raise explain(error, ModelArgs, "model_args", ()) from None
    if args.fps is not None and args.frames is not None:
        raise ConfigError("model_args: frames and fps exclude each other", "fps goes with max_frames")
    if args.fps is None and args.max_frames is not None:
        raise ConfigError("model_args: max_frames goes with fps", "frames=N is the number itself")
    return args, _compression(args.compression)


def _compression(value: Any) -> Compression:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = parse_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"model_args: compression {value!r} is not a mapping: {error}") from error
    return Compression.from_any(value)
