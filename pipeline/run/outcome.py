"""What travels between the stages, and how a unit ends: pure functions from plain data to Arrow tables.

    manifest row -> DECODED (the row, its frames or its failure) -> OUTCOME (its result rows or its failure row)

With encoder and language model in different actors, ENCODED stands between the two: visual tokens instead of frames.

One unit is one row all the way: nothing fans out, so nothing can be half written, lost or doubled by a retried
task. Between two stages rows are packed into one row of a block (`packed`), small units several together. Frames travel
as one flat buffer, which is not copied on this side of the decoder unless it is small and shares a block.
Knows nothing of Ray or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from luvc.types import Clip, Completion, EncodedClip, Request, Sampling
from pipeline.config import Generation
from pipeline.schemas import FAILURES, IDENTITY, MANIFEST, QUALITY, RESULTS

RESULT = pa.struct(list(RESULTS))
FAILURE = pa.struct(list(FAILURES))
COMPARED = pa.struct(list(QUALITY))

#: What the decode stage adds to a manifest row; `failure` is null unless the unit has already failed.
PAYLOAD = pa.schema(
    [
        ("frames_rgb", pa.large_binary()),
        ("shape", pa.list_(pa.int32())),
        ("used_timestamps_s", pa.list_(pa.float64())),
        ("frames_expected", pa.int32()),
        ("frames_decoded", pa.int32()),
        ("frames_corrupt", pa.int32()),
        ("video_decode_s", pa.float64()),
        ("storage_reads", pa.int32()),
        ("thumbnail", pa.binary()),
        ("failure", FAILURE),
    ]
)

#: The manifest's columns that are of use after planning.
UNIT = pa.schema([*MANIFEST, ("tried", pa.int32())])
DECODED = pa.schema([*UNIT, *PAYLOAD])

#: What the encode stage puts in place of the frames; `shape` of `PAYLOAD` stays, token counts follow from it.
TOKENS = pa.schema(
    [
        ("features", pa.large_binary()),
        ("features_dtype", pa.string()),
        ("token_row", pa.list_(pa.float32())),
        ("token_column", pa.list_(pa.float32())),
        ("token_time", pa.list_(pa.float32())),
        ("encode_s", pa.float64()),
        ("encoder", pa.string()),
        ("encoder_starved_s", pa.float64()),
        ("encoder_peak_bytes", pa.int64()),
    ]
)
ENCODED = pa.schema([*UNIT, *(field for field in PAYLOAD if field.name != "frames_rgb"), *TOKENS])

#: The column of a block between two stages that holds rows of `UNIT`, `DECODED`, `ENCODED` or `OUTCOME` in Arrow's IPC
#: format, and those of their columns that stand beside it: too large to be copied once more.
PACKED = "units"
BESIDE = ("frames_rgb", "features")

#: Columns that are read through their buffers, never as Python values.
LARGE = ("frames_rgb", "features", "token_row", "token_column", "token_time")

#: A finished unit. `worker` and the engine's seconds since its start let the driver see how busy engines are;
#: `encoder` and its seconds are null where one actor does both. `engine_peak_bytes` is the higher of the two actors'.
OUTCOME = pa.schema(
    [
        ("results", pa.list_(RESULT)),
        ("failure", FAILURE),
        ("quality", pa.list_(COMPARED)),
        ("video_decode_s", pa.float64()),
        ("storage_reads", pa.int32()),
        ("worker", pa.string()),
        ("busy_s", pa.float64()),
        ("starved_s", pa.float64()),
        ("engine_peak_bytes", pa.int64()),
        ("encoder", pa.string()),
        ("encoder_starved_s", pa.float64()),
    ]
)

IDENTITY_NAMES = tuple(field.name for field in IDENTITY)


@dataclass(frozen=True)
class Facts:
    """What every row of a run says about the run; `sample`: unit ids that are also answered without compression."""

    run_id: str
    model: str
    compression: str
    sample: frozenset[str] = frozenset()


def decoded_table(rows: Sequence[Mapping[str, Any]], frames: Sequence[np.ndarray | None]) -> pa.Table:
    """Rows of `DECODED` from manifest rows with what decoding added; frames are uint8 `[frames, height, width, 3]`."""
    shapes = [None if one is None else list(one.shape) for one in frames]
    made = {"frames_rgb": _binaries(frames), "shape": pa.array(shapes, DECODED.field("shape").type)}
    for field in DECODED:
        if field.name not in made:
            made[field.name] = pa.array([row.get(field.name) for row in rows], field.type)
    return pa.Table.from_arrays([made[name] for name in DECODED.names], schema=DECODED)


def packed(table: pa.Table) -> pa.Table:
    """All rows of a table in one row: Ray Data cuts blocks by their bytes, but never a row.

    As bytes, since Ray's serializer walks every leaf of nested columns in Python, which takes milliseconds a block.
    """
    columns = {}
    for name in BESIDE:
        if name in table.column_names:
            columns[name] = _one_list(table[name])
            nothing = pa.nulls(len(table), columns[name].type.value_type)
            table = table.set_column(table.column_names.index(name), name, nothing)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return pa.table({PACKED: _binary(sink.getvalue())} | columns)


def unpacked(table: pa.Table) -> pa.Table:
    """The rows that `packed` put into each row; their bytes are not copied."""
    rows = pa.concat_tables(
        pa.ipc.open_stream(value.as_buffer()).read_all() for chunk in table[PACKED].chunks for value in chunk
    )
    for name in table.column_names[1:]:
        column = table[name]
        values = pa.chunked_array([one.flatten() for one in column.chunks], column.type.value_type)
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


def _one_list(column: pa.ChunkedArray) -> pa.Array:
    """One value: a list of all; joining even one chunk would copy it."""
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)


def _binary(data: pa.Buffer) -> pa.Array:
    """One value, which shares its memory."""
    offsets = pa.array([0, len(data)], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def encoded_row(unit: Mapping[str, Any], encoded: EncodedClip | None = None) -> pa.Table:
    """One row of `ENCODED`; without an encoding the unit has failed."""
    values = dict(unit)
    if encoded is not None:
        values |= {"features_dtype": encoded.dtype, "token_time": encoded.time}
        values |= {"token_row": encoded.row, "token_column": encoded.column, "shape": list(encoded.frames_shape)}
    columns = [
        _binaries([None if encoded is None else encoded.features])
        if field.name == "features"
        else pa.array([values.get(field.name)], field.type)
        for field in ENCODED
    ]
    return pa.Table.from_arrays(columns, schema=ENCODED)


def _binaries(arrays: Sequence[np.ndarray | None]) -> pa.Array:
    """A large_binary array of uint8 arrays; one alone shares its memory, several are put end to end."""
    flat = [np.empty(0, np.uint8) if one is None else np.ascontiguousarray(one).reshape(-1) for one in arrays]
    data = pa.py_buffer(flat[0] if len(flat) == 1 else np.concatenate(flat))
    offsets = pa.py_buffer(np.cumsum([0, *(len(one) for one in flat)], dtype=np.int64))
    there = pa.array([one is not None for one in arrays]).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), len(arrays), [there, offsets, data])


def frames_of(table: pa.Table, index: int) -> np.ndarray:
    """The frames of one row, `[frames, height, width, 3]` uint8, read-only, without a copy."""
    return _bytes_of(table, "frames_rgb", index).reshape(table["shape"][index].as_py())


def encoded_of(table: pa.Table, index: int) -> EncodedClip:
    """The visual tokens of one row, read-only, without a copy."""
    row, column, time = (table[name][index].values for name in ("token_row", "token_column", "token_time"))
    return EncodedClip(
        features=_bytes_of(table, "features", index).reshape(len(row), -1),
        dtype=table["features_dtype"][index].as_py(),
        row=row.to_numpy(),
        column=column.to_numpy(),
        time=None if time is None else time.to_numpy(),
        frames_shape=tuple(table["shape"][index].as_py()),
    )


def _bytes_of(table: pa.Table, column: str, index: int) -> np.ndarray:
    # Through the buffers: an Arrow scalar of binary type is a copy.
    value = table[column].slice(index, 1).chunk(0)
    _, offsets, data = value.buffers()
    start, end = np.frombuffer(offsets, np.int64)[value.offset : value.offset + 2]
    return np.frombuffer(data, np.uint8)[start:end]


def request_of(unit: Mapping[str, Any], video: np.ndarray | EncodedClip, generation: Generation) -> Request:
    """The engine's request for a unit that is decoded, or encoded already."""
    times, still = unit["used_timestamps_s"], unit["duration_s"] == 0
    shown: dict[str, Any]
    if isinstance(video, EncodedClip):
        shown = {"clips": (Clip(None, times, still and video.frames_shape[0] == 1, video),)}
    else:
        shown = {"video": video, "timestamps_s": times, "image": still and video.shape[0] == 1}
    return Request(
        id=unit["unit_id"],
        prompts=tuple(prompt["text"] for prompt in unit["prompts"]),
        max_new_tokens=generation.max_new_tokens,
        sampling=Sampling(generation.temperature, generation.top_p, generation.seed),
        **shown,
    )


