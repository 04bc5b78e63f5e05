"""From the files of an output folder to `metrics.json` and `report.html`. Knows files only."""

from pipeline.report.build import ReportError, build_report, measure_quality, newest_run
from pipeline.report.counts import InvariantError
from pipeline.report.quality import complaint
from pipeline.report.records import Metrics

__all__ = [
    "InvariantError",
    "Metrics",
    "ReportError",
    "build_report",
    "complaint",
    "measure_quality",
    "newest_run",
]
