"""Rounds of all contestants -> what is written: ratios, a table, a chart. Pure."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from html import escape
from typing import Any

from luvc.bench.setting import Setting

Timings = dict[str, dict[str, Any]]


def summarise(timings: Timings, setting: Setting) -> dict[str, Any]:
    """The report of a run.

    Args:
        timings: by contestant, `ready` and `rounds` as the workers reported them.
        setting: what was run.
    """

    def seconds(name: str) -> list[float]:
        return [each["seconds"] for each in timings[name]["rounds"]]

    def ratio(name: str, rival: str) -> float:
        """Median over the rounds of how many times as fast as the rival."""
        pairs = zip(seconds(rival), seconds(name), strict=True)
        return round(statistics.median(theirs / mine for theirs, mine in pairs), 3)

    rivals = [name for name in timings if name == "transformers" or name.startswith("vllm")]
    ours = [name for name in timings if name not in rivals]
    report: dict[str, Any] = {}
    if "transformers" in timings:
        report |= {f"ratio_{name}": ratio(name, "transformers") for name in timings if name != "transformers"}
    report["ratios"] = {name: {rival: ratio(name, rival) for rival in rivals} for name in ours}
    report["videos_per_s"] = {name: setting.videos / statistics.median(seconds(name)) for name in timings}
    report["peak_bytes"] = {name: timings[name]["rounds"][-1]["peak_bytes"] for name in timings}
    report["startup_seconds"] = {name: timings[name]["ready"].get("startup_seconds") for name in timings}
    facts = [name for name in timings if "machine" in timings[name]["ready"]]
    report["machine"] = timings[facts[0]]["ready"]["machine"] if facts else {}
    report["vllm"] = next((timings[name]["ready"].get("vllm") for name in timings if name.startswith("vllm")), None)
    report["setting"] = asdict(setting)
    report["timings"] = {name: timing["rounds"] for name, timing in timings.items()}
    return report


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    rivals: dict[str, float] = next(iter(report["ratios"].values()), {})
    rows = [
        "| engine | videos/s | "
        + "".join(f"of {rival} | " for rival in rivals)
        + "encoder / prefill / decoding, s a video | visual tokens, mean of layers | peak memory |",
        "|---" * (5 + len(rivals)) + "|",
    ]
    for name, speed in report["videos_per_s"].items():
        last = report["timings"][name][-1]
        ratios = "".join(f"{report['ratios'][name][r]:.2f}x | " if name in report["ratios"] else "| " for r in rivals)
        stages = [seconds / report["setting"]["videos"] for seconds in last.get("stages", {}).values()]
        split = " / ".join(f"{seconds:.3f}" for seconds in stages)
        alive = f"{last['tokens']['mean_by_layer']:,.0f}" if "tokens" in last else ""
        peak = f"{report['peak_bytes'][name] / 2**20:,.0f} MiB"
        label = f"transformers, batch {report['best_batch']}" if name == "transformers" else name
        rows.append(f"| {label} | {speed:.3f} | {ratios}{split} | {alive} | {peak} |")
    return "\n".join(rows)


def rates(report: dict[str, Any]) -> str:
    """How near each of our contestants came to the hardware, one line each."""
    lines = []
    for name, rounds in report["timings"].items():
        if "rates" in rounds[-1]:
            encode, prefill, decode = (
                statistics.median(each["rates"][key] for each in rounds)
                for key in ("encode_flop_per_s", "prefill_flop_per_s", "decode_weight_bytes_per_s")
            )
            lines.append(
                f"{name}: encoder {encode / 1e12:.3g} TFLOP/s, prefill {prefill / 1e12:.3g} TFLOP/s, "
                f"decode steps read {decode / 1e9:.3g} GB/s of weights"
            )
    return "\n".join(lines)


COLOURS = {"encode_s": "#4269d0", "prefill_s": "#efb118", "decode_s": "#3ca951", "all": "#9498a0"}
NAMES = {"encode_s": "encoder", "prefill_s": "prefill", "decode_s": "decoding", "all": "not split"}


def chart(report: dict[str, Any]) -> str:
    """Seconds a video of every contestant, split into stages where known, as SVG."""
    videos, bar, left, wide = report["setting"]["videos"], 26, 150, 520
    seconds = {name: 1 / speed for name, speed in report["videos_per_s"].items()}
    scale = wide / max(seconds.values())
    height = 70 + len(seconds) * (bar + 10)
    parts = []
    for row, (name, total) in enumerate(seconds.items()):
        top, start = 50 + row * (bar + 10), float(left)
        last = report["timings"][name][-1]
        stages = {key: value / videos for key, value in last.get("stages", {}).items()} or {"all": total}
        share = total / sum(stages.values())  # the median round, split as the last one was
        parts.append(f'<text x="{left - 8}" y="{top + 18}" text-anchor="end">{escape(name)}</text>')
        for key, value in stages.items():
            width = value * share * scale
            parts.append(f'<rect x="{start:.1f}" y="{top}" width="{width:.1f}" height="{bar}" fill="{COLOURS[key]}"/>')
            start += width
        parts.append(f'<text x="{start + 6:.1f}" y="{top + 18}">{total:.2f} s</text>')
    for index, (key, colour) in enumerate(COLOURS.items()):
        place = left + index * 120
        parts.append(f'<rect x="{place}" y="{height - 14}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{place + 14}" y="{height - 5}" font-size="12">{NAMES[key]}</text>')
    title = f"Seconds a video, {report['machine'].get('device', '')}, {report.get('date', '')}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 80} {height}" '
        'font-family="system-ui, sans-serif" font-size="14" fill="#333">'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{left}" y="28" font-weight="600">{escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )
