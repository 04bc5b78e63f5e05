"""A large output that several modules look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.report import build_report
from pipeline.report.records import Metrics
from tests.pipeline.report import outputs


@pytest.fixture(scope="session")
def hundred_thousand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    """Folder and figures of a night of 100,000 units: 93,000 done, 2,000 failed, 5,000 not reached."""
    count = 100_000
    plan = outputs.manifest(count, {"caption": "Describe this video."}, samples=24)
    order = np.random.default_rng(1).permutation(count)
    bad, good = order[:2_000], np.sort(order[2_000:95_000])
    log = outputs.events(count, len(good), len(bad), wall_s=8 * 3600, outcome="interrupted")
    results = outputs.results(plan, good, wall_s=8 * 3600)
    folder = tmp_path_factory.mktemp("large")
    return folder, build_report(outputs.write(folder, plan, results, outputs.failures(plan, bad), log))
