"""From the files of an output folder to `metrics.json` and `report.html`. Knows files only."""
