"""Figures as SVG: curves of methods over their shares, or one row for each setting. Numbers in, text out.

Colours follow the reader's light or dark scheme; nothing is loaded and no script runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from statistics import median

from luvc.compression import PRESETS
from luvc.evaluation.rivals import OURS, curves
from luvc.evaluation.summary import Figures

#: Colours that are told apart on white and on black, by method in its order; ours has its own.
COLOURS = (
    *("#4c8bf5", "#e0902c", "#2fa36b", "#c264d6", "#9a7b5b", "#16a5b8"),
    *("#d6609a", "#8a9a2b", "#7d7af0", "#8c959f", "#c9a227", "#5f8f8a"),
)
OUR_COLOUR = "#e5484d"
MARKS = ("circle", "square", "triangle")

_STYLE = (
    "<style>svg{--ink:#24292f;--soft:#57606a;--line:#d8dee4;--paper:#fff}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9da7b3;--line:#3a434d;--paper:#0d1117}}"
    ".paper{fill:var(--paper)}text{fill:var(--ink)}.soft{fill:var(--soft)}.grid{stroke:var(--line)}"
    ".ink{fill:var(--ink)}.off{stroke:var(--ink)}"
    ".over{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}</style>"
)


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(label)}">{_STYLE}'
        f'<rect class="paper" width="{width}" height="{height}"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def chart(figures: Sequence[Figures]) -> str:
    """What suits the settings: curves where methods have several shares, else rows."""
    return curve_chart(figures) if any(len(points) > 1 for points in curves(figures).values()) else row_chart(figures)


# Curves ------------------------------------------------------------------------------------------

_PANEL, _HIGH, _TOP, _LEFT, _GAP = 440, 400, 56, 52, 64


def curve_chart(figures: Sequence[Figures]) -> str:
    """Accuracy against wall-clock and against tokens, both in % of the uncompressed run; a line for each method."""
    off, methods = figures[0], curves(figures)
    alone = [item for item in figures[1:] if "@" not in item.name]

    def accuracy(item: Figures) -> float:
        """What the uncompressed run has, less the paired loss: settings that were asked fewer questions compare."""
        return off.overall.value - item.loss

    values = [accuracy(item) for item in figures]
    low, high = _round_range(min(values), max(values))
    legend_rows = -(-(len(methods) + 3) // 5)
    width, height = _LEFT + 2 * _PANEL + _GAP + 20, _TOP + _HIGH + 56 + 22 * legend_rows

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * _HIGH

    times = [item.time for item in figures]
    longest = max(1.0, *times)
    least = min(item.keep for item in figures) * 0.9

    def by_time(item: Figures) -> float:
        return item.time / longest / 1.04

    def by_tokens(item: Figures) -> float:
        return _log(item.keep, least, 1.15)

    parts = [
        _text(_LEFT - 40, 20, f"Accuracy of {off.overall.total} questions", extra=' font-size="15" font-weight="600"'),
        _text(_LEFT - 40, 38, _interval_note(figures), extra=' class="soft"'),
    ]
    ticks = [(share / longest / 1.04, f"{share:.0%}") for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    marks = [share for share in (0.03, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0) if share >= least]
    token_ticks = [(_log(share, least, 1.15), f"{share:.0%}") for share in marks]
    for left, title, where, axis in (
        (_LEFT, "wall-clock, % of the uncompressed run (median of blocks)", by_time, ticks),
        (_LEFT + _PANEL + _GAP, "visual tokens, mean of layers, % (logarithmic)", by_tokens, token_ticks),
    ):
        parts += _frame(left, title, axis, low, high, y)
        level = y(off.overall.value)
        parts.append(
            f'<line class="off" x1="{left}" x2="{left + _PANEL}" y1="{level:.1f}" y2="{level:.1f}" '
            'stroke-dasharray="5 4" opacity=".7"/>'
        )
        looks = {method: _look(method, index) for index, method in enumerate(methods)}
        for method, points in sorted(methods.items(), key=lambda item: item[0] == OURS):  # ours on top
            places = [(left + where(item) * _PANEL, y(accuracy(item)), item) for item in points.values()]
            places = [(left + where(off) * _PANEL, level, off), *places]
            parts += _line(places, *looks[method])
        spots = [(left + where(item) * _PANEL, y(accuracy(item))) for item in figures]
        for item in sorted((*alone, off), key=lambda one: one.name in PRESETS):  # presets on top
            parts += _single(left + where(item) * _PANEL, y(accuracy(item)), item, left + _PANEL, spots)
    others = any(item.name not in PRESETS for item in alone)
    parts += _legend(list(methods), others, height, legend_rows)
    return _svg(width, height, "accuracy against wall-clock and against tokens", parts)


def _interval_note(figures: Sequence[Figures]) -> str:
    halves: dict[int, list[float]] = {}
    for item in figures[1:]:
        halves.setdefault(item.overall.total, []).append(50 * (item.loss_interval[1] - item.loss_interval[0]))
    known = [f"±{median(widths):.1f} points ({asked} questions)" for asked, widths in sorted(halves.items())]
    return f"A difference to the uncompressed run is known to about {' to '.join([known[0], *known[1:][-1:]])}, 95 %"


def _round_range(low: float, high: float) -> tuple[float, float]:
    """Limits of the axis on whole steps, and room for both ends."""
    step = 0.02 if high - low < 0.1 else 0.05
    return max(0.0, (low - 0.2 * step) // step * step), min(1.0, -(-(high + 0.2 * step) // step) * step)


def _log(value: float, low: float, high: float) -> float:
    from math import log

    return log(max(value, low) / low) / log(high / low)


def _frame(
    left: float,
    title: str,
    ticks: Sequence[tuple[float, str]],
    low: float,
    high: float,
    y: Callable[[float], float],
) -> list[str]:
    parts, step = [], 0.02 if high - low <= 0.12 else 0.05 if high - low <= 0.4 else 0.1
    level = -(-low // step) * step
    while level <= high + 1e-9:
        parts.append(f'<line class="grid" x1="{left}" x2="{left + _PANEL}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>')
        parts.append(_text(left - 6, y(level) + 4, f"{level:.0%}", "end", ' class="soft"'))
        level += step
    for place, name in ticks:
        x = left + place * _PANEL
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _HIGH}" opacity=".5"/>')
        parts.append(_text(x, _TOP + _HIGH + 17, name, "middle", ' class="soft"'))
    parts.append(_text(left + _PANEL / 2, _TOP + _HIGH + 36, title, "middle"))
    return parts


def _look(method: str, index: int) -> tuple[str, str, float]:
    """Colour, mark and width of a method's line."""
    if method == OURS:
        return OUR_COLOUR, "circle", 3.0
    return COLOURS[index % len(COLOURS)], MARKS[index % len(MARKS)], 1.6


