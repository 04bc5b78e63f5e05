"""Engine against rivals on the same inputs: one table, one JSON, one chart. Run with `python -m luvc.bench`."""
