"""Units that failed and have no results: what `luvc failures` lists. Files only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute as pc

from pipeline.parts import read_live
from pipeline.run.folder import Folder
from pipeline.run.ledger import read_done
from pipeline.schemas import FAILURES


def dead_letters(folder: Folder) -> list[dict[str, Any]]:
    """The newest failure of each unit that has no results, by stage, error and video.

    Units of an older plan are among them if the manifest no longer names them; those are left out.
    """
    rows = read_live(lambda: folder.parts("failures"), folder.open, FAILURES, FAILURES.names)
    rows = rows.sort_by([("failed_at", "descending")])
    done = read_done(lambda: folder.parts("results"), folder.open)
    rows = rows.filter(pc.invert(pc.is_in(rows["unit_id"], value_set=done)))
    manifest = folder.read_manifest()
    if manifest is not None:
        rows = rows.filter(pc.is_in(rows["unit_id"], value_set=manifest["unit_id"].combine_chunks()))
    newest = {row["unit_id"]: row for row in reversed(rows.to_pylist())}
    return sorted(
        newest.values(), key=lambda row: (row["stage"], row["error_class"], row["uri"], row["start_s"] or 0.0)
    )


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """For a person: grouped by cause, with what to do."""
    if not rows:
        yield "no failed units"
    cause = None
    for row in rows:
        here = (row["stage"], row["error_class"])
        if here != cause:
            cause = here
            same = [other for other in rows if (other["stage"], other["error_class"]) == here]
            retryable = sum(bool(other["retryable"]) for other in same)
            yield f"{row['stage']}: {row['error_class']}: {len(same)} units, {retryable} worth trying again"
            if row["hint"]:
                yield f"  hint: {row['hint']}"
        yield f"  {row['uri']}{_span(row)}: {row['message']} (tried {row['attempts']}x, unit {row['unit_id']})"


def _span(row: dict[str, Any]) -> str:
    if row["start_s"] is None and row["end_s"] is None:
        return ""
    end = "end" if row["end_s"] is None else f"{row['end_s']:g} s"
    return f" [{row['start_s'] or 0:g}-{end}]"
