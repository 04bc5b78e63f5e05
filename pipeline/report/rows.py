"""Which rows of an output count, and what their columns add up to. Pure; Arrow tables in, tables and numbers out.

Scope of the counts: the plan, that is the units of the manifest. A column of results that belongs to the unit
(tokens, frames, length) is repeated on each of its rows, so it is summed over one row per unit; the seconds of the
stages are shared out over the rows, so they are summed over all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """Equal strings, equal integers."""
    return pc.fill_null(joined(column).dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)


def joined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def distinct(column: pa.ChunkedArray) -> pa.Array:
    """Different values."""
    return joined(pc.unique(column))


def keep(table: pa.Table, mask: Any) -> pa.Table:
    """Rows where `mask` holds; the table itself, not a copy, where it holds everywhere."""
    mask = pa.array(mask) if isinstance(mask, np.ndarray) else mask
    return table if pc.sum(mask).as_py() == len(table) else table.filter(mask)


def first_mask(keys: np.ndarray) -> np.ndarray:
    """True at the first place of each key."""
    mask = np.zeros(len(keys), dtype=bool)
    mask[np.unique(keys, return_index=True)[1]] = True
    return mask


def first_rows(ids: pa.ChunkedArray) -> np.ndarray:
    """True at the first row of each id."""
    return first_mask(codes(ids))


def without_duplicates(answers: pa.Table) -> tuple[pa.Table, int]:
    """One row for each unit and prompt, and how many others there were."""
    prompts = codes(answers["prompt_id"]).astype(np.int64)
    keys = codes(answers["unit_id"]).astype(np.int64) * (int(prompts.max(initial=0)) + 2) + prompts
    mask = first_mask(keys)
    return keep(answers, mask), int(len(mask) - mask.sum())


def failed_units(failures: pa.Table, planned_ids: pa.ChunkedArray, done_ids: pa.ChunkedArray) -> pa.Table:
    """The latest failure row of each planned unit that has no results."""
    planned = pc.is_in(failures["unit_id"], value_set=distinct(planned_ids))
    done = pc.is_in(failures["unit_id"], value_set=distinct(done_ids))
    failed = failures.filter(pc.and_not(planned, done))
    failed = failed.sort_by([("failed_at", "descending"), ("unit_id", "ascending")])
    return failed.filter(pa.array(first_rows(failed["unit_id"])))


def total(column: pa.ChunkedArray) -> float:
    """Sum; nulls count as nothing."""
    return float(pc.sum(column).as_py() or 0)


def floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """As float64; nulls are zero."""
    return pc.fill_null(pc.cast(joined(column), pa.float64()), 0.0).to_numpy(zero_copy_only=False)


def ratio(part: float, whole: float) -> float | None:
    """A quotient; None where there is nothing to divide by."""
    return part / whole if whole else None
