"""What travels between the stages: nothing is lost, doubled or attached to another unit."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from luvc.errors import PromptTooLong
from luvc.types import Answer, Completion, EncodedClip, Sampling, StageTimes, TokenCounts
from pipeline.config import Generation
from pipeline.run.outcome import (
    DECODED,
    ENCODED,
    LARGE,
    OUTCOME,
    UNIT,
    Facts,
    decoded_table,
    encoded_of,
    encoded_row,
    failure_row,
    failure_table,
    frames_of,
    outcomes,
    packed,
    request_of,
    result_rows,
    result_table,
    unpacked,
)
from pipeline.schemas import FAILURES, RESULTS

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FACTS = Facts("run", "model", "balanced")


def unit(name: str, prompts: int = 1) -> dict:
    row = dict.fromkeys(UNIT.names)
    return row | {
        "unit_id": name,
        "uri": f"/videos/{name}.mp4",
        "duration_s": 2.0,
        "prompts": [{"prompt_id": f"p{i}", "text": f"prompt {i}"} for i in range(prompts)],
        "sample": False,
        "tried": 0,
    }


def payload(frames: int) -> dict:
    return {
        "used_timestamps_s": [0.5 * i for i in range(frames)],
        "frames_expected": frames,
        "frames_decoded": frames,
        "frames_corrupt": 0,
        "video_decode_s": 0.25,
        "thumbnail": None,
    }


def completion(name: str, prompts: int) -> Completion:
    answers = tuple(Answer(f"{name}/{i}", (1, 2, 3), "stop", 7) for i in range(prompts))
    return Completion(name, answers, TokenCounts(64, 16, 8, (8, 4, 0)), StageTimes(0.4, 0.3, 0.2))


def test_frames_travel_unchanged_without_a_copy():
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    table = decoded_table([unit("a") | payload(2)], [frames])
    assert table.schema.equals(DECODED)
    out = frames_of(table, 0)
    np.testing.assert_array_equal(out, frames)
    assert np.shares_memory(out, frames)
    again = unpacked(packed(table))
    assert again.schema.equals(DECODED)
    assert np.shares_memory(frames_of(again, 0), frames)


def test_units_share_a_block_and_nothing_else():
    clips = [np.full((n, 2, 2, 3), n, np.uint8) if n else None for n in (2, 0, 3)]
    rows = [unit(f"u{i}") | (payload(len(clip)) if clip is not None else {}) for i, clip in enumerate(clips)]
    block = packed(decoded_table(rows, clips))
    assert block.num_rows == 1
    # As it comes out of the object store, beside another block.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, block.schema) as writer:
        writer.write_table(pa.concat_tables([block, block]))
    table = unpacked(pa.ipc.open_stream(sink.getvalue()).read_all())
    assert table["unit_id"].to_pylist() == ["u0", "u1", "u2"] * 2
    assert table["frames_rgb"].null_count == 2
    for index in (0, 2, 3, 5):
        np.testing.assert_array_equal(frames_of(table, index), clips[index % 3])


def test_request_carries_id_prompts_and_times():
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    row = decoded_table([unit("a", prompts=2) | payload(2)], [frames]).to_pylist()[0]
    request = request_of(row, frames, Generation(max_new_tokens=5, temperature=0.5, top_p=0.9, seed=3))
    assert (request.id, request.prompts, list(request.timestamps_s)) == ("a", ("prompt 0", "prompt 1"), [0.0, 0.5])
    assert request.max_new_tokens == 5
    assert request.sampling == Sampling(0.5, 0.9, 3)


def test_result_rows_share_out_the_unit_s_seconds():
    row = unit("a", prompts=2) | payload(2)
    rows = result_rows(row, completion("a", 2), FACTS, NOW)
    assert [(r["prompt_id"], r["text"]) for r in rows] == [("p0", "a/0"), ("p1", "a/1")]
    assert sum(r["encode_s"] for r in rows) == 0.4
    assert sum(r["video_decode_s"] for r in rows) == 0.25
    table = result_table(outcomes([{"results": rows}]))
    assert table.schema.equals(RESULTS, check_metadata=True)
    assert table["layer_tokens"].to_pylist() == [[8, 4, 0]] * 2


def test_failure_rows_add_up_attempts():
    error = PromptTooLong("too long", "shorten it")
    row = failure_row(unit("a") | {"tried": 2}, "answer", error, 1, "run", NOW)
    table = failure_table(outcomes([{"failure": row}]))
    assert table.schema.equals(FAILURES, check_metadata=True)
    assert table.to_pylist()[0] | {"failed_at": None} == {
        "unit_id": "a",
        "item_id": None,
        "uri": "/videos/a.mp4",
        "start_s": None,
        "end_s": None,
        "stage": "answer",
        "error_class": "PromptTooLong",
        "message": "too long",
        "hint": "shorten it",
        "attempts": 3,
        "retryable": False,
        "video_s": 2.0,
        "run_id": "run",
        "failed_at": None,
    }


@given(st.lists(st.integers(0, 3), max_size=12))
def test_every_unit_ends_exactly_once(units):
    """0 prompts stands for a failed unit. Rows of a unit stay together and in order."""
    rows = []
    for index, prompts in enumerate(units):
        name = f"u{index}"
        if prompts:
            rows.append(
                {"results": result_rows(unit(name, prompts) | payload(1), completion(name, prompts), FACTS, NOW)}
            )
        else:
            rows.append({"failure": failure_row(unit(name), "answer", ValueError("x"), 1, "run", NOW)})
    table = outcomes(rows)
    assert table.schema.equals(OUTCOME)
    # Slices and concatenation are what Ray Data does to blocks.
    table = pa.concat_tables([table.slice(i, 1) for i in range(table.num_rows)] or [table])
    results, failures = result_table(table), failure_table(table)
    assert results["text"].to_pylist() == [f"u{i}/{p}" for i, n in enumerate(units) for p in range(n)]
    assert failures["unit_id"].to_pylist() == [f"u{i}" for i, n in enumerate(units) if not n]


@given(
    tokens=st.integers(1, 5),
    dim=st.sampled_from([1, 3, 8]),
    dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
    timed=st.booleans(),
)
def test_visual_tokens_travel_unchanged(tokens, dim, dtype, timed):
    """Through IPC, as the object store does, and beside a unit that has failed."""
    rng = np.random.default_rng(0)
    width = dim * (4 if dtype == "float32" else 2)
    places = [rng.random(tokens, np.float32) for _ in range(3)]
    clip = EncodedClip(
        rng.integers(0, 255, (tokens, width), np.uint8), dtype, *places[:2], places[2] if timed else None, (2, 8, 8, 3)
    )
    failed = unit("b") | {"failure": failure_row(unit("b"), "encode", ValueError("bad"), 1, "run", NOW)}
    done = unit("a") | payload(2) | {"encode_s": 0.5, "encoder": "w", "encoder_starved_s": 1.0}
    done |= {"encoder_peak_bytes": 7}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ENCODED) as writer:
        writer.write_table(pa.concat_tables([encoded_row(failed), encoded_row(done, clip)]))
    table = pa.ipc.open_stream(sink.getvalue()).read_all()
    assert table["failure"][0].as_py()["stage"] == "encode"
    back = encoded_of(table.combine_chunks(), 1)
    assert (back.dtype, back.frames_shape) == (dtype, (2, 8, 8, 3))
    for got, sent in ((back.features, clip.features), (back.row, clip.row), (back.column, clip.column)):
        np.testing.assert_array_equal(got, sent)
        assert got.dtype == sent.dtype
    assert (back.time is None) == (not timed)
    if timed:
        np.testing.assert_array_equal(back.time, clip.time)
    rows = table.drop_columns(list(set(LARGE) & set(table.column_names))).to_pylist()
    assert [row["encoder_peak_bytes"] for row in rows] == [None, 7]
    request = request_of(rows[1], back, Generation())
    (shown,) = request.media
    assert (shown.encoded, shown.frames, tuple(shown.timestamps_s)) == (back, None, (0.0, 0.5))
    results = result_rows(rows[1], completion("a", 1), FACTS, NOW)
    assert results[0]["encode_s"] == 0.4 + 0.5
