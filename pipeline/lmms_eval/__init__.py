"""luvc as a model of lmms-eval: `lmms-eval --model luvc --model_args model=...,compression=...` (docs/lmms_eval.md).

The harness finds `manifest` by the entry point `lmms_eval.models`. Only `model.py` imports the harness; the rest of
this package says what its requests mean, and answers them with an engine.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The registration, a `ModelManifest`. Called while the harness is being imported: nothing is loaded yet."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("luvc", chat_class_path="pipeline.lmms_eval.model.Luvc")
