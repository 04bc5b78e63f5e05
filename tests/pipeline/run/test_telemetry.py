"""Live metrics: what the driver and the engines record, and what a scrape of a real Ray node shows after a real run."""

from __future__ import annotations

import json
import re
import time
import types
import urllib.request
from pathlib import Path

import pyarrow as pa
import pytest

from luvc.types import EngineLoad
from pipeline.run import gpus, meters
from pipeline.run.job import run
from pipeline.run.meters import METERS
from pipeline.run.telemetry import RunTelemetry, tell_load
from pipeline.schemas import FAILURES, RESULTS


class Kept:
    """Keeps what is recorded: counters add up, gauges replace, histograms collect."""

    def __init__(self):
        self.values = {}

    def __call__(self, meter, value, **tags):
        assert set(tags) == set(meter.tags), meter.name
        key = (meter.name, *tags.values())
        if meter.kind == "counter":
            assert value > 0  # Ray refuses zero
            self.values[key] = self.values.get(key, 0) + value
        elif meter.kind == "gauge":
            self.values[key] = value
        else:
            self.values.setdefault(key, []).append(value)


def test_the_table_is_in_order():
    names = [meter.name for meter in METERS]
    assert len(set(names)) == len(names)
    declared = [value for value in vars(meters).values() if isinstance(value, meters.Meter)]
    assert set(declared) == set(METERS)
    for meter in METERS:
        assert re.fullmatch(r"luvc(_[a-z]+)+", meter.name)
        assert meter.name.endswith("_total") == (meter.kind == "counter")
        assert bool(meter.boundaries) == (meter.kind == "histogram")
        assert meter.description.endswith(".")
        if meter.unit in ("seconds", "bytes", "ratio"):
            assert meter.unit in meter.name
        assert not set(meter.tags) & set(meters.COMMON_TAGS + meters.RAY_LABELS)


def test_units_count_once_whatever_their_prompts():
    rows = [
        {"unit_id": unit, "uri": "a", "prompt_id": prompt, "text": "", "video_s": 30.0, "patches": 64,
         "visual_tokens": 16, "merged_tokens": 8, "layer_tokens": layers, "output_tokens": 5}
        for unit, layers in (("u1", [8, 4, 0]), ("u2", None)) for prompt in ("a", "b")
    ]  # fmt: skip
    failures = [{"unit_id": f"f{i}", "uri": "b", "stage": "probe", "error_class": name} for i, name in enumerate("AAB")]
    kept = Kept()
    telemetry = RunTelemetry(kept, planned=9, clock=lambda: 77.0)
    telemetry.outcomes(pa.Table.from_pylist(rows, RESULTS), pa.Table.from_pylist(failures, FAILURES))
    telemetry.outcomes(RESULTS.empty_table(), FAILURES.empty_table())
    assert kept.values == {
        ("luvc_units_done_total",): 2,
        ("luvc_answers_total",): 4,
        ("luvc_video_seconds_total",): 60.0,
        ("luvc_output_tokens_total",): 20,
        ("luvc_visual_tokens_total", "patches"): 128,
        ("luvc_visual_tokens_total", "visual"): 32,
        ("luvc_visual_tokens_total", "merged"): 16,
        ("luvc_visual_tokens_total", "layers"): 4 + 8,
        ("luvc_units_failed_total", "probe", "A"): 2,
        ("luvc_units_failed_total", "probe", "B"): 1,
    }


def test_stage_counters_follow_cumulative_heartbeats():
    kept = Kept()
    telemetry = RunTelemetry(kept, planned=8, clock=lambda: 77.0)
    for busy_s, starved_s, left in ((1.0, 0.0, 5), (1.0, 0.5, 3), (4.5, 2.0, 0)):
        telemetry.beat({"left": left, "stage": {"encode": {"busy_s": busy_s, "starved_s": starved_s}}})
    assert kept.values["luvc_stage_busy_seconds_total", "encode"] == 4.5
    assert kept.values["luvc_stage_starved_seconds_total", "encode"] == 2.0
    assert kept.values["luvc_units_left",] == 0
    assert kept.values["luvc_units_planned",] == 8
    assert kept.values["luvc_last_unit_timestamp_seconds",] == 77.0


def test_load_of_an_engine():
    kept = Kept()
    tell_load(kept, EngineLoad(3, 1, 2048, 8192, 1000, 4000))
    tell_load(kept, EngineLoad(2, 0, 0, 8192, 900, 4000))
    assert kept.values["luvc_batch_fill_ratio",] == [0.25]
    assert kept.values["luvc_engine_sequences", "running"] == 2
    assert kept.values["luvc_engine_sequences", "waiting"] == 0
    assert kept.values["luvc_kv_bytes",] == 900


def test_gpus_by_index_and_by_uuid():
    asked = []
    library = types.SimpleNamespace(
        nvmlDeviceGetHandleByIndex=lambda index: asked.append(index),
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetUtilizationRates=lambda device: types.SimpleNamespace(gpu=87),
        nvmlDeviceGetMemoryInfo=lambda device: types.SimpleNamespace(used=5_000),
    )
    kept = Kept()
    gpus.sample(library, ["3", "GPU-abc"], kept)
    assert asked == [3, b"GPU-abc"]
    assert kept.values["luvc_gpu_utilization_ratio", "3"] == 0.87
    assert kept.values["luvc_gpu_memory_used_bytes", "GPU-abc"] == 5_000