def result_rows(unit: Mapping[str, Any], completion: Completion, facts: Facts, now: datetime) -> list[dict[str, Any]]:
    """Rows of `RESULTS`, one a prompt."""
    tokens, times = completion.tokens, completion.times
    common = {name: unit[name] for name in IDENTITY_NAMES} | {
        "model": facts.model,
        "compression": facts.compression,
        "frames_expected": unit["frames_expected"],
        "frames_decoded": unit["frames_decoded"],
        "frames_corrupt": unit["frames_corrupt"],
        "timestamps_s": unit["used_timestamps_s"],
        "patches": tokens.patches,
        "visual_tokens": tokens.visual,
        "merged_tokens": tokens.merged,
        "layer_tokens": list(tokens.by_layer),
        "video_s": unit["duration_s"],
        "thumbnail": unit["thumbnail"],
        "run_id": facts.run_id,
        "finished_at": now,
    }
    # Times belong to the unit: shared out over its rows, so that a sum over rows is a sum over units.
    share = 1 / max(1, len(unit["prompts"]))
    common |= {
        "video_decode_s": (unit["video_decode_s"] or 0.0) * share,
        "encode_s": (times.encode_s + (unit.get("encode_s") or 0.0)) * share,
        "prefill_s": times.prefill_s * share,
        "decode_s": times.decode_s * share,
    }
    return [
        common
        | {
            "prompt_id": prompt["prompt_id"],
            "prompt": prompt["text"],
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "output_tokens": len(answer.token_ids),
        }
        for prompt, answer in zip(unit["prompts"], completion.answers, strict=True)
    ]


