"""How many units stand where, what is wrong with the files, and why units failed. Pure; tables in, frozen data out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luvc.errors import LuvcError
from pipeline.report.records import Bin, Cause, Failed, Integrity, Lengths, Totals
from pipeline.report.rows import distinct, floats, joined, total
from pipeline.report.runlog import RunLog

EXAMPLES = 5
LENGTH_BINS = 24


class InvariantError(LuvcError):
    """The files of an output contradict each other."""


def totals(manifest: pa.Table, answers: pa.Table, units: pa.Table, failed: pa.Table) -> Totals:
    """Units by where they stand. Raises InvariantError: planned is not done + failed + pending."""
    ids = manifest["unit_id"]
    known = pa.concat_arrays([joined(units["unit_id"]), joined(failed["unit_id"])])
    waiting = manifest.filter(pc.invert(pc.is_in(ids, value_set=known)))
    planned, done, failures, pending = len(manifest), len(units), len(failed), len(waiting)
    if planned != done + failures + pending:
        repeated = planned - len(distinct(ids))
        raise InvariantError(
            f"planned {planned} != done {done} + failed {failures} + pending {pending}; "
            f"the manifest names {repeated} unit ids more than once",
            "run `luvc plan` again to rewrite the manifest, and report this: it should never happen",
        )
    failed_rows = manifest.filter(pc.is_in(ids, value_set=joined(failed["unit_id"])))
    return Totals(
        planned=planned,
        done=done,
        failed=failures,
        pending=pending,
        videos=len(distinct(manifest["uri"])),
        answers=len(answers),
        planned_video_s=total(manifest["duration_s"]),
        done_video_s=total(units["video_s"]),
        failed_video_s=total(failed_rows["duration_s"]),
        pending_unplannable=len(waiting) - waiting["error_class"].null_count,
    )


def integrity(
    manifest: pa.Table, answers: pa.Table, units: pa.Table, duplicates: int, strays: int, run: RunLog | None
) -> Integrity:
    """What should be zero."""
    prompts = pc.fill_null(pc.list_value_length(manifest["prompts"]), 0)
    wanted = pc.sum(prompts.filter(pc.is_in(manifest["unit_id"], value_set=joined(units["unit_id"])))).as_py() or 0
    missing = 0
    if wanted != len(answers):
        missing = _units_missing_answers(manifest["unit_id"], prompts, answers["unit_id"])
    corrupt = units["frames_corrupt"]
    return Integrity(
        duplicate_answers=duplicates,
        units_missing_answers=missing,
        answers_of_other_plans=strays,
        units_with_corrupt_frames=int(pc.sum(pc.greater(corrupt, 0)).as_py() or 0),
        corrupt_frames=int(total(corrupt)),
        frames_expected=int(total(units["frames_expected"])),
        frames_decoded=int(total(units["frames_decoded"])),
        unreadable_event_lines=0 if run is None else run.unreadable_lines,
    )


def _units_missing_answers(planned_ids: Any, prompts: Any, answered_ids: Any) -> int:
    planned = pa.table({"unit_id": planned_ids, "wanted": prompts})
    answered = pa.table({"unit_id": answered_ids}).group_by("unit_id").aggregate([([], "count_all")])
    joined = answered.join(planned, "unit_id")
    return int(pc.sum(pc.less(joined["count_all"], pc.cast(joined["wanted"], pa.int64()))).as_py() or 0)


def causes(failed: pa.Table) -> tuple[Cause, ...]:
    """Failed units (one row each) by stage and error class."""
    groups = failed.group_by(["stage", "error_class"]).aggregate([("retryable", "sum"), ([], "count_all")])
    causes = []
    for group in groups.to_pylist():
        same = pc.and_(pc.equal(failed["stage"], group["stage"]), pc.equal(failed["error_class"], group["error_class"]))
        shown = failed.filter(same).slice(0, EXAMPLES).to_pylist()
        examples = tuple(
            Failed(row["unit_id"], row["uri"], row["start_s"], row["end_s"], row["message"] or "", row["attempts"])
            for row in shown
        )
        causes.append(
            Cause(
                stage=group["stage"],
                error_class=group["error_class"],
                units=group["count_all"],
                retryable=group["retryable_sum"] or 0,
                hint=next((row["hint"] for row in shown if row["hint"]), ""),
                examples=examples,
            )
        )
    return tuple(sorted(causes, key=lambda cause: (-cause.units, cause.stage, cause.error_class)))


def lengths(column: pa.ChunkedArray) -> Lengths | None:
    """Generated tokens per answer; None without answers."""
    tokens = floats(column.drop_null())
    if not len(tokens):
        return None
    longest = int(tokens.max())
    width = max(1, -(-(longest + 1) // LENGTH_BINS))
    counts = np.bincount(tokens.astype(np.int64) // width)
    p10, median, p90 = np.percentile(tokens, [10, 50, 90])
    return Lengths(
        mean=float(tokens.mean()),
        p10=float(p10),
        median=float(median),
        p90=float(p90),
        longest=longest,
        bins=tuple(Bin(i * width, (i + 1) * width - 1, int(count)) for i, count in enumerate(counts)),
    )


def counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column; the most frequent first."""
    pairs = [(entry["values"] or "unknown", entry["counts"]) for entry in pc.value_counts(column).to_pylist()]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
