"""The planned units as an Arrow table, and its figures. Knows the schema, nothing of how rows came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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
        merged_tokens: that come out of the encoder; a pruner may drop before the first layer.
        layer_tokens: mean over its layers.
        prompts: answers to be written.
        errors: failed units by class of error.
        headers_read: files that were looked into.
        headers_kept: files whose facts were known from the plan before.
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
    headers_read: int = 0
    headers_kept: int = 0

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def __str__(self) -> str:
        return format_summary(self)


def build_table(rows: Sequence[dict[str, Any]], thumbnails: int = 0) -> pa.Table:
    """Rows -> manifest; see `finish`."""
    return finish([rows_table(rows)], thumbnails)


def rows_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as a table, none of them a sample yet."""
    columns = [
        pa.array([row.get(field.name, False if field.name == "sample" else None) for row in rows], type=field.type)
        for field in MANIFEST
    ]
    return pa.table(columns, schema=MANIFEST)


def finish(tables: Sequence[pa.Table], thumbnails: int = 0) -> pa.Table:
    """Tables of rows -> manifest; a unit that was asked for twice stands once, the first time.

    `thumbnails` units are marked as samples: those with the smallest ids, so that the choice does not change when
    the plan is made again, and is as good as random.
    """
    table = pa.concat_tables([MANIFEST.empty_table(), *(one.cast(MANIFEST) for one in tables)])
    first = _first(table["unit_id"])
    if not first.all():
        table = table.filter(pa.array(first))
    sound = table["unit_id"].filter(pc.is_null(table["error_class"]))
    samples = pc.take(sound, pc.select_k_unstable(sound, min(thumbnails, len(sound)), sort_keys=[("", "ascending")]))
    marked = pc.is_in(table["unit_id"], value_set=samples.combine_chunks())
    return table.set_column(table.schema.get_field_index("sample"), MANIFEST.field("sample"), marked)


def _first(ids: pa.ChunkedArray) -> np.ndarray:
    """True at the first row of each id."""
    # Codes are given in order of appearance, so that of a new id is above all before it.
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes > np.concatenate([[-1], np.maximum.accumulate(codes)])[:-1]


def summarise(table: pa.Table, duplicates: int = 0, headers_read: int = 0, headers_kept: int = 0) -> Summary:
    """Figures of a manifest."""
    sound = table.filter(pc.is_null(table["error_class"]))
    errors = {one["values"]: one["counts"] for one in pc.value_counts(table["error_class"].drop_null()).to_pylist()}
    return Summary(
        units=table.num_rows,
        videos=pc.count_distinct(table["uri"]).as_py(),
        duplicates=duplicates,
        video_s=_sum(sound["duration_s"]),
        visual_tokens=int(_sum(sound["visual_tokens"])),
        merged_tokens=int(_sum(sound["merged_tokens"])),
        layer_tokens=_sum(sound["mean_layer_tokens"]),
        prompts=int(_sum(pc.list_value_length(sound["prompts"]))),
        errors=dict(sorted(errors.items(), key=lambda one: -one[1])),
        headers_read=headers_read,
        headers_kept=headers_kept,
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
            f"                {s.merged_tokens:,} behind the encoder{_share(s.merged_tokens, s.visual_tokens)}",
            f"                {s.layer_tokens:,.0f} in the mean of its layers{_share(s.layer_tokens, s.visual_tokens)}",
        ]
    elif s.units > s.failed:
        lines.append("visual tokens   not known before the run: luvc does not know this family of models")
    if s.headers_kept:
        lines.append(f"headers         {s.headers_read:,} read, {s.headers_kept:,} files as they were")
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
