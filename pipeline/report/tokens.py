"""Visual tokens on their way from patches to decoder layers. Pure; columns of results in, frozen data out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.records import LadderStep
from pipeline.report.rows import floats, joined, ratio, total

LAYER_SLICE = 65_536


def ladder(units: pa.Table, layer_means: np.ndarray) -> tuple[LadderStep, ...]:
    """The steps, over done units (one row each); `layer_means` is the mean of each unit over its layers."""
    # A unit without counts by layer was not pruned.
    means = np.where(np.isnan(layer_means), floats(units["merged_tokens"]), layer_means)
    steps = {
        "patches": total(units["patches"]),
        "visual": total(units["visual_tokens"]),
        "merged": total(units["merged_tokens"]),
        "layers": float(means.sum()),
    }
    return tuple(
        LadderStep(name, tokens, ratio(tokens, len(units)), ratio(tokens, steps["visual"]))
        for name, tokens in steps.items()
    )


def layers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Mean tokens of each layer over the units that have it, and of each unit over its layers (nan without)."""
    totals, counts, unit_means = np.zeros(0), np.zeros(0), [np.zeros(0)]
    # In slices: one array of all layers of a million units would be the largest thing in memory.
    for start in range(0, len(column), LAYER_SLICE):
        lists = joined(column.slice(start, LAYER_SLICE))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        values = floats(lists.flatten())
        owner = np.repeat(np.arange(len(lengths)), lengths)
        layer = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        width = max(len(totals), int(lengths.max(initial=0)))
        totals = _padded(totals, width) + np.bincount(layer, weights=values, minlength=width)
        counts = _padded(counts, width) + np.bincount(layer, minlength=width)
        sums = np.bincount(owner, weights=values, minlength=len(lengths))
        unit_means.append(np.where(lengths > 0, sums / np.maximum(lengths, 1), np.nan))
    return totals / np.maximum(counts, 1), np.concatenate(unit_means)


def _padded(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, (0, width - len(values)))
