"""Figures as a Markdown table and as curves in SVG. Numbers in, text out; knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from luvc.compression import PRESETS
from luvc.evaluation.summary import Figures

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 400, 60, 50, 24, 110


def table(figures: Sequence[Figures]) -> str:
    """Every setting as a row: tokens, accuracy, what was lost and how sure that is, speed."""
    off = figures[0]
    free = any(item.text_agreement is not None for item in figures)
    head = [
        "setting",
        "tokens in, mean of layers",
        "accuracy",
        "relative",
        "lost points (95 %)",
        "McNemar p",
        "changed",
    ]
    head += ["unparsed", "seconds", "speed"]
    head += ["texts: tokens in common", "similar to uncompressed", "similar to reference"] if free else []
    lines = [_row(head), _row(["---"] * len(head))]
    for item in figures:
        low, high = (100 * bound for bound in item.loss_interval)
        relative = f"{item.overall.value / off.overall.value:.1%}" if off.overall.right else "-"
        cells = [
            item.name,
            f"{item.merged_tokens:.0f}, {item.mean_layer_tokens:.0f}",
            f"{item.overall.value:.1%}",
            relative,
            "-" if item is off else f"{100 * item.loss:+.1f} ({low:+.1f} to {high:+.1f})",
            "-" if item is off else f"{item.p_value:.2g}",
            f"{item.changed:.0%}",
            f"{item.unparsed:.1%}",
            f"{item.wall_s:.0f}",
            f"{item.speedup:.2f}x",
        ]
        if free:
            values = (item.text_agreement, item.text_similarity, item.reference_similarity)
            cells += ["not measured" if value is None else f"{value:.2f}" for value in values]
        lines.append(_row(cells))
    return "\n".join(lines)


def kinds_table(figures: Sequence[Figures]) -> str:
    """Accuracy by kind of question and by group."""
    kinds, groups = figures[0].by_kind, figures[0].by_group
    head = ["setting", *(f"{name} ({part.total})" for name, part in (*kinds.items(), *groups.items()))]
    lines = [_row(head), _row(["---"] * len(head))]
    for item in figures:
        parts = [*(item.by_kind.get(name) for name in kinds), *(item.by_group.get(name) for name in groups)]
        lines.append(_row([item.name, *("-" if part is None else f"{part.value:.0%}" for part in parts)]))
    return "\n".join(lines)


def curve(figures: Sequence[Figures], against: str) -> str:
    """Accuracy with its 95 % interval `against` "wall" (seconds) or "tokens" (mean of layers), as SVG."""
    places = [item.wall_s if against == "wall" else item.mean_layer_tokens for item in figures]
    label = "seconds for all questions" if against == "wall" else "visual tokens, mean of layers"
    right = max(places) * 1.05 or 1.0

    def x(value: float) -> float:
        return _LEFT + value / right * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="accuracy against {label}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for tenth in range(0, 11, 2):
        level = y(tenth / 10)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{tenth * 10} %</text>')
    for quarter in range(5):
        value = right * quarter / 4
        parts.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value:.0f}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{_LEFT}" y="14">accuracy, {figures[0].overall.total} questions, 95 % intervals</text>')
    for item, place in zip(figures, places, strict=True):
        low, high = item.overall.interval
        colour = "#222" if item is figures[0] else "#1f6fb2" if item.name in PRESETS else "#b2591f"
        at = f"{x(place):.1f}"
        title = f"{item.name}: {item.overall.value:.1%}, {place:.0f} {label}"
        parts.append(f'<line x1="{at}" x2="{at}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="{colour}"/>')
        parts.append(
            f'<circle cx="{at}" cy="{y(item.overall.value):.1f}" r="4" fill="{colour}">'
            f"<title>{escape(title)}</title></circle>"
        )
        parts.append(f'<text x="{x(place) + 7:.1f}" y="{y(item.overall.value) - 5:.1f}">{escape(item.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
