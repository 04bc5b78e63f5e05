"""The table of methods covers every method there is, and the page shows it as it is."""

from pathlib import Path

from luvc.compression import MERGE_METHODS, PRUNE_METHODS
from luvc.methods.catalogue import CATALOGUE, table


def test_every_method_is_in_the_catalogue():
    settings = {method.setting for method in CATALOGUE}
    for name in MERGE_METHODS:
        assert f"merge.method: {name}" in settings
    for name in PRUNE_METHODS:
        assert any(setting.startswith(f"prune.method: {name}") for setting in settings)
    assert any(setting.startswith("resize") for setting in settings)


def test_the_page_shows_the_table_as_the_code_prints_it():
    page = Path(__file__).parents[2] / "docs" / "method.md"
    assert table() in page.read_text(encoding="utf-8")
