"""Arrow schemas of every file the pipeline writes. The output contract: docs/output.md is made from it.

Each field carries a description in its metadata. Knows nothing of Ray or torch.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1"


def _field(name: str, kind: pa.DataType, description: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"luvc.schema": name, "luvc.schema_version": SCHEMA_VERSION})


PROMPT = pa.struct([_field("prompt_id", pa.string(), "Name of the prompt."), _field("text", pa.string(), "Its text.")])

#: `merged_tokens`, in every file that has it.
_MERGED = (
    "Visual tokens that come out of the encoder, after merging and before pruning; what a pruner leaves stands in "
)

#: What identifies a unit and where it comes from; the same columns stand in every file.
IDENTITY = (
    _field("unit_id", pa.string(), "Hash of everything that determines the answer.", nullable=False),
    _field("item_id", pa.string(), "The user's own id from an input manifest."),
    _field("uri", pa.string(), "The video.", nullable=False),
    _field("start_s", pa.float64(), "Start of the clip in the video, seconds; null = from its beginning."),
    _field("end_s", pa.float64(), "End of the clip, seconds; null = to its end."),
)

MANIFEST = _schema(
    "manifest",
    *IDENTITY,
    _field("etag", pa.string(), "Version of the file: the store's etag, or size and modification time."),
    _field("size_bytes", pa.int64(), "Size of the file in bytes."),
    _field("duration_s", pa.float64(), "Length of the clip in seconds."),
    _field("width_px", pa.int32(), "Displayed width (after rotation and pixel aspect)."),
    _field("height_px", pa.int32(), "Displayed height (after rotation and pixel aspect)."),
    _field("rotation_deg", pa.int32(), "Clockwise rotation to apply for display: 0, 90, 180 or 270."),
    _field("fps", pa.float64(), "Average frame rate of the video."),
    _field("codec", pa.string(), "Video codec."),
    _field("timestamps_s", pa.list_(pa.float64()), "Times to sample, seconds from the start of the video."),
    _field("key_frames_only", pa.bool_(), "Sample the nearest key frame at or before each timestamp."),
    _field("frame_height_px", pa.int32(), "Height frames are resized to in the decoder."),
    _field("frame_width_px", pa.int32(), "Width frames are resized to in the decoder."),
    _field("prompts", pa.list_(PROMPT), "Prompts to answer for this clip."),
    _field("frames", pa.int32(), "Frames to sample."),
    _field("patches", pa.int64(), "Patch tokens that enter the vision encoder."),
    _field("visual_tokens", pa.int64(), "Visual tokens without compression."),
    _field("merged_tokens", pa.int64(), f"{_MERGED}mean_layer_tokens."),
    _field("mean_layer_tokens", pa.float64(), "Mean visual tokens per decoder layer."),
    _field("kv_bytes", pa.int64(), "KV-cache bytes at the end of one answer."),
    _field("vision_flops", pa.int64(), "FLOPs of the vision encoder."),
    _field("text_flops", pa.int64(), "FLOPs of prefill and decode, all prompts."),
    _field("full_vision_flops", pa.int64(), "FLOPs of the vision encoder without compression."),
    _field("full_text_flops", pa.int64(), "FLOPs of prefill and decode, all prompts, without compression."),
    _field("sample", pa.bool_(), "One of the units shown with a thumbnail in the report.", nullable=False),
    _field("error_class", pa.string(), "Planning already failed for this unit: the class of the error."),
    _field("error_message", pa.string(), "What happened."),
    _field("error_hint", pa.string(), "What to do about it."),
)

PROBES = _schema(
    "probes",
    _field("uri", pa.string(), "The video.", nullable=False),
    _field("etag", pa.string(), "Version of the file when its header was read.", nullable=False),
    _field("size_bytes", pa.int64(), "Size of the file in bytes."),
    _field("duration_s", pa.float64(), "Length of the video in seconds."),
    _field("width_px", pa.int32(), "Displayed width (after rotation and pixel aspect)."),
    _field("height_px", pa.int32(), "Displayed height (after rotation and pixel aspect)."),
    _field("rotation_deg", pa.int32(), "Clockwise rotation to apply for display: 0, 90, 180 or 270."),
    _field("fps", pa.float64(), "Average frame rate of the video."),
    _field("codec", pa.string(), "Video codec."),
    _field("key_frames_s", pa.list_(pa.float64()), "Times of the key frames; null = not asked for."),
)

RESULTS = _schema(
    "results",
    *IDENTITY,
    _field("prompt_id", pa.string(), "Which prompt this row answers.", nullable=False),
    _field("prompt", pa.string(), "Text of the prompt."),
    _field("text", pa.string(), "The answer.", nullable=False),
    _field("finish_reason", pa.string(), "stop: the model ended; length: the token limit cut it."),
    _field("model", pa.string(), "Model name or folder."),
    _field("compression", pa.string(), "Name of the compression in force."),
    _field("frames_expected", pa.int32(), "Frames the plan asked for."),
    _field("frames_decoded", pa.int32(), "Frames that reached the model."),
    _field(
        "frames_corrupt",
        pa.int32(),
        "Frames among these that could not be decoded and are copies of the nearest good one (tolerant policy).",
    ),
    _field("timestamps_s", pa.list_(pa.float64()), "Times of the frames that were used, seconds."),
    _field("patches", pa.int64(), "Patch tokens that entered the vision encoder."),
    _field("visual_tokens", pa.int64(), "Visual tokens without compression."),
    _field("merged_tokens", pa.int64(), f"{_MERGED}layer_tokens. Of vLLM: those that enter the language model."),
    _field("layer_tokens", pa.list_(pa.int32()), "Visual tokens alive in each decoder layer."),
    _field("prompt_tokens", pa.int32(), "Text and special tokens of the prompt."),
    _field("output_tokens", pa.int32(), "Generated tokens."),
    _field("video_s", pa.float64(), "Length of the clip, seconds of video."),
    _field("video_decode_s", pa.float64(), "CPU stage: seconds to fetch, decode and resize."),
    _field("encode_s", pa.float64(), "Engine seconds in the vision encoder, shared out by tokens."),
    _field("prefill_s", pa.float64(), "Engine seconds in prefill, shared out by tokens."),
    _field("decode_s", pa.float64(), "Engine seconds in decode steps, shared out by tokens."),
    _field("thumbnail", pa.binary(), "JPEG of the middle frame, for sampled units."),
    _field("run_id", pa.string(), "Run that wrote the row."),
    _field("finished_at", pa.timestamp("ms", tz="UTC"), "When the answer was ready."),
)

FAILURES = _schema(
    "failures",
    *IDENTITY,
    _field("stage", pa.string(), "probe, video_decode, encode, answer or sink.", nullable=False),
    _field("error_class", pa.string(), "Class of the error.", nullable=False),
    _field("message", pa.string(), "What happened."),
    _field("hint", pa.string(), "What to do about it."),
    _field("attempts", pa.int32(), "How often the unit was tried."),
    _field("retryable", pa.bool_(), "Whether trying again can help."),
    _field("video_s", pa.float64(), "Length of the clip, seconds of video, if known."),
    _field("run_id", pa.string(), "Run that wrote the row."),
    _field("failed_at", pa.timestamp("ms", tz="UTC"), "When it failed for the last time."),
)

QUALITY = _schema(
    "quality",
    *IDENTITY,
    _field("prompt_id", pa.string(), "Which prompt was asked.", nullable=False),
    _field("prompt", pa.string(), "Text of the prompt."),
    _field("text", pa.string(), "The answer, as in results.", nullable=False),
    _field("reference_text", pa.string(), "The answer without compression; null if there is none."),
    _field("agreement", pa.float64(), "Tokens that both answers share, in order, 0 to 1 (F-measure of ROUGE-L)."),
    _field("similarity", pa.float64(), "Cosine of both answers' sentence embeddings; null where not measured."),
    _field("output_tokens", pa.int32(), "Generated tokens of the answer."),
    _field("reference_output_tokens", pa.int32(), "Generated tokens of the answer without compression."),
    _field("visual_tokens", pa.int64(), "Visual tokens without compression."),
    _field("merged_tokens", pa.int64(), f"{_MERGED}layer_tokens of results. Here those with compression."),
    _field("video_s", pa.float64(), "Length of the clip, seconds of video."),
    _field("encode_s", pa.float64(), "Engine seconds in the vision encoder, the clip alone; shared out over its rows."),
    _field("prefill_s", pa.float64(), "The same in prefill."),
    _field("decode_s", pa.float64(), "The same in decode steps."),
    _field("reference_encode_s", pa.float64(), "Engine seconds in the vision encoder without compression, also alone."),
    _field("reference_prefill_s", pa.float64(), "The same in prefill."),
    _field("reference_decode_s", pa.float64(), "The same in decode steps."),
    _field("model", pa.string(), "Model name or folder."),
    _field("compression", pa.string(), "Name of the compression that is compared."),
    _field("error_class", pa.string(), "There is nothing to compare with: the class of the error."),
    _field("message", pa.string(), "What happened."),
    _field("run_id", pa.string(), "Run that wrote the row."),
    _field("finished_at", pa.timestamp("ms", tz="UTC"), "When the comparison was ready."),
)

METRICS = _schema(
    "metrics",
    _field("run_name", pa.string(), "Name of the run in its configuration."),
    _field("run_id", pa.string(), "The run."),
    _field("interval_start", pa.timestamp("ms", tz="UTC"), "Start of the interval."),
    _field("interval_s", pa.float64(), "Length of the interval, seconds."),
    _field("stage", pa.string(), "total, video_decode, encode, prefill, decode, reference or sink."),
    _field("units", pa.int64(), "Units that finished in the interval."),
    _field("failed", pa.int64(), "Units that failed in the interval."),
    _field("video_s", pa.float64(), "Seconds of video finished."),
    _field("busy_s", pa.float64(), "Seconds the stage worked, summed over its workers."),
    _field("starved_s", pa.float64(), "Seconds the stage waited for input."),
    _field("visual_tokens", pa.int64(), "Visual tokens before compression."),
    _field("merged_tokens", pa.int64(), f"{_MERGED}layer_tokens of results."),
    _field("output_tokens", pa.int64(), "Generated tokens."),
    _field("cost_usd", pa.float64(), "Cost of the interval at the configured prices; null without prices."),
)
