"""Answers as text for a terminal. Files only."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from pipeline.report.files import Output
from pipeline.report.format import span
from pipeline.schemas import RESULTS

COLUMNS = ["unit_id", "item_id", "uri", "start_s", "end_s", "prompt_id", "prompt", "text", "finish_reason"]


def captions(output_url: str, storage_options: dict[str, Any] | None = None, limit: int | None = None) -> Iterator[str]:
    """Lines that show the answers of each clip, clips by uri; at most `limit` clips."""
    table = Output.at(output_url, storage_options).table("results", RESULTS, COLUMNS)
    if not table.num_rows:
        yield "no answers yet"
        return
    rows = table.sort_by([("uri", "ascending"), ("start_s", "ascending"), ("unit_id", "ascending")]).to_pylist()
    clips: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        clips.setdefault(row["unit_id"], []).append(row)
    # Names of prompts say enough when every clip was asked the same; in a list of questions they do not.
    asked = {frozenset((answer["prompt_id"], answer["prompt"]) for answer in answers) for answers in clips.values()}
    label = "prompt_id" if len(asked) == 1 or any(not row["prompt"] for row in rows) else "prompt"
    for shown, answers in enumerate(clips.values()):
        if shown == limit:
            yield f"... and {len(clips) - shown:,} more clips"
            return
        first = answers[0]
        where = span(first["start_s"], first["end_s"])
        name = posixpath.basename(first["uri"].rstrip("/"))
        yield "  ".join(filter(None, [first["item_id"], name, where]))
        for answer in answers:
            cut = " ..." if answer["finish_reason"] == "length" else ""
            yield f"  {answer[label]}: {answer['text']}{cut}"
