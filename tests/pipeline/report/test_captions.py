"""Answers for a terminal: names of prompts where all clips share them, questions where each has its own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.captions import captions
from pipeline.schemas import RESULTS


def written(tmp_path: Path, rows: list[dict]) -> str:
    (tmp_path / "results").mkdir()
    table = pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in RESULTS]))
    pq.write_table(table, tmp_path / "results" / "part-0.parquet")
    return str(tmp_path)


def row(unit: str, prompt_id: str, prompt: str, **more: object) -> dict:
    base = {"unit_id": unit, "uri": f"/v/{unit}.mp4", "prompt_id": prompt_id, "prompt": prompt, "text": f"{unit}!"}
    return base | {"finish_reason": "stop"} | more


def test_the_same_prompts_for_all(tmp_path):
    rows = [row(unit, name, f"The {name}?") for unit in "ab" for name in ("caption", "object")]
    assert list(captions(written(tmp_path, rows))) == [
        "a.mp4",
        "  caption: a!",
        "  object: a!",
        "b.mp4",
        "  caption: b!",
        "  object: b!",
    ]


def test_a_question_for_each(tmp_path):
    rows = [
        row("a", "prompt", "What is it?", item_id="q1"),
        row("b", "prompt", "Where is it?", item_id="q2", finish_reason="length"),
    ]
    assert list(captions(written(tmp_path, rows))) == [
        "q1  a.mp4",
        "  What is it?: a!",
        "q2  b.mp4",
        "  Where is it?: b! ...",
    ]
