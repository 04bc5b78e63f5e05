"""The planned units as an Arrow table, and its figures. Knows the schema, nothing of how rows came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.schemas import MANIFEST
from pipeline.storage import Options, join, open_read, write_atomic

MANIFEST_PATH = "manifest/manifest.parquet"


@dataclass(frozen=True)
class Summary:
    """Figures of a plan. Token counts are those of units that were planned without an error.

    Attributes:
        units: all rows, those that failed at planning included.
        videos: different files.
        duplicates: units that were asked for more than once, planned once.
        video_s: seconds of video in clips.
        visual_tokens: before compression; 0 when the model's family is not known.
        merged_tokens: that enter the language model.
        layer_tokens: mean over its layers.
        prompts: answers to be written.
        errors: failed units by class of error.
    """

    units: int
    videos: int
    duplicates: int
    video_s: float
    visual_tokens: int
    merged_tokens: int
    layer_tokens: float
    prompts: int
    errors: dict[str, int]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def __str__(self) -> str:
        return format_summary(self)


def build_table(rows: Sequence[dict[str, Any]], thumbnails: int = 0) -> pa.Table:
    """Rows -> manifest; a unit that was asked for twice stands once, the first time.

    `thumbnails` units are marked as samples: those with the smallest ids, so that the choice does not change when
    the plan is made again, and is as good as random.
    """
    units: dict[str, dict[str, Any]] = {}
    for row in rows:
        units.setdefault(row["unit_id"], row)
    sound = sorted(unit_id for unit_id, row in units.items() if not row.get("error_class"))
    samples = set(sound[:thumbnails])
    columns = {
        field.name: pa.array([row.get(field.name) for row in units.values()], type=field.type)
        for field in MANIFEST
        if field.name != "sample"
    }
    columns["sample"] = pa.array([unit_id in samples for unit_id in units], type=pa.bool_())
    return pa.table([columns[field.name] for field in MANIFEST], schema=MANIFEST)


def summarise(table: pa.Table, duplicates: int = 0) -> Summary:
    """Figures of a manifest."""
    sound = table.filter(pc.is_null(table["error_class"]))
    errors = Counter(value for value in table["error_class"].to_pylist() if value)
    return Summary(
        units=table.num_rows,
        videos=pc.count_distinct(table["uri"]).as_py(),
        duplicates=duplicates,
        video_s=_sum(sound["duration_s"]),
        visual_tokens=int(_sum(sound["visual_tokens"])),
        merged_tokens=int(_sum(sound["merged_tokens"])),
        layer_tokens=_sum(sound["mean_layer_tokens"]),
        prompts=int(_sum(pc.list_value_length(sound["prompts"]))),
        errors=dict(errors.most_common()),
    )


def format_summary(summary: Summary) -> str:
    """A few lines for a terminal."""
    s = summary
    lines = [
        f"units           {s.units:,} from {s.videos:,} videos, {s.prompts:,} answers",
        f"video           {s.video_s / 3600:,.2f} h" if s.video_s >= 360 else f"video           {s.video_s:,.1f} s",
    ]
    if s.visual_tokens:
        lines += [
            f"visual tokens   {s.visual_tokens:,} before compression",
            f"                {s.merged_tokens:,} enter the language model{_share(s.merged_tokens, s.visual_tokens)}",
            f"                {s.layer_tokens:,.0f} in the mean of its layers{_share(s.layer_tokens, s.visual_tokens)}",
        ]
    elif s.units > s.failed:
        lines.append("visual tokens   not known before the run: luvc does not know this family of models")
    if s.duplicates:
        lines.append(f"duplicates      {s.duplicates:,} asked for more than once, planned once")
    if s.failed:
        causes = ", ".join(f"{count} {name}" for name, count in s.errors.items())
        lines.append(f"cannot be run   {s.failed:,} ({causes}); `run` writes them to failures/")
    return "\n".join(lines)


def write_manifest(table: pa.Table, output_url: str, options: Options | None = None) -> str:
    """Publish `manifest/manifest.parquet` below an output folder; returns its URL."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    url = join(output_url, MANIFEST_PATH)
    write_atomic(url, sink.getvalue().to_pybytes(), options)
    return url


def read_manifest(output_url: str, options: Options | None = None) -> pa.Table:
    """The manifest of an output folder. Raises SourceMissing if it was never planned."""
    with open_read(join(output_url, MANIFEST_PATH), options) as file:
        table = pq.read_table(file)
    # A column that an older plan lacks is null.
    for field in MANIFEST:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def _sum(column: Any) -> float:
    return float(pc.sum(column).as_py() or 0)


def _share(part: float, whole: int) -> str:
    return f" ({part / whole:.0%})" if whole else ""
