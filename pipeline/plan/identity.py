"""Names units: a unit's id is a hash of everything that determines its answers. Pure.

A changed file, prompt, model or setting is new work, never a silent skip; a change that cannot alter an answer
(more actors, another output) keeps the id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class UnitNamer:
    """Hashes units against what is common to all of them.

    Args:
        common: model, revision, generation settings, compression: any plain data.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        self._common = hashlib.sha256(_ENCODER.encode(common).encode()).hexdigest()

    def unit_id(
        self,
        uri: str,
        version: str | None,
        span: tuple[float | None, float | None],
        timestamps_s: Sequence[float],
        key_frames_only: bool,
        frame_px: tuple[int, int] | None,
        prompts: Sequence[tuple[str, str]],
    ) -> str:
        """32 hex digits.

        Args:
            uri: the video; `version` its etag, or size and modification time; None if there is no such file.
            span: start and end as asked for.
            timestamps_s, key_frames_only: result of the sampling.
            frame_px: size frames are resized to; None if planning failed before that.
            prompts: (id, text) pairs; their order does not matter.
        """
        own = [self._common, uri, version, span, tuple(timestamps_s), key_frames_only, frame_px, sorted(prompts)]
        return hashlib.sha256(_ENCODER.encode(own).encode()).hexdigest()[:32]
