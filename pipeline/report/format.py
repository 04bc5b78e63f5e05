"""Numbers as people read them, each with its unit. Pure."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

MISSING = "–"
_THIN = "\u202f"


def number(value: float | None, digits: int = 0) -> str:
    """Thousands apart: 12,345."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def short(value: float | None) -> str:
    """Three significant figures with a k, M or G: 1.23 M."""
    if value is None:
        return MISSING
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / (limit if limit > 1e4 else 1e3)
            return f"{_three(scaled)}{_THIN}{suffix}"
    return number(value) if float(value).is_integer() else _three(value)


def tick(value: float) -> str:
    """A round number beside a grid line: as few digits as it has."""
    if abs(value) >= 1e4:
        return short(value)
    return number(value) if abs(value) >= 1000 else f"{value:g}"


def rate(value: float | None) -> str:
    """Three significant figures."""
    return MISSING if value is None else number(value) if abs(value) >= 1000 else _three(value)


def percent(value: float | None) -> str:
    """A ratio in percent, one digit below ten."""
    if value is None:
        return MISSING
    scaled = value * 100
    if 0 < abs(scaled) < 0.1:
        return f"<0.1{_THIN}%"
    if scaled in (0.0, 100.0) or abs(scaled) >= 99.95 or 10 <= abs(scaled) < 99:
        return f"{scaled:.0f}{_THIN}%"
    return f"{scaled:.1f}{_THIN}%"


def seconds(value: float | None) -> str:
    """Seconds with a sensible precision: 0.034 s, 2.5 s, 1,234 s."""
    if value is not None and 0 < value < 0.001:
        return f"<1{_THIN}ms"
    return MISSING if value is None else f"{rate(value)}{_THIN}s"


def duration(value: float | None) -> str:
    """A length of time in its two largest units: 3 h 05 min, 4 min 07 s, 12.3 s."""
    if value is None:
        return MISSING
    if value < 60:
        return seconds(value)
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}{_THIN}min {whole % 60:02d}{_THIN}s"
    minutes = round(value / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}{_THIN}h {minutes % 60:02d}{_THIN}min"
    return f"{number(minutes // 1440)}{_THIN}d {minutes % 1440 // 60:02d}{_THIN}h"


def hours(value: float | None) -> str:
    """Seconds of video for prose: 43 s, 12 min, 3.4 h, 1,234 h."""
    if value is None:
        return MISSING
    if value < 120:
        return f"{value:.0f}{_THIN}s"
    if value < 2 * 3600:
        return f"{value / 60:.0f}{_THIN}min"
    return f"{number(value / 3600, 1 if value < 100 * 3600 else 0)}{_THIN}h"


def usd(value: float | None) -> str:
    """Dollars: at least two digits after the point, more for small amounts."""
    if value is None:
        return MISSING
    if value >= 1000:
        return f"${value:,.0f}"
    if value >= 0.1 or value == 0:
        return f"${value:.2f}"
    return f"${value:.2g}" if value >= 1e-4 else f"${value:.1e}"


def plural(count: int, noun: str) -> str:
    """1 clip, 2 clips."""
    return f"{number(count)} {noun}" + ("" if count == 1 else "s")


def moment(iso: str | None) -> str:
    """A time in UTC: 2026-03-04 05:06 UTC."""
    return MISSING if not iso else datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M UTC")


def day(iso: str | None) -> str:
    """The same, short: 03-04 05:06."""
    return MISSING if not iso else datetime.fromisoformat(iso).strftime("%m-%d %H:%M")


def clock(value: float | None) -> str:
    """A place in a video: 1:05, 1:02:03; tenths below a minute of precision are dropped."""
    if value is None:
        return ""
    whole = int(value)
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def span(start_s: float | None, end_s: float | None) -> str:
    """The span of a clip; empty for a whole video."""
    if start_s is None and end_s is None:
        return ""
    return f"{clock(start_s or 0.0)}–{clock(end_s) or 'end'}"


def link(uri: str) -> str:
    """Where a browser finds a video: web addresses and files of this machine; empty for all others.

    A list of what is allowed, since a uri comes from outside: anything else may be a script.
    """
    if uri.startswith(("https://", "http://")):
        return uri
    return "file://" + quote(uri) if uri.startswith("/") else ""


def _three(value: float) -> str:
    if value == 0:
        return "0"
    magnitude = abs(value)
    digits = 0 if magnitude >= 99.95 else 1 if magnitude >= 9.995 else 2 if magnitude >= 0.1 else 3
    return f"{value:.{digits}f}" if magnitude >= 0.001 else f"{value:.1e}"
