"""The report as one HTML file: figures and samples in, text out. No network, no scripts, nothing read or written.

Everything that comes from videos, models or users goes through the template's escaping.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import jinja2
import yaml

from pipeline.report import charts, format, nights, slice_view
from pipeline.report.charts import Part, Plot
from pipeline.report.records import Cause, LadderStep, Metrics, StageTime
from pipeline.report.samples import Sample

#: Samples shown before the reader asks for more.
OPEN_SAMPLES = 6

STAGE_NAMES = {
    "video_decode": "Video decoding",
    "encode": "Vision encoder",
    "prefill": "Prefill",
    "decode": "Answer decoding",
}
WAITING = "Waiting for frames"
LADDER_NAMES = {
    "patches": ("Patches", "into the vision encoder"),
    "visual": ("Visual tokens", "without compression"),
    "merged": ("After merging", "out of the vision encoder"),
    "layers": ("After pruning", "mean over the layers"),
}
FILTERS = (
    *("number", "short", "rate", "percent", "seconds", "duration", "hours", "usd"),
    *("moment", "day", "span", "tick", "link"),
)
#: Colour of the headline's mark, by how things stand.
MOODS = {"done": "ok", "some_failed": "warn", "interrupted": "warn", "unfinished": "warn", "aborted": "bad"}


def render(metrics: Metrics, samples: list[Sample]) -> str:
    """The page."""
    prompts = {answer.prompt_id: answer.prompt for sample in samples for answer in sample.answers}
    return _template().render(
        m=metrics,
        mood=_mood(metrics),
        priced=metrics.run is not None and any((metrics.run.config.get("prices") or {}).values()),
        tally=_tally(metrics),
        warnings=_warnings(metrics),
        samples=samples,
        open_samples=OPEN_SAMPLES,
        prompts=prompts,
        nights=nights.nights(metrics),
        estimate=nights.estimate_line(metrics),
        uncompressed=nights.uncompressed_line(metrics),
        price_note=nights.price_line(metrics),
        quality=slice_view.view(metrics),
        throughput=_throughput(metrics),
        timeline=_timeline(metrics),
        moods=MOODS,
        lanes=_lanes(metrics),
        stages=metrics.stages if any(stage.seconds for stage in metrics.stages) else (),
        stage_names=STAGE_NAMES,
        ladder=[(*LADDER_NAMES[step.name], step, _ladder_bar(metrics, step)) for step in metrics.ladder],
        layers=_layers(metrics),
        lengths=_lengths(metrics),
        causes=[(cause, _cause_bar(metrics, cause)) for cause in metrics.failures],
        config=yaml.safe_dump(metrics.run.config, sort_keys=False, allow_unicode=True) if metrics.run else "",
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in FILTERS:
        environment.filters[name] = getattr(format, name)
    environment.globals["plural"] = format.plural
    return environment.get_template("page.html.jinja")


def _mood(metrics: Metrics) -> str:
    totals = metrics.totals
    if metrics.run is None or totals.planned == 0:
        return "idle"
    if metrics.quality and metrics.quality.below:
        return "bad"
    if totals.done == totals.planned:
        return "ok"
    return "bad" if totals.done == 0 and totals.failed else MOODS.get(metrics.run.outcome, "warn")


def _tally(metrics: Metrics) -> Any:
    totals = metrics.totals
    parts = [
        Part("ok", totals.done, f"{format.number(totals.done)} done"),
        Part("failed", totals.failed, f"{format.number(totals.failed)} failed"),
        Part("pending", totals.pending, f"{format.number(totals.pending)} pending"),
    ]
    return charts.bar(parts, totals.planned, height=8)


def _warnings(metrics: Metrics) -> list[str]:
    """What the reader should know before trusting the figures."""
    integrity, found = metrics.integrity, slice_view.warnings(metrics)
    if integrity.duplicate_answers:
        found.append(
            f"{format.plural(integrity.duplicate_answers, 'answer')} stand twice in results/ and count once. "
            "Were two runs writing here at the same time?"
        )
    if integrity.units_missing_answers:
        found.append(
            f"{format.plural(integrity.units_missing_answers, 'done clip')} without an answer to every prompt."
        )
    if integrity.units_with_corrupt_frames:
        found.append(
            f"{format.plural(integrity.corrupt_frames, 'corrupt frame')} in "
            f"{format.plural(integrity.units_with_corrupt_frames, 'clip')} left out under the tolerant decode policy."
        )
    if metrics.totals.pending_unplannable:
        found.append(
            f"{format.plural(metrics.totals.pending_unplannable, 'pending clip')} could not be read while planning; "
            "the next run files them as failures."
        )
    if integrity.answers_of_other_plans:
        found.append(
            f"{format.plural(integrity.answers_of_other_plans, 'answer')} in results/ belong to earlier plans "
            "(another input, prompt or setting): kept, not counted."
        )
    if integrity.unreadable_event_lines:
        found.append(f"{format.plural(integrity.unreadable_event_lines, 'line')} of the event log cannot be read.")
    return found


def _throughput(metrics: Metrics) -> dict[str, Any] | None:
    moments = metrics.timeline
    if len(moments) < 3 or not any(moment.units or moment.failed for moment in moments):
        return None  # a run with nothing to do has no curve
    start = datetime.fromisoformat(moments[0].start)
    titles, failures = [], []
    for moment in moments:
        elapsed = format.duration((datetime.fromisoformat(moment.start) - start).total_seconds())
        titles.append(
            f"{elapsed}: {format.rate(moment.units_per_s)} clips/s, {format.plural(moment.units, 'clip')} "
            f"in {format.duration(moment.interval_s)}"
        )
        failures.append(f"{elapsed}: {moment.failed} failed" if moment.failed else None)
    widths = [moment.interval_s for moment in moments]
    length_s = sum(widths)
    return {
        "plot": charts.steps([moment.units_per_s for moment in moments], titles, widths),
        "failures": charts.marks(failures, widths) if any(failures) else None,
        "middle": length_s / 2,
        "end": length_s,
    }


def _timeline(metrics: Metrics) -> list[tuple[str, Any, str]]:
    """A row for each stage: seconds of work per second, over time. Engine rows share one scale."""
    moments = metrics.timeline
    if len(moments) < 3 or not any(any(moment.busy.values()) for moment in moments):
        return []
    widths = [moment.interval_s for moment in moments]
    rows = [(name, [moment.busy.get(name, 0.0) for moment in moments], f"s-{name}") for name in STAGE_NAMES]
    rows.append((WAITING, [moment.starved for moment in moments], "pending"))
    engine_top = max(max(values) for name, values, _ in rows if name != "video_decode")
    strips = []
    for name, values, css in rows:
        top = max(values) if name == "video_decode" else engine_top
        title = STAGE_NAMES.get(name, name)
        titles = [f"{title}: {format.rate(value)} seconds of work per second" for value in values]
        strips.append((title, charts.strip(values, titles, widths, top, css), format.rate(max(values))))
    return strips


def _lanes(metrics: Metrics) -> dict[str, Any]:
    """CPU and engine on one scale: this run with its waiting if it was measured, else all units done."""
    measured = metrics.run is not None and any(stage.busy_s for stage in metrics.stages)
    waiting_s = _waiting_s(metrics) if measured else None
    lanes = []
    for name, device in (("CPU", "cpu"), ("Engine", "engine")):
        stages = [stage for stage in metrics.stages if stage.device == device]
        parts = [_stage_part(stage, (stage.busy_s or 0.0) if measured else stage.seconds) for stage in stages]
        if device == "engine" and waiting_s:
            parts.append(Part("pending", waiting_s, f"{WAITING} {format.duration(waiting_s)}"))
        lanes.append((name, sum(part.amount for part in parts), parts))
    whole = max(total for _, total, _ in lanes)
    bars = [(name, total, charts.bar(parts, whole, height=26)) for name, total, parts in lanes]
    return {"bars": bars, "measured": measured, "waiting_s": waiting_s}


def _waiting_s(metrics: Metrics) -> float | None:
    """Seconds the engine waited: its first stage is the one that frames come to."""
    return next((stage.starved_s for stage in metrics.stages if stage.name == "encode"), None)


def _stage_part(stage: StageTime, seconds: float) -> Part:
    return Part(f"s-{stage.name}", seconds, f"{STAGE_NAMES[stage.name]} {format.duration(seconds)}")


def _ladder_bar(metrics: Metrics, step: LadderStep) -> Any:
    title = f"{format.short(step.tokens)} tokens in all, {format.percent(step.ratio)} of uncompressed visual tokens"
    whole = max(other.tokens for other in metrics.ladder)
    return charts.bar([Part(f"l-{step.name}", step.tokens, title)], whole, height=14)


def _layers(metrics: Metrics) -> dict[str, Any] | None:
    tokens = metrics.layer_tokens
    visual = next((step.per_unit for step in metrics.ladder if step.name == "visual"), None)
    if len(tokens) < 2 or not visual:
        return None
    titles = [f"layer {index}: {format.number(count)} tokens" for index, count in enumerate(tokens, 1)]
    plot: Plot = charts.steps(tokens, titles, top=visual)
    return {"plot": plot, "visual": visual, "visual_share": visual / plot.top, "count": len(tokens)}


def _lengths(metrics: Metrics) -> dict[str, Any] | None:
    lengths = metrics.output_lengths
    if lengths is None:
        return None
    titles = [
        f"{bin.from_tokens}"
        + (f"–{bin.to_tokens}" if bin.to_tokens > bin.from_tokens else "")
        + f" tokens: {format.plural(bin.answers, 'answer')}"
        for bin in lengths.bins
    ]
    plot = charts.columns([bin.answers for bin in lengths.bins], titles)
    return {"plot": plot, "end": lengths.bins[-1].to_tokens}


def _cause_bar(metrics: Metrics, cause: Cause) -> Any:
    whole = max(other.units for other in metrics.failures)
    fixable = Part("retryable", cause.retryable, f"{cause.retryable} retryable")
    final = Part("failed", cause.units - cause.retryable, f"{cause.units - cause.retryable} final")
    return charts.bar([fixable, final], whole, height=6)