def failure_row(
    unit: Mapping[str, Any], stage: str, error: BaseException, attempts: int, run_id: str, now: datetime
) -> dict[str, Any]:
    """The row of `FAILURES` for an error; `attempts` of this run are added to those of runs before."""
    return {name: unit[name] for name in IDENTITY_NAMES} | {
        "stage": stage,
        "error_class": type(error).__name__,
        "message": getattr(error, "message", None) or str(error) or type(error).__name__,
        "hint": getattr(error, "hint", ""),
        "attempts": (unit.get("tried") or 0) + attempts,
        "retryable": bool(getattr(error, "retryable", False)),
        "video_s": unit["duration_s"],
        "run_id": run_id,
        "failed_at": now,
    }


def planned_failure(unit: Mapping[str, Any], run_id: str, now: datetime) -> dict[str, Any]:
    """The row of `FAILURES` for a unit whose planning already failed."""
    return {name: unit[name] for name in IDENTITY_NAMES} | {
        "stage": "probe",
        "error_class": unit["error_class"],
        "message": unit["error_message"],
        "hint": unit["error_hint"],
        "attempts": (unit.get("tried") or 0) + 1,
        "retryable": False,
        "video_s": unit["duration_s"],
        "run_id": run_id,
        "failed_at": now,
    }


def outcomes(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of `OUTCOME`."""
    return pa.Table.from_pylist(list(rows), schema=OUTCOME)


def result_table(table: pa.Table) -> pa.Table:
    """All result rows in a table of outcomes: `[RESULTS]`."""
    return _rows(table["results"].combine_chunks().flatten(), RESULTS)


def quality_table(table: pa.Table) -> pa.Table:
    """All comparisons in a table of outcomes: `[QUALITY]`."""
    return _rows(table["quality"].combine_chunks().flatten(), QUALITY)


def compared_and_failed(quality: pa.Table) -> tuple[int, int]:
    """Units in rows of `[QUALITY]`: with something to compare, and without."""
    errors = dict(zip(quality["unit_id"].to_pylist(), quality["error_class"].to_pylist(), strict=True))
    failed = sum(error is not None for error in errors.values())
    return len(errors) - failed, failed


def failure_table(table: pa.Table) -> pa.Table:
    """All failure rows in a table of outcomes: `[FAILURES]`."""
    return _rows(table["failure"].drop_null().combine_chunks(), FAILURES)


def _rows(structs: pa.StructArray, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays(structs.flatten(), schema=schema)
