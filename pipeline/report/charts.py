"""Inline SVG for the page: numbers in, markup out. Text stays outside the scaled plots, so it never shrinks.

Shapes get their colours from CSS classes; every mark carries a `<title>` that browsers show on hover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

#: Inner coordinates of a stretched plot.
WIDTH, HEIGHT = 1000.0, 100.0


@dataclass(frozen=True)
class Part:
    """A piece of a bar: CSS class, amount, and what to say about it."""

    css: str
    amount: float
    title: str


@dataclass(frozen=True)
class Plot:
    """A stretched plot and the labels that stand around it.

    Attributes:
        svg: the plot without any text.
        ticks: (share of the height from the bottom, value) of the horizontal grid lines.
        top: value at the upper edge.
    """

    svg: Markup
    ticks: tuple[tuple[float, float], ...]
    top: float


def bar(parts: Sequence[Part], whole: float, height: int = 14) -> Markup:
    """One horizontal bar; `whole` is the amount that fills the width."""
    if whole <= 0:
        return Markup("")
    pieces, x = [], 0.0
    for part in parts:
        width = 100 * part.amount / whole
        if width > 0:
            pieces.append(
                f'<rect class="{escape(part.css)}" x="{x:.3f}%" width="{width:.3f}%" height="{height}">'
                f"<title>{escape(part.title)}</title></rect>"
            )
        x += width
    label = escape("; ".join(part.title for part in parts))
    return Markup(f'<svg class="bar" width="100%" height="{height}" role="img" aria-label="{label}">') + Markup(
        "".join(pieces) + "</svg>"
    )


def steps(
    values: Sequence[float], titles: Sequence[str], widths: Sequence[float] | None = None, top: float = 0.0
) -> Plot:
    """A step chart, filled down to zero; steps are equally wide unless `widths` says otherwise."""
    grid, upper = _scale(max([*values, top]))
    places = _places(widths or [1.0] * len(values))
    line, hovers = [], []
    for value, title, (x, width) in zip(values, titles, places, strict=True):
        y = HEIGHT * (1 - value / upper)
        line += [f"{x:.2f},{y:.2f}", f"{x + width:.2f},{y:.2f}"]
        hovers.append(
            f'<rect class="hover" x="{x:.2f}" y="0" width="{width:.2f}" height="{HEIGHT:.0f}">'
            f"<title>{escape(title)}</title></rect>"
        )
    body = [_grid(grid)]
    if line:
        body.append(f'<polygon class="area" points="0,{HEIGHT} {" ".join(line)} {WIDTH},{HEIGHT}"/>')
        body.append(f'<polyline class="area-line" points="{" ".join(line)}"/>')
    return Plot(_stretched([*body, *hovers]), grid, upper)


def strip(values: Sequence[float], titles: Sequence[str], widths: Sequence[float], top: float, css: str) -> Markup:
    """One row of a timeline: a filled step curve without axes; `top` is the value that fills its height."""
    line = []
    hovers = []
    for value, title, (x, width) in zip(values, titles, _places(widths), strict=True):
        y = HEIGHT * (1 - min(1.0, value / top if top > 0 else 0.0))
        line += [f"{x:.2f},{y:.2f}", f"{x + width:.2f},{y:.2f}"]
        hovers.append(
            f'<rect class="hover" x="{x:.2f}" y="0" width="{width:.2f}" height="{HEIGHT:.0f}">'
            f"<title>{escape(title)}</title></rect>"
        )
    area = f'<polygon class="{escape(css)}" points="0,{HEIGHT} {" ".join(line)} {WIDTH},{HEIGHT}"/>' if line else ""
    return _stretched([area, *hovers])


def spark(values: Sequence[float | None], titles: Sequence[str]) -> Markup:
    """A line through the values from left to right with a dot at the last; None leaves a gap."""
    known = [value for value in values if value is not None]
    top = max(known, default=0.0) or 1.0
    step = WIDTH / max(1, len(values) - 1)
    # Room for the width of the line and of the dot.
    places = [
        None if value is None else (index * step, 8 + (HEIGHT - 16) * (1 - value / top))
        for index, value in enumerate(values)
    ]
    body, run = [], list[str]()
    for place in [*places, None]:
        if place is not None:
            run.append(f"{place[0]:.2f},{place[1]:.2f}")
        elif run:
            body.append(f'<polyline class="spark" points="{" ".join(run if len(run) > 1 else run * 2)}"/>')
            run = []
    last = next((place for place in reversed(places) if place is not None), None)
    if last is not None:
        # A line without length and with round ends stays a circle in a stretched plot.
        body.append(f'<path class="spark-dot" d="M{last[0]:.2f},{last[1]:.2f}h0"/>')
    for index, title in enumerate(titles):
        body.append(
            f'<rect class="hover" x="{(index - 0.5) * step:.2f}" y="0" width="{step:.2f}" height="{HEIGHT:.0f}">'
            f"<title>{escape(title)}</title></rect>"
        )
    return _stretched(body)


def columns(values: Sequence[float], titles: Sequence[str]) -> Plot:
    """A histogram of equally wide columns."""
    grid, upper = _scale(max(values, default=0.0))
    width = WIDTH / max(1, len(values))
    body = [_grid(grid)]
    for index, (value, title) in enumerate(zip(values, titles, strict=True)):
        height = HEIGHT * value / upper
        # A column that is not empty stays visible.
        height = max(height, 1.0) if value > 0 else 0.0
        body.append(
            f'<rect class="column" x="{(index + 0.06) * width:.2f}" y="{HEIGHT - height:.2f}" '
            f'width="{width * 0.88:.2f}" height="{height:.2f}"><title>{escape(title)}</title></rect>'
        )
    return Plot(_stretched(body), grid, upper)


def marks(titles: Sequence[str | None], widths: Sequence[float]) -> Markup:
    """A strip of marks below a step chart; None leaves a place empty."""
    body = [
        f'<rect class="failed" x="{x:.2f}" y="0" width="{max(width * 0.9, 3):.2f}" height="{HEIGHT:.0f}">'
        f"<title>{escape(title)}</title></rect>"
        for title, (x, width) in zip(titles, _places(widths), strict=True)
        if title
    ]
    return _stretched(body)


def _places(widths: Sequence[float]) -> list[tuple[float, float]]:
    """(left edge, width) of each step, together as wide as the plot."""
    whole, x, places = sum(widths) or 1.0, 0.0, []
    for width in widths:
        places.append((x, WIDTH * width / whole))
        x += WIDTH * width / whole
    return places


def _stretched(body: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" aria-hidden="true">'
        + "".join(body)
        + "</svg>"
    )


def _grid(ticks: Sequence[tuple[float, float]]) -> str:
    return "".join(
        f'<line class="grid" x1="0" x2="{WIDTH:.0f}" y1="{HEIGHT * (1 - share):.2f}" y2="{HEIGHT * (1 - share):.2f}"/>'
        for share, _ in ticks
    )


def _scale(largest: float) -> tuple[tuple[tuple[float, float], ...], float]:
    """Two to five round grid lines and the value of the upper edge, at least `largest`."""
    if largest <= 0:
        return ((0.0, 0.0),), 1.0
    raw = largest / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    upper = max(largest, step * math.floor(largest / step))
    count = math.floor(upper / step + 1e-9)
    return tuple((index * step / upper, index * step) for index in range(count + 1)), upper