def test_without_gpus_nothing_is_watched(monkeypatch):
    assert gpus.watch([], Kept()) is None
    monkeypatch.setattr(gpus, "nvml", lambda: None)
    assert gpus.watch(["0"], Kept()) is None


def test_a_watch_samples_until_it_is_stopped_and_survives_the_driver(monkeypatch):
    calls = []

    def fails_later(library, indices, record):
        calls.append(indices)
        if len(calls) == 2:
            raise RuntimeError("the driver is gone")

    monkeypatch.setattr(gpus, "nvml", lambda: object())
    monkeypatch.setattr(gpus, "sample", fails_later)
    assert gpus.watch(["0"], Kept(), period_s=0.01) is not None
    time.sleep(0.3)
    assert calls == [["0"], ["0"]]


SERIES = re.compile(r"^(ray_luvc_\w+)\{(.*)\} (\S+)$", re.M)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def scrape(name):
    """Series of a run name on the first node: {(series, labels without Ray's): value}."""
    import ray

    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10).read().decode()
    found = {}
    for series, labels, value in SERIES.findall(text):
        labels = dict(LABEL.findall(labels))
        if labels["run_name"] == name:
            own = {key: value for key, value in labels.items() if not key.startswith("otel_")}
            assert set(meters.RAY_LABELS) <= set(own)
            own = tuple(sorted((key, value) for key, value in own.items() if key not in meters.RAY_LABELS))
            # Engine actors of one node differ by Ray's own labels only.
            found[series, own] = found.get((series, own), 0.0) + float(value)
    return found


@pytest.mark.usefixtures("ray_address")
def test_a_scrape_after_a_run_says_what_its_metrics_json_says(bench, videos):
    pytest.importorskip("prometheus_client", reason="ray[default] is not installed")
    import ray

    rows = [{"path": str(path), "id": path.stem} for path in sorted(videos.iterdir())]
    rows[1]["prompt"] = "[fake:error]"
    rows.append({"path": str(videos / "gone.mp4")})
    config = bench.config(bench.items(rows), prompts={"a": "What?", "b": "Why?"}, name="scraped")
    ended = run(config, say=lambda text: None)
    assert (ended.done, ended.failed) == (7, 2)
    metrics = json.loads((bench.output / "metrics.json").read_text())

    node = ray.util.get_node_ip_address()
    until = time.monotonic() + 120

    def value(series, **tags):
        labels = tuple(sorted({"run_name": "scraped", "node": node, **tags}.items()))
        return found.get((series, labels))

    # Ray's processes hand their metrics over every ten seconds.
    while True:
        found = scrape("scraped")
        there = value("ray_luvc_runs_ended_total", outcome="some_failed") and value("ray_luvc_batch_fill_ratio_count")
        if there or time.monotonic() > until:
            break
        time.sleep(1)

    totals = metrics["totals"]
    assert value("ray_luvc_units_planned") == totals["planned"] == 9
    assert value("ray_luvc_units_done_total") == totals["done"]
    assert value("ray_luvc_answers_total") == totals["answers"] == 14
    assert value("ray_luvc_video_seconds_total") == pytest.approx(totals["done_video_s"])
    assert value("ray_luvc_units_left") == totals["pending"] == 0
    assert value("ray_luvc_output_tokens_total") == metrics["run_speed"]["output_tokens"]
    for step in metrics["ladder"]:
        assert value("ray_luvc_visual_tokens_total", step=step["name"]) == pytest.approx(step["tokens"])
    failed = {
        (cause["stage"], cause["error_class"]): value(
            "ray_luvc_units_failed_total", stage=cause["stage"], error_class=cause["error_class"]
        )
        for cause in metrics["failures"]
    }
    assert failed == {("probe", "SourceMissing"): 1.0, ("answer", "RequestError"): 1.0}
    for stage in metrics["stages"]:
        busy = value("ray_luvc_stage_busy_seconds_total", stage=stage["name"]) or 0.0
        assert busy == pytest.approx(stage["busy_s"], abs=1e-6), stage["name"]
    starved_s = next(stage["starved_s"] for stage in metrics["stages"] if stage["name"] == "encode")
    assert (value("ray_luvc_stage_starved_seconds_total", stage="encode") or 0.0) == pytest.approx(starved_s, abs=1e-6)
    sizes = {
        kind: sum(path.stat().st_size for path in (bench.output / kind).glob("*.parquet"))
        for kind in ("results", "failures")
    }
    assert {kind: value("ray_luvc_part_bytes_total", kind=kind) for kind in sizes} == sizes
    assert value("ray_luvc_batch_fill_ratio_count") >= 1
    exported = {series for meter in METERS for series in meter.exported}
    assert {series for series, _ in found} <= exported


def test_the_docs_are_the_table():
    from pipeline.run import meter_docs

    command = "python -m pipeline.run.meter_docs > docs/metrics.md"
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == meter_docs.document(), f"run: {command}"
    assert all(f"| `{meter.name}` |" in meter_docs.document() for meter in METERS)
