"""List prices: the table of the docs is the table of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.prices import AS_OF, PRESETS, S3_READS_1000_USD, S3_WRITES_1000_USD

PAGE = (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")


def usd(value: float) -> str:
    return f"${value:.3f}" if value else "$0"


@pytest.mark.parametrize("name", PRESETS)
def test_the_docs_have_this_price(name: str) -> None:
    preset = PRESETS[name]
    gpus = f"{preset.gpus} x {preset.gpu}" if preset.gpus else "none"
    prices = " | ".join(usd(value) for value in (preset.hour_usd, preset.gpu_hour_usd, preset.cpu_hour_usd))
    assert f"| `{name}` | {preset.machine} | {gpus} | {prices} |" in PAGE
    assert (preset.gpu_hour_usd > 0) != (preset.cpu_hour_usd > 0)


def test_the_docs_name_date_and_request_prices() -> None:
    assert AS_OF in PAGE
    assert f"${S3_WRITES_1000_USD} and ${S3_READS_1000_USD}" in PAGE
    assert PAGE.count("| `aws-") == len(PRESETS)
