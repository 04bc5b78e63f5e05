"""Where a rival's curve lies above LUVC's, in numbers and in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from luvc.evaluation.answers import Row
from luvc.evaluation.statistics import Interval
from luvc.evaluation.summary import Figures, by_name, paired

OURS = "luvc"


@dataclass(frozen=True)
class Duel:
    """One point of LUVC's curve and a rival.

    Attributes:
        rival: method.
        share: what both were asked to leave, as in `METHOD@SHARE`.
        points: accuracy of the rival at the same tokens minus LUVC's, percentage points, with its paired 95 % interval.
        times_as_fast: seconds of LUVC over the rival's, at the same tokens.
        points_at_time: accuracy of the rival at LUVC's wall-clock minus LUVC's, points, interpolated between its shares
            and the uncompressed run; None: the rival is not as fast at any of its shares.
    """

    rival: str
    share: float
    points: float
    interval: Interval
    times_as_fast: float
    points_at_time: float | None


def method_and_share(name: str) -> tuple[str, float] | None:
    """("oim", 0.25) of "oim@0.25"; None for other names."""
    method, at, share = name.partition("@")
    return (method, float(share)) if at else None


def curves(figures: Sequence[Figures]) -> dict[str, dict[float, Figures]]:
    """Settings of each method by share, the largest first; methods in their order."""
    found: dict[str, dict[float, Figures]] = {}
    for item in figures:
        place = method_and_share(item.name)
        if place:
            found.setdefault(place[0], {})[place[1]] = item
    return {method: dict(sorted(points.items(), reverse=True)) for method, points in found.items()}


def duels(figures: Sequence[Figures], rows: Iterable[Row], shares: tuple[float, float] = (0.1, 0.5)) -> list[Duel]:
    """LUVC against every method of another name, at each common share within `shares`, ends included."""
    methods, answers = curves(figures), by_name(rows)
    found = []
    for share, mine in methods.get(OURS, {}).items():
        if not shares[0] <= share <= shares[1]:
            continue
        for rival, points in methods.items():
            if not rival.startswith(OURS) and share in points:
                theirs = points[share]
                comparison = paired(answers[theirs.name], answers[mine.name])
                found.append(
                    Duel(
                        rival,
                        share,
                        100 * comparison.difference,
                        (100 * comparison.interval[0], 100 * comparison.interval[1]),
                        theirs.speedup / mine.speedup,
                        _at_time([figures[0], *points.values()], mine),
                    )
                )
    return found


def _at_time(curve: Sequence[Figures], mine: Figures) -> float | None:
    places = sorted((item.time, item.overall.value) for item in curve)
    time = mine.time
    if time < places[0][0]:
        return None
    accuracy = np.interp(time, [place[0] for place in places], [place[1] for place in places])
    return float(100 * (accuracy - mine.overall.value))


def in_words(found: Sequence[Duel]) -> str:
    """A Markdown list: where a rival is above LUVC at equal wall-clock, and who never is. Empty without duels."""
    if not found:
        return ""
    above = [duel for duel in found if duel.points_at_time is not None and duel.points_at_time > 0]
    lines = [
        f"- at {duel.share:.0%}: {duel.rival} is {duel.points_at_time:.1f} points higher at equal wall-clock; "
        f"at equal tokens {abs(duel.points):.1f} points {'higher' if duel.points >= 0 else 'lower'} "
        f"(95 %: {duel.interval[0]:+.1f} to {duel.interval[1]:+.1f}) and {duel.times_as_fast:.2f}x as fast"
        for duel in sorted(above, key=lambda duel: (-duel.share, -(duel.points_at_time or 0)))
    ]
    never = sorted({duel.rival for duel in found} - {duel.rival for duel in above})
    head = "Where LUVC's curve lies below a rival's, accuracy against wall-clock, between 50 % and 10 % of the tokens:"
    # Nothing is known between the shares that were measured.
    at = ", ".join(f"{share:.0%}" for share in sorted({duel.share for duel in found}, reverse=True))
    lines += [f"- not above LUVC where it was measured ({at}): {', '.join(never)}"] if never else []
    return "\n".join([head, "", *lines])
