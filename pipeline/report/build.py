"""Builds the report of an output folder from its files alone: reads, computes, writes.

Writes `runs/<run_id>/{metrics.json,report.html}` and `metrics/part-<run_id>.parquet`; the newest run's page and
figures also stand in the root. Knows nothing of Ray, and needs no run to have ended, or even begun.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from luvc.errors import LuvcError
from pipeline import schemas, storage
from pipeline.errors import SourceMissing
from pipeline.parts import encode, facts_of, is_compacted, replaced_by, run_facts
from pipeline.report import metrics as figures
from pipeline.report import page, runlog
from pipeline.report import quality as slices
from pipeline.report.files import Output
from pipeline.report.history import NIGHTS
from pipeline.report.quality import Slice
from pipeline.report.records import Metrics, Quality
from pipeline.report.runlog import RunLog
from pipeline.report.samples import SAMPLE_COLUMNS, Sample, choose, samples

MANIFEST_PATH = ("manifest", "manifest.parquet")


class ReportError(LuvcError):
    """There is nothing to report on."""


def build_report(output_url: str, storage_options: dict[str, Any] | None = None, run_id: str | None = None) -> Metrics:
    """(Re)build the report of one run.

    Args:
        output_url: the output folder, any fsspec URL.
        storage_options: for fsspec.
        run_id: which run; None = the newest.

    Returns:
        The figures, as written to `metrics.json`.

    Raises:
        ReportError: no manifest in this folder, or no such run.
        pipeline.report.counts.InvariantError: the files contradict each other.
    """
    output = Output.at(output_url, storage_options)
    if not output.parts("manifest"):
        raise ReportError(
            f"{output_url}: no manifest here", "give the output folder of a run, or make one with `luvc plan CONFIG`"
        )
    runs = _runs(output)
    newest = runlog.newest(runs)
    chosen = newest if run_id is None else next((run for run in runs if run.run_id == run_id), None)
    if run_id is not None and chosen is None:
        known = ", ".join(run.run_id for run in runs) or "none"
        raise ReportError(f"{output_url}: no run {run_id!r}", f"runs here: {known}")
    if chosen is not None:
        chosen = _run(output, chosen.run_id, all_heartbeats=True)

    manifest = output.table("manifest", schemas.MANIFEST, figures.MANIFEST_COLUMNS)
    results = output.table("results", schemas.RESULTS, figures.RESULTS_COLUMNS)
    failures = output.table("failures", schemas.FAILURES, figures.FAILURES_COLUMNS)
    earlier = [] if chosen is None else stored_runs(output, before=chosen.run_id)
    quality = None if chosen is None else _slice(output, chosen.sample, chosen.config.get("quality") or {})
    metrics = figures.compute(manifest, results, failures, runs, chosen, earlier, quality)
    html = page.render(metrics, _samples(output, manifest, results))
    _write(output, metrics, html, chosen, newest)
    if chosen is not None:
        _write_intervals(output, chosen, figures.interval_table(chosen, results, failures))
    return metrics


def _runs(output: Output) -> list[RunLog]:
    """All runs of the output, each with its last heartbeat only."""
    found = (_run(output, run_id, all_heartbeats=False) for run_id in output.folders("runs"))
    return [run for run in found if run is not None]


def _run(output: Output, run_id: str, all_heartbeats: bool) -> RunLog | None:
    events = output.read_text("runs", run_id, "events.jsonl")
    if events is None:
        return None
    return runlog.parse(run_id, events, output.read_text("runs", run_id, "config.yaml"), all_heartbeats)


def stored_runs(output: Output, before: str | None = None) -> list[dict[str, Any]]:
    """`metrics.json` of the newest runs, oldest first; run ids sort by time."""
    ids = [run_id for run_id in output.folders("runs") if before is None or run_id < before]
    found = (_stored(output, "runs", run_id, "metrics.json") for run_id in ids[-NIGHTS:])
    return [stored for stored in found if stored]


def _stored(output: Output, *parts: str) -> dict[str, Any]:
    """A JSON object; empty if it is missing or none. The history is worth no error: the report can do without."""
    try:
        found = json.loads(output.read_text(*parts) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def newest_run(output_url: str, storage_options: dict[str, Any] | None = None) -> RunLog | None:
    """The run that began last, with its last heartbeat only; None before the first. Run ids sort by time."""
    output = Output.at(output_url, storage_options)
    found = (_run(output, run_id, all_heartbeats=False) for run_id in reversed(output.folders("runs")))
    return next((run for run in found if run is not None), None)


def measure_quality(
    output_url: str,
    storage_options: dict[str, Any] | None,
    sample: Sequence[str] | None,
    thresholds: Mapping[str, Any],
) -> Quality | None:
    """The figures of a quality slice; None where there was none.

    Args:
        sample: its units; None: those of the newest run.
        thresholds: the `quality` section of a configuration.
    """
    if sample is None:
        last = newest_run(output_url, storage_options)
        sample = () if last is None else last.sample
    found = _slice(Output.at(output_url, storage_options), sample, thresholds)
    return None if found is None else found.quality


def _slice(output: Output, sample: Sequence[str], thresholds: Mapping[str, Any]) -> Slice | None:
    if not sample:
        return None
    where = ds.field("unit_id").isin(list(sample))
    return slices.measured(output.table("quality", schemas.QUALITY, slices.COLUMNS, where), sample, thresholds)


def _samples(output: Output, manifest: pa.Table, results: pa.Table) -> list[Sample]:
    ids = choose(manifest, results["unit_id"])
    rows = output.table("results", schemas.RESULTS, SAMPLE_COLUMNS, where=ds.field("unit_id").isin(ids))
    return samples(rows, ids)


def _write(output: Output, metrics: Metrics, html: str, run: RunLog | None, newest: RunLog | None) -> None:
    text = json.dumps(metrics.as_dict(), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    folders: list[tuple[str, ...]] = []
    if run is not None:
        folders.append(("runs", run.run_id))
    if run is None or (newest is not None and run.run_id == newest.run_id):
        folders.append(())
    for folder in folders:
        output.write(text.encode(), *folder, "metrics.json")
        output.write(html.encode(), *folder, "report.html")


def _write_intervals(output: Output, run: RunLog, table: pa.Table) -> None:
    """The run's rows of `metrics/`: in a file of their own, or in place of its earlier ones in a compacted file."""
    model = (run.config.get("model") or {}).get("id")
    facts = {run.run_id: run_facts(run.name, model, run.config_hash, run.versions)}
    name = f"part-{run.run_id}.parquet"
    if _in_compacted(output, name, run.run_id, table, facts):
        return
    output.write(encode(table, facts), "metrics", name)
    # A compaction without this file's new rows may have ended just then.
    if _in_compacted(output, name, run.run_id, table, facts):
        output.remove("metrics", name)


def _in_compacted(
    output: Output, name: str, run_id: str, table: pa.Table, facts: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Put the run's rows where a compacted file has, or had, others of it; false if there is none."""
    for url in filter(is_compacted, output.parts("metrics")):
        with suppress(SourceMissing, FileNotFoundError), storage.open_read(url, output.options) as file:
            rows = pq.ParquetFile(file)
            footer = rows.metadata.metadata
            if run_id not in facts_of(footer) and name not in replaced_by(footer):
                continue
            others = rows.read().filter(pc.not_equal(pc.field("run_id"), run_id))
            joined = pa.concat_tables([others, table], promote_options="default")
            data = encode(joined, {**facts_of(footer), **facts}, sorted(replaced_by(footer)))
            storage.write_atomic(url, data, output.options)
            return True
    return False
