"""What the repository says was measured is what it ships."""

from __future__ import annotations

import json
from pathlib import Path

from luvc.compression import PRESETS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_figures_of_presets_are_those_of_todays_presets():
    report = json.loads((RESULTS / "evaluate.json").read_text(encoding="utf-8"))
    assert report["presets"].keys() == PRESETS.keys() - {"off"}
    for name, entry in report["presets"].items():
        assert entry["compression"] == json.loads(json.dumps(PRESETS[name].as_mapping())), name
