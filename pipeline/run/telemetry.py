"""What a run tells Prometheus: the driver's counts and the engines' state, recorded as `pipeline.run.meters`.

Counters follow the same tables and the same tally that results, failures and the event log are written from, so what a
dashboard shows is what the report will say. A `Record` is how a value leaves; Ray's is at the end, the only part that
knows Ray. Ray exports metrics where `ray[default]` is installed, and drops them silently elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luvc.types import EngineLoad
from pipeline.run import meters
from pipeline.run.meters import Meter
from pipeline.run.outcome import compared_and_failed


class Record(Protocol):
    """Takes one value of one metric: an increment of a counter, the value of a gauge, one case of a histogram."""

    def __call__(self, meter: Meter, value: float, **tags: str) -> None: ...


class RunTelemetry:
    """The driver's metrics.

    Args:
        record: where values go.
        planned: units of the plan.
        clock: Unix time, seconds.
    """

    def __init__(self, record: Record, planned: int, clock: Callable[[], float] = time.time) -> None:
        self._record = record
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}
        self._planned = planned
        self._last_unit_s = clock()

    def outcomes(self, results: pa.Table, failures: pa.Table) -> None:
        """Count the rows of finished units."""
        units = results.take(pa.array(_first_rows(results["unit_id"])))
        self._count(meters.UNITS_DONE, units.num_rows)
        self._count(meters.ANSWERS, results.num_rows)
        self._count(meters.VIDEO_SECONDS, _sum(units["video_s"]))
        self._count(meters.OUTPUT_TOKENS, _sum(results["output_tokens"]))
        for step, column in (("patches", "patches"), ("visual", "visual_tokens"), ("merged", "merged_tokens")):
            self._count(meters.VISUAL_TOKENS, _sum(units[column]), step=step)
        self._count(meters.VISUAL_TOKENS, _layer_tokens(units), step="layers")
        causes = failures.group_by(["stage", "error_class"]).aggregate([([], "count_all")])
        for cause in causes.to_pylist():
            self._count(meters.UNITS_FAILED, cause["count_all"], stage=cause["stage"], error_class=cause["error_class"])
        if results.num_rows or failures.num_rows:
            self._last_unit_s = self._clock()

    def compared(self, quality: pa.Table) -> None:
        """Count units of the quality slice."""
        compared, failed = compared_and_failed(quality)
        self._count(meters.UNITS_COMPARED, compared, outcome="compared")
        self._count(meters.UNITS_COMPARED, failed, outcome="failed")

    def beat(self, beat: Mapping[str, Any]) -> None:
        """Follow the fields of a `heartbeat` event."""
        # Ray forgets a gauge that is not set again for twenty seconds: one that is gone means a driver that is gone.
        self._record(meters.UNITS_PLANNED, self._planned)
        self._record(meters.UNITS_LEFT, beat["left"])
        self._record(meters.LAST_UNIT, self._last_unit_s)
        agreement = beat.get("quality", {}).get("agreement")
        if agreement is not None:
            self._record(meters.AGREEMENT, agreement)
        for stage, work in beat["stage"].items():
            for meter, key in ((meters.STAGE_BUSY, "busy_s"), (meters.STAGE_STARVED, "starved_s")):
                self._follow(meter, work.get(key) or 0.0, stage)

    def wrote(self, kind: str, size_bytes: int) -> None:
        """Count a part file."""
        self._count(meters.PARTS_BYTES, size_bytes, kind=kind)

    def ended(self, outcome: str) -> None:
        """Count the run."""
        self._count(meters.RUNS_ENDED, 1, outcome=outcome)

    def judged(self, below: bool) -> None:
        """Count a run whose quality slice is below a threshold."""
        self._count(meters.RUNS_BELOW_QUALITY, int(below))

    def _follow(self, meter: Meter, total: float, stage: str) -> None:
        """A counter is told what was added since it was told last."""
        key = (meter.name, stage)
        self._count(meter, total - self._told.get(key, 0.0), stage=stage)
        self._told[key] = total

    def _count(self, meter: Meter, amount: float, **tags: str) -> None:
        if amount > 0:
            self._record(meter, amount, **tags)


def tell_load(record: Record, load: EngineLoad) -> None:
    """What an engine holds after a step."""
    if load.prefill_tokens:
        record(meters.BATCH_FILL, load.prefill_tokens / load.prefill_limit_tokens)
    record(meters.SEQUENCES, load.running, state="running")
    record(meters.SEQUENCES, load.waiting, state="waiting")
    record(meters.KV_BYTES, load.kv_bytes)
    record(meters.KV_LIMIT_BYTES, load.kv_limit_bytes)


def _first_rows(ids: pa.ChunkedArray) -> np.ndarray:
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.sort(np.unique(codes, return_index=True)[1])


def _layer_tokens(units: pa.Table) -> float:
    """Mean tokens over layers, summed over units; a unit without counts by layer was not pruned."""
    counts = units["layer_tokens"].combine_chunks()
    layers = pc.fill_null(pc.list_value_length(counts), 0).to_numpy(zero_copy_only=False)
    merged = pc.fill_null(units["merged_tokens"], 0).to_numpy().astype(float)
    of_unit = np.bincount(pc.list_parent_indices(counts), weights=pc.list_flatten(counts), minlength=len(layers))
    return float(np.where(layers > 0, of_unit / np.maximum(layers, 1), merged).sum())


def _sum(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0.0)


class RayRecord:
    """Records through Ray; made in the process that records, one for each run name."""

    def __init__(self, run_name: str) -> None:
        import ray

        self._tags = {"run_name": run_name, "node": ray.util.get_node_ip_address()}
        self._instruments: dict[str, Any] = {}

    def __call__(self, meter: Meter, value: float, **tags: str) -> None:
        instrument = self._instruments.get(meter.name) or self._make(meter)
        method = {"counter": "inc", "gauge": "set", "histogram": "observe"}[meter.kind]
        getattr(instrument, method)(float(value), tags=self._tags | tags)

    def _make(self, meter: Meter) -> Any:
        from ray.util.metrics import Counter, Gauge, Histogram

        if meter.kind == "histogram":
            made: Any = Histogram(meter.name, meter.description, list(meter.boundaries), meter.tag_keys)
        else:
            made = {"counter": Counter, "gauge": Gauge}[meter.kind](meter.name, meter.description, meter.tag_keys)
        self._instruments[meter.name] = made
        return made
