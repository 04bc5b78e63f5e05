"""One video and what its header says in, rows of the manifest out: cut, sample, size, name. Pure.

What is wrong with one video becomes its row's error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc import embedded
from luvc.errors import LuvcError
from pipeline.errors import InputError
from pipeline.plan.clips import Span, cut
from pipeline.plan.identity import UnitNamer
from pipeline.plan.item import Item
from pipeline.plan.probe import Probe
from pipeline.plan.prompts import Prompt
from pipeline.plan.sampling import sample_times
from pipeline.plan.sizing import FrameSizer, Sizer
from pipeline.plan.text import writable

if TYPE_CHECKING:
    from pipeline.config import RunConfig

_HASHED_BYTES = 64 * 1024**2


class Planner:
    """Turns one item and its probe into manifest rows. Pure.

    Args:
        config: of the run.
        sizer: counts for its model, or frame sizes alone where nothing can be counted.
        model_files: what tells one state of a model's folder from another.
    """

    def __init__(self, config: RunConfig, sizer: Sizer | FrameSizer, model_files: Sequence[Any] = ()) -> None:
        self._config = config
        self._sizer = sizer
        common: dict[str, Any] = {
            "model": [config.model.id, config.model.revision, *model_files],
            "generation": config.generation.model_dump(),
            "compression": config.compression.as_mapping(),
        }
        if config.run.engine == "vllm":  # its options may change answers, pruning surely does
            common["engine"] = ["vllm", config.run.engine_options]
        self._namer = UnitNamer(common)
        self._common = common

    @staticmethod
    def of(config: RunConfig) -> Planner:
        """Reads the model's `config.json`. Raises ModelError."""
        make = FrameSizer.of_any_model if config.run.engine == "vllm" else Sizer.of_model
        sizer = make(
            config.model.id,
            config.model.revision,
            config.compression,
            config.generation.max_new_tokens,
            config.decode.max_frame_tokens,
            element_bytes=4 if config.model.dtype == "float32" else 2,
        )
        return Planner(config, sizer, _model_files(config.model.id))

    @property
    def fingerprint(self) -> str:
        """Changes when the same inputs would be planned to other rows."""
        config = self._config
        settings = {
            "clips": config.clips.model_dump(),
            "sampling": config.sampling.model_dump(),
            "prompts": config.prompts,
            "max_frame_tokens": config.decode.max_frame_tokens,
            "dtype": config.model.dtype,
            **self._common,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]

    def rows(self, item: Item, probed: Probe | LuvcError) -> Iterator[dict[str, Any]]:
        """Rows of one item: one for each clip, or one that says why there is none."""
        prompts = item.prompts or self._config.prompts
        if isinstance(probed, LuvcError):
            yield self._error_row(item, prompts, probed, item.file.version if item.file else None)
            return
        try:
            spans = cut(probed.duration_s, self._config.clips, item.start_s, item.end_s)
        except Exception as error:  # noqa: BLE001 - see `_unit_row`
            yield self._error_row(item, prompts, error, probed.file.version, _probe_columns(probed))
            return
        for span in spans:
            yield self._unit_row(item, prompts, probed, span)

    def _unit_row(self, item: Item, prompts: tuple[Prompt, ...], probed: Probe, span: Span) -> dict[str, Any]:
        try:
            return self._sound_row(item, prompts, probed, span)
        except Exception as error:  # noqa: BLE001 - one video that nobody foresaw must not end the plan of a million
            columns = {**_probe_columns(probed), "duration_s": span.length_s}
            columns |= {"start_s": span.start_s, "end_s": span.end_s}
            return self._error_row(item, prompts, error, probed.file.version, columns)

    def _sound_row(self, item: Item, prompts: tuple[Prompt, ...], probed: Probe, span: Span) -> dict[str, Any]:
        sampling = self._config.sampling
        times = sample_times(span.from_s, span.to_s, sampling, probed.fps, probed.key_frames_s)
        columns = {**_probe_columns(probed), "duration_s": span.length_s}
        try:
            size = self._sizer.size(probed.height_px, probed.width_px, len(times), [one.text for one in prompts])
        except LuvcError as error:
            columns |= {"start_s": span.start_s, "end_s": span.end_s, "frames": len(times)}
            return self._error_row(item, prompts, error, probed.file.version, columns)
        key_frames_only = sampling.mode == "key_frames"
        unit_id = self._namer.unit_id(
            item.uri,
            probed.file.version,
            (span.start_s, span.end_s),
            times,
            key_frames_only,
            (size.frame_height_px, size.frame_width_px),
            prompts,
        )
        return {
            "unit_id": unit_id,
            "item_id": item.item_id,
            "uri": item.uri,
            "start_s": span.start_s,
            "end_s": span.end_s,
            **columns,
            "timestamps_s": times,
            "key_frames_only": key_frames_only,
            "prompts": _prompt_columns(prompts),
            "frames": len(times),
            **vars(size),
        }

    def _error_row(
        self,
        item: Item,
        prompts: tuple[Prompt, ...],
        error: Exception,
        version: str | None,
        columns: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        columns = {"start_s": item.start_s, "end_s": item.end_s, **(columns or {})}
        span = (columns["start_s"], columns["end_s"])
        if not isinstance(error, LuvcError):
            error = InputError(f"{item.uri}: {type(error).__name__}: {error}", "not foreseen: please report it")
        return {
            "unit_id": self._namer.unit_id(item.uri, version, span, (), False, None, prompts),
            "item_id": item.item_id,
            "uri": item.uri,
            "etag": version,
            "size_bytes": item.file.size_bytes if item.file else None,
            **columns,
            "prompts": _prompt_columns(prompts),
            "error_class": type(error).__name__,
            "error_message": writable(error.message),
            "error_hint": error.hint,
        }


def _model_files(model_id: str) -> list[Any]:
    """State of the files of a local model: weights trained anew under the same name are another model.

    Nothing for hub names: there the revision says it.
    """
    folder = embedded.config_path().parent if model_id == embedded.MODEL_NAME else Path(model_id)
    state: list[Any] = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix in (".safetensors", ".bin", ".json"):
            size = path.stat().st_size
            # Contents where that is cheap: a fresh clone changes the times of all files.
            content = (
                hashlib.sha256(path.read_bytes()).hexdigest() if size <= _HASHED_BYTES else path.stat().st_mtime_ns
            )
            state.append([path.name, size, content])
    return state


def _probe_columns(probed: Probe) -> dict[str, Any]:
    return {
        "etag": probed.file.version,
        "size_bytes": probed.file.size_bytes,
        "width_px": probed.width_px,
        "height_px": probed.height_px,
        "rotation_deg": probed.rotation_deg,
        "fps": probed.fps,
        "codec": probed.codec,
    }


def _prompt_columns(prompts: tuple[Prompt, ...]) -> list[dict[str, str]]:
    return [{"prompt_id": prompt.prompt_id, "text": prompt.text} for prompt in prompts]
