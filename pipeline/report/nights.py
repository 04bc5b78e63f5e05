"""The parts of the page that look beyond this run: its history, its estimate, its cost without compression. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.prices import AS_OF, PRESETS, SOURCE
from pipeline.report import charts, format
from pipeline.report.history import Night, night
from pipeline.report.records import Metrics

#: Rows of the table; the curves show all nights.
ROWS = 7


def nights(metrics: Metrics) -> dict[str, Any] | None:
    """Table and curves of this run and those before it; None for the first."""
    now = night(metrics.as_dict())
    if now is None or not metrics.history:
        return None
    everything = [now, *metrics.history]
    return {
        "rows": everything[:ROWS],
        "more": max(0, len(everything) - ROWS),
        "tokens": any(one.tokens_left is not None for one in everything[:ROWS]),
        "agreement": any(one.agreement is not None for one in everything[:ROWS]),
        "sparks": [
            spark
            for spark in (
                _spark("Throughput, clips/s", everything, lambda one: one.units_per_s, format.rate),
                _spark("Cost per video-hour", everything, lambda one: one.per_video_hour_usd, format.usd),
                _spark("Agreement", everything, lambda one: one.agreement, format.percent),
                _spark("Failed clips", everything, lambda one: float(one.failed), format.number),
            )
            if spark
        ],
    }


def _spark(
    name: str, everything: list[Night], value: Callable[[Night], float | None], said: Callable[[float | None], str]
) -> dict[str, Any] | None:
    oldest_first = list(reversed(everything))
    values = [value(one) for one in oldest_first]
    if sum(one is not None for one in values) < 2:
        return None
    titles = [f"{format.moment(one.started_at)}: {said(value(one))}" for one in oldest_first]
    return {"name": name, "plot": charts.spark(values, titles), "last": said(values[-1]), "first": said(values[0])}


def estimate_line(metrics: Metrics) -> str | None:
    """What was expected and how far off it was."""
    expected = metrics.estimate
    if expected is None:
        return None
    cost = "" if expected.usd is None else f" and {format.usd(expected.usd)}"
    line = (
        f"Expected before it began: {format.duration(expected.wall_s)}{cost} for "
        f"{format.plural(expected.units, 'clip')}, by the rates of run {expected.based_on} "
        f"({format.plural(expected.based_on_units, 'clip')})."
    )
    if expected.wall_error is None:
        return f"{line} The run did not do all of that, so the two cannot be compared."
    line += f" It took {_off(expected.wall_error, 'more time', 'less time')}"
    if expected.usd_error is not None and metrics.run_cost:
        line += f" and cost {_off(expected.usd_error, 'more', 'less')}"
    return f"{line}."


def _off(error: float, more: str, less: str) -> str:
    if abs(error) < 0.005:
        return "just that"
    return f"{format.percent(abs(error))} {more if error > 0 else less}"


def uncompressed_line(metrics: Metrics) -> str | None:
    """What the run would have taken without compression, and how that is known."""
    found = metrics.uncompressed
    if found is None:
        return None
    how = {
        "flops": "estimated from the FLOPs of the plan",
        "measured": f"measured in run {found.measured_in}, which ran without compression",
        "slice": f"measured on {format.plural(found.slice_units or 0, 'clip')}, each answered alone both ways",
    }[found.method]
    if found.ratio_interval:
        how = "95 % interval " + "–".join(map(format.rate, found.ratio_interval)) + f"; {how}"
    line = (
        f"Without compression the engines would have worked {format.duration(found.uncompressed_engine_s)} instead of "
        f"{format.duration(found.engine_s)} ({format.rate(found.ratio)} times as long; {how})"
    )
    if found.wall_s and metrics.run and found.wall_s <= metrics.run.wall_s * 1.005:
        return f"{line}; but they waited for frames so long that the run would not have taken longer."
    saved = "" if found.saved_usd is None else f", and cost {format.usd(found.saved_usd)} more"
    return f"{line}; the run would have taken {format.duration(found.wall_s)}{saved}."


def price_line(metrics: Metrics) -> str | None:
    """Where list prices come from, if the run used them."""
    given = (metrics.run.config.get("prices") or {}) if metrics.run else {}
    preset = PRESETS.get(given.get("preset") or "")
    if preset is None:
        return None
    return (
        f"At list prices of {preset.machine}{f' ({preset.gpu})' if preset.gpu else ''}: {SOURCE}, {AS_OF}. "
        "Yours may differ: check them."
    )
