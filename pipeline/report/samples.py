"""Units shown on the page with their picture and answers. Pure: Arrow tables in, frozen data out."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.format import span

SAMPLE_COLUMNS = [
    *("unit_id", "uri", "start_s", "end_s", "prompt_id", "prompt", "text", "finish_reason", "output_tokens"),
    *("visual_tokens", "merged_tokens", "layer_tokens", "video_s", "thumbnail"),
]

#: Pictures a page can carry and still open at once.
MAX_SAMPLES = 24
#: Shown when the plan marked no samples, or none of them is done.
FALLBACK_SAMPLES = 6

_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class SampleAnswer:
    """One prompt's answer; `cut` when the token limit ended it."""

    prompt_id: str
    prompt: str
    text: str
    cut: bool
    output_tokens: int | None


@dataclass(frozen=True)
class Sample:
    """One unit; `picture` is a data URI, or None."""

    name: str
    uri: str
    span: str
    video_s: float | None
    visual_tokens: int | None
    layer_tokens: float | None
    picture: str | None
    answers: tuple[SampleAnswer, ...]


def choose(manifest: pa.Table, done_ids: pa.ChunkedArray) -> list[str]:
    """Ids of the units to show: the plan's samples that are done, topped up with other done units."""
    done = manifest.filter(pc.is_in(manifest["unit_id"], value_set=pc.unique(done_ids)))
    marked = done.filter(done["sample"])["unit_id"].slice(0, MAX_SAMPLES).to_pylist()
    others = done["unit_id"].slice(0, FALLBACK_SAMPLES).to_pylist()
    extra = [unit_id for unit_id in others if unit_id not in set(marked)]
    return marked + extra[: max(0, FALLBACK_SAMPLES - len(marked))]


def samples(rows: pa.Table, ids: Sequence[str]) -> list[Sample]:
    """Rows of results (`SAMPLE_COLUMNS`) as samples, in the order of `ids`."""
    by_unit: dict[str, dict[str, dict[str, object]]] = {}
    for row in rows.to_pylist():
        by_unit.setdefault(row["unit_id"], {}).setdefault(row["prompt_id"], row)
    return [_sample(list(by_unit[unit_id].values())) for unit_id in ids if unit_id in by_unit]


def _sample(rows: list[dict]) -> Sample:
    first = rows[0]
    layers = first["layer_tokens"]
    return Sample(
        name=posixpath.basename(first["uri"].rstrip("/")) or first["uri"],
        uri=first["uri"],
        span=span(first["start_s"], first["end_s"]),
        video_s=first["video_s"],
        visual_tokens=first["visual_tokens"],
        layer_tokens=sum(layers) / len(layers) if layers else first["merged_tokens"],
        picture=next(filter(None, (_data_uri(row["thumbnail"]) for row in rows)), None),
        answers=tuple(
            SampleAnswer(
                prompt_id=row["prompt_id"],
                prompt=row["prompt"] or "",
                text=row["text"],
                cut=row["finish_reason"] == "length",
                output_tokens=row["output_tokens"],
            )
            for row in rows
        ),
    )


def _data_uri(jpeg: bytes | None) -> str | None:
    if not jpeg or not jpeg.startswith(_JPEG):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
