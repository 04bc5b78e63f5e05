"""An encode stage whose process dies at prompts that say so. Runs inside its actors, not in the tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luvc.types import Request
from pipeline.run.engine_stage import EngineStage
from pipeline.run.engines import open_encoder
from pipeline.run.stages import ENCODE, EncodeStage


class DyingEncodeStage(EncodeStage):
    """`[dies]` in a prompt ends the process every time, `[dies-once=PATH]` until there is a file."""

    def __init__(self, config: Any, facts: Any, board: Any) -> None:
        EngineStage.__init__(self, ENCODE, "encoding", config, facts.run_id, board, _open)


def _open(config: Any) -> Any:
    encoder = open_encoder(config)
    submit = encoder.submit

    def submit_or_die(request: Request) -> None:
        prompt = request.prompts[0]
        if "[dies]" in prompt:
            os._exit(1)
        if "[dies-once=" in prompt:
            marker = Path(prompt.split("=")[1].rstrip("]"))
            if not marker.exists():
                marker.touch()
                os._exit(1)
        submit(request)

    encoder.submit = submit_or_die  # type: ignore[method-assign]
    return encoder
