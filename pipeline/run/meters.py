"""Every live metric of a run: name, kind, unit, tags and meaning, in one table.

The recorder, the dashboard, the alert rules, docs/metrics.md and their tests all read it, so none can name a metric
that does not exist. Ray exports them on every node for Prometheus, as `ray_` and the name. They are for watching; what
happened is in the event log and the output's files. Plain data: knows nothing of Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

#: What Ray puts before each name.
PREFIX = "ray_"

#: Tags of every metric: `name` of the configuration, and the address of the node that records it.
COMMON_TAGS = ("run_name", "node")

#: Labels that Ray adds to each series by itself.
RAY_LABELS = ("Component", "NodeAddress", "SessionName", "Version", "WorkerId")


@dataclass(frozen=True)
class Meter:
    """One metric.

    Attributes:
        name: without Ray's prefix.
        kind: counter, gauge or histogram.
        unit: of its value.
        description: what it says.
        tags: in addition to `COMMON_TAGS`.
        source: driver (one series a run) or engine (one series an engine actor).
        boundaries: upper edges of a histogram's buckets.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    tags: tuple[str, ...] = ()
    source: Literal["driver", "engine"] = "driver"
    boundaries: tuple[float, ...] = ()

    @property
    def tag_keys(self) -> tuple[str, ...]:
        return COMMON_TAGS + self.tags

    @property
    def exported(self) -> tuple[str, ...]:
        """Names of its series in Prometheus."""
        name = PREFIX + self.name
        return (f"{name}_bucket", f"{name}_count", f"{name}_sum") if self.kind == "histogram" else (name,)


UNITS_DONE = Meter("luvc_units_done_total", "counter", "units", "Units with results.")
UNITS_FAILED = Meter(
    "luvc_units_failed_total", "counter", "units", "Units that failed, by stage and cause.", ("stage", "error_class")
)
UNITS_PLANNED = Meter("luvc_units_planned", "gauge", "units", "Units of the plan, done ones included.")
UNITS_LEFT = Meter("luvc_units_left", "gauge", "units", "Units this run has still to do; 0 at its end.")
ANSWERS = Meter("luvc_answers_total", "counter", "answers", "Answers: done units times their prompts.")
VIDEO_SECONDS = Meter("luvc_video_seconds_total", "counter", "seconds", "Seconds of video of done units.")
VISUAL_TOKENS = Meter(
    "luvc_visual_tokens_total",
    "counter",
    "tokens",
    "Visual tokens of done units before and after each compression step: patches into the encoder, visual (without "
    "compression), merged (out of the encoder, before pruning), layers (mean over those of the language model).",
    ("step",),
)
OUTPUT_TOKENS = Meter("luvc_output_tokens_total", "counter", "tokens", "Generated tokens.")
STAGE_BUSY = Meter(
    "luvc_stage_busy_seconds_total", "counter", "seconds", "Seconds a stage worked, summed over workers.", ("stage",)
)
STAGE_STARVED = Meter(
    "luvc_stage_starved_seconds_total",
    "counter",
    "seconds",
    "Seconds actors waited: encode for frames, prefill for visual tokens (run.topology: split).",
    ("stage",),
)
LAST_UNIT = Meter(
    "luvc_last_unit_timestamp_seconds",
    "gauge",
    "seconds",
    "Unix time at which a unit last finished or failed, or the run began.",
)
PARTS_BYTES = Meter("luvc_part_bytes_total", "counter", "bytes", "Bytes of part files, by folder.", ("kind",))
RUNS_ENDED = Meter(
    "luvc_runs_ended_total",
    "counter",
    "runs",
    "Runs that ended: done, some_failed, interrupted or aborted.",
    ("outcome",),
)
UNITS_COMPARED = Meter(
    "luvc_units_compared_total",
    "counter",
    "units",
    "Units of the quality slice: compared with the answer without compression, or failed to be.",
    ("outcome",),
)
AGREEMENT = Meter(
    "luvc_quality_agreement_ratio",
    "gauge",
    "ratio",
    "Tokens that answers of this run's quality slice share with those without compression; mean so far.",
)
RUNS_BELOW_QUALITY = Meter(
    "luvc_runs_below_quality_total",
    "counter",
    "runs",
    "Runs that finished with their quality slice below a threshold (quality.min_agreement, quality.min_similarity).",
)

BATCH_FILL = Meter(
    "luvc_batch_fill_ratio",
    "histogram",
    "ratio",
    "Tokens of a packed prefill over its token budget (run.prefill_tokens); low while the engine waits for frames.",
    source="engine",
    boundaries=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
SEQUENCES = Meter(
    "luvc_engine_sequences", "gauge", "sequences", "Prompts in an engine: running or waiting.", ("state",), "engine"
)
KV_BYTES = Meter("luvc_kv_bytes", "gauge", "bytes", "Bytes of KV cache an engine holds.", source="engine")
KV_LIMIT_BYTES = Meter("luvc_kv_limit_bytes", "gauge", "bytes", "Its budget, run.kv_bytes.", source="engine")
ENGINE_RESTARTS = Meter(
    "luvc_engine_restarts_total", "counter", "restarts", "Engines built anew after one broke.", source="engine"
)
GPU_UTILIZATION = Meter(
    "luvc_gpu_utilization_ratio",
    "gauge",
    "ratio",
    "Share of time in which a kernel ran on an engine's GPU, from NVML.",
    ("gpu",),
    "engine",
)
GPU_MEMORY_BYTES = Meter(
    "luvc_gpu_memory_used_bytes", "gauge", "bytes", "Memory in use on an engine's GPU, from NVML.", ("gpu",), "engine"
)

METERS = (
    *(UNITS_DONE, UNITS_FAILED, UNITS_PLANNED, UNITS_LEFT, ANSWERS, VIDEO_SECONDS, VISUAL_TOKENS, OUTPUT_TOKENS),
    *(STAGE_BUSY, STAGE_STARVED, LAST_UNIT, PARTS_BYTES, RUNS_ENDED, UNITS_COMPARED, AGREEMENT, RUNS_BELOW_QUALITY),
    *(BATCH_FILL, SEQUENCES, KV_BYTES, KV_LIMIT_BYTES, ENGINE_RESTARTS, GPU_UTILIZATION, GPU_MEMORY_BYTES),
)