def _line(places: Sequence[tuple[float, float, Figures]], colour: str, mark: str, width: float) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>'
    ]
    return parts + [_mark(x, y, colour, mark, 2.2 + width / 2, _told(item)) for x, y, item in places[1:]]


def _told(item: Figures) -> str:
    return f"{item.name}: {item.overall.value:.1%}, {item.keep:.1%} of the tokens, {item.speedup:.2f}x"


def _mark(x: float, y: float, colour: str, mark: str, size: float, title: str = "") -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    if mark == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{colour}">{told}</circle>'
    if mark == "square":
        corner, edge = f'x="{x - size:.1f}" y="{y - size:.1f}"', f'width="{2 * size:.1f}" height="{2 * size:.1f}"'
        return f'<rect {corner} {edge} fill="{colour}">{told}</rect>'
    size *= 1.25
    corners = f"{x - size:.1f},{y + size:.1f} {x + size:.1f},{y + size:.1f} {x:.1f},{y - size:.1f}"
    return f'<polygon points="{corners}" fill="{colour}">{told}</polygon>'


def _single(x: float, y: float, item: Figures, edge: float, spots: Sequence[tuple[float, float]]) -> list[str]:
    """A setting that is on no curve: a diamond, hollow but for presets and the uncompressed run, which have names."""
    preset = item.name in PRESETS
    parts = [_diamond(x, y, preset, f"<title>{escape(_told(item))}</title>")]
    if preset:
        after = x + 60 < edge
        near = [other for across, other in spots if 0 < abs(other - y) < 20 and -10 < across - x < 50]
        below = sum(other < y for other in near) > sum(other > y for other in near)
        where = (x + 9 if after else x - 9, y + 16 if below else y - 7)
        parts.append(_text(*where, item.name, "start" if after else "end", ' class="over"'))
    return parts


