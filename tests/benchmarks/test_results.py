"""What the repository says was measured is what it ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.tables import GRIDS, SETTINGS, tables
from luvc.compression import PRESETS
from luvc.evaluation.settings import OFF, Place, listed, parse_settings
from luvc.shapes import Grid

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_figures_of_presets_are_those_of_todays_presets():
    report = json.loads((RESULTS / "evaluate.json").read_text(encoding="utf-8"))
    assert report["presets"].keys() == PRESETS.keys() - {"off"}
    for name, entry in report["presets"].items():
        assert entry["compression"] == json.loads(json.dumps(PRESETS[name].as_mapping())), name


@pytest.mark.parametrize(
    ("results", "settings"),
    [("evaluate", "presets"), ("ablations", "ablations"), ("study", "grid"), ("schedules", "schedules")],
)
def test_results_are_of_the_settings_that_the_command_names(results, settings):
    report = json.loads((RESULTS / f"{results}.json").read_text(encoding="utf-8"))
    measured = {**report["presets"], **report["rivals"]}
    text = (RESULTS.parent / "settings" / f"{settings}.yaml").read_text(encoding="utf-8")
    asked = {one.name: one for one in parse_settings(listed(yaml.safe_load(text), settings), Place(30, Grid(8, 8, 8)))}
    # The grid's presets are in the other table.
    assert asked.keys() - {OFF, *PRESETS} == measured.keys() - set(PRESETS)
    for name, entry in measured.items():
        named = {**asked[name].compression.as_mapping(), "name": name}
        assert entry["compression"] == json.loads(json.dumps(named)), name


@pytest.mark.parametrize("name", [*SETTINGS, *GRIDS])
def test_the_pages_tables_are_those_of_the_reports(name):
    page = (RESULTS.parents[1] / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in tables(name) if line not in page]
    assert not missing, f"python -m benchmarks.tables {name}"
