"""Model families: the one place that knows how each kind of checkpoint is built.

A family module has a torch-free half (dimensions, frame sizes, grids: what the planner needs) and a torch
half (its encoder and prompt layout). Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luvc.errors import ModelError
from luvc.families import internvl, qwen2_vl
from luvc.families.base import Family

FAMILIES: dict[str, Family] = {
    "internvl": internvl.FAMILY,
    "qwen2_vl": qwen2_vl.QWEN2_VL,
    "qwen2_5_vl": qwen2_vl.QWEN2_5_VL,
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint by `model_type` of its `config.json`.

    Raises:
        ModelError: the family is not supported.
    """
    model_type = str(config.get("model_type", ""))
    if model_type not in FAMILIES:
        raise ModelError(f"model type {model_type!r} is not supported", "supported: " + ", ".join(sorted(FAMILIES)))
    return FAMILIES[model_type]