def _diamond(x: float, y: float, filled: bool, inside: str = "") -> str:
    size = 5
    shape = f"{x - size:.1f},{y:.1f} {x:.1f},{y - size:.1f} {x + size:.1f},{y:.1f} {x:.1f},{y + size:.1f}"
    look = "ink off" if filled else "paper off"
    return f'<polygon class="{look}" points="{shape}" stroke-width="1.5">{inside}</polygon>'


def _legend(methods: Sequence[str], others: bool, height: int, rows: int) -> list[str]:
    entries = [(method, *_look(method, index)) for index, method in enumerate(methods)]
    parts, per_row = [], -(-(len(entries) + 1 + others) // rows)
    for index, (method, colour, mark, width) in enumerate(entries):
        x, y = _LEFT + index % per_row * 180, height - 10 - 22 * (rows - 1 - index // per_row)
        parts.append(
            f'<line x1="{x}" x2="{x + 26}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="{width}"/>'
        )
        parts.append(_mark(x + 13, y - 4, colour, mark, 2.2 + width / 2))
        parts.append(_text(x + 32, y, method))
    for index, name in enumerate(["presets", *(["other settings"] if others else [])], start=len(entries)):
        x, y = _LEFT + index % per_row * 180, height - 10 - 22 * (rows - 1 - index // per_row)
        parts += [_diamond(x + 13, y - 4, name == "presets"), _text(x + 32, y, name)]
    return parts


# Rows --------------------------------------------------------------------------------------------

_ROW, _NAMES, _WIDE, _NUMBERS = 22, 250, 430, 210


def row_chart(figures: Sequence[Figures]) -> str:
    """Points lost against the uncompressed run with their 95 % interval, tokens and speed: a row for each setting."""
    ends = [100 * end for item in figures[1:] for end in item.loss_interval] or [0.0]
    low, high = min(-1.0, *ends), max(1.0, *ends)
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= 9)
    low, high = low // step * step, -(-high // step) * step
    top, width = 74, _NAMES + _WIDE + _NUMBERS
    height = top + _ROW * (len(figures) - 1) + 34

    def x(points: float) -> float:
        return _NAMES + (points - low) / (high - low) * _WIDE

    bottom = height - 30
    title = f"Points lost against the uncompressed run ({figures[0].overall.value:.1%} of {figures[0].overall.total})"
    parts = [
        _text(12, 22, title, extra=' font-size="15" font-weight="600"'),
        _text(12, 40, "paired, with 95 % intervals; presets in red", extra=' class="soft"'),
        _text(_NAMES + _WIDE + 100, top - 14, "tokens", "end", ' class="soft"'),
        _text(_NAMES + _WIDE + 180, top - 14, "speed", "end", ' class="soft"'),
    ]
    points = low
    while points <= high:
        kind = "off" if points == 0 else "grid"
        line = f'x1="{x(points):.1f}" x2="{x(points):.1f}" y1="{top - 6}" y2="{bottom}"'
        parts.append(f'<line class="{kind}" {line}/>')
        parts.append(_text(x(points), bottom + 18, f"{points:+.0f}" if points else "0", "middle", ' class="soft"'))
        points += step
    for index, item in enumerate(figures[1:]):
        y = top + _ROW * index + _ROW / 2
        colour = OUR_COLOUR if item.name in PRESETS else COLOURS[0]
        start, end = (x(100 * bound) for bound in item.loss_interval)
        parts.append(f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        parts.append(_mark(x(100 * item.loss), y, colour, "circle", 4, _told(item)))
        parts.append(_text(_NAMES - 12, y + 4, item.name, "end"))
        parts.append(_text(_NAMES + _WIDE + 100, y + 4, f"{item.keep:.0%}", "end"))
        parts.append(_text(_NAMES + _WIDE + 180, y + 4, f"{item.speedup:.2f}x", "end"))
    return _svg(width, height, "points lost by each setting", parts)
