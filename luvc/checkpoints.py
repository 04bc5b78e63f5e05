"""Finds a checkpoint and reads its `config.json` without importing torch.

A checkpoint is a folder, a hub name, or the name of the embedded model (`luvc-demo`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luvc import embedded
from luvc.errors import ModelError


def read_config(model_id: str, revision: str | None = None) -> dict[str, Any]:
    """The checkpoint's `config.json`.

    Raises:
        ModelError: not a folder with a config.json, and not to be had from the hub either.
    """
    if model_id == embedded.MODEL_NAME:
        path = embedded.config_path()
    elif Path(model_id).is_dir():
        path = Path(model_id) / "config.json"
    else:
        path = _from_hub(model_id, revision)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.id {model_id!r}: cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"model.id {model_id!r}: {path} is not a JSON object")
    return config


def resolve(model_id: str) -> str:
    """The name or folder that transformers can load; assembles the embedded model if it is asked for."""
    return str(embedded.assemble()) if model_id == embedded.MODEL_NAME else model_id


def _from_hub(model_id: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model_id, "config.json", revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.id {model_id!r}: not a folder here, and the model hub did not give its config.json "
            f"({type(error).__name__})",
            f"check the name, give a local folder, or use {embedded.MODEL_NAME!r}, which needs no network",
        ) from error
