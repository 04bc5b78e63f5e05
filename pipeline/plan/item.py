"""One video to plan, as the inputs name it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luvc.errors import LuvcError
from pipeline.plan.prompts import Prompt
from pipeline.storage import FileInfo


@dataclass(frozen=True, slots=True)
class Item:
    """One video, or part of one, to plan.

    Attributes:
        uri: local path or URL.
        file: size and version, where the listing told them.
        item_id: the user's own id.
        start_s, end_s: part of the video; None = its own beginning or end.
        prompts: instead of the configuration's; None = those.
        storage: options for fsspec.
        error: why it cannot be planned, where its name alone tells.
    """

    uri: str
    file: FileInfo | None = None
    item_id: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    prompts: tuple[Prompt, ...] | None = None
    storage: dict[str, Any] = field(default_factory=dict, repr=False)
    error: LuvcError | None = None
