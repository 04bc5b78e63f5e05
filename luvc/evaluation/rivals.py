"""Where a rival's curve lies above LUVC's, in numbers and in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import NamedTuple

from luvc.evaluation import statistics
from luvc.evaluation.answers import Row
from luvc.evaluation.statistics import Interval
from luvc.evaluation.summary import Figures, by_name, paired

OURS = "luvc"

#: Of one question: how much more of a right answer the rival had than LUVC.
Differences = Mapping[str, float]

#: Setting -> question -> row.
_Answers = Mapping[str, Mapping[str, Row]]


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
        interval_at_time: 95 % of it, by a bootstrap over clips; seconds are taken as exact.
    """

    rival: str
    share: float
    points: float
    interval: Interval
    times_as_fast: float
    points_at_time: float | None
    interval_at_time: Interval | None


@dataclass(frozen=True)
class Contest:
    """LUVC and a rival over several shares: the mean of their duels, on the same questions.

    One share's questions rarely tell two methods apart; the mean over shares is steadier.

    Attributes:
        shares: at equal tokens.
        points, interval: mean over them of what the rival is above LUVC, by a bootstrap over clips.
        times_as_fast: geometric mean.
        shares_at_time: those at which the rival can be as fast as LUVC.
        points_at_time, interval_at_time: mean over these at LUVC's wall-clock; None without any.
    """

    rival: str
    shares: tuple[float, ...]
    points: float
    interval: Interval
    times_as_fast: float
    shares_at_time: tuple[float, ...]
    points_at_time: float | None
    interval_at_time: Interval | None


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


def compare(
    figures: Sequence[Figures], rows: Iterable[Row], shares: tuple[float, float] = (0.1, 0.5), of: str = "correct"
) -> tuple[list[Duel], list[Contest]]:
    """LUVC against every method of another name, at each common share within `shares`, ends included, and over all.

    Args:
        of: the column of the answers whose mean is compared: "correct", or "right_probability", which fewer questions
            tell apart; what was answered before it was recorded takes no part.
    """
    methods, answers = curves(figures), by_name(rows)
    video = {key: row["video"] for key, row in answers[figures[0].name].items()}
    ours = {share: item for share, item in methods.get(OURS, {}).items() if shares[0] <= share <= shares[1]}
    duels: list[Duel] = []
    contests: list[Contest] = []
    for rival, points in methods.items():
        if rival.startswith(OURS):
            continue
        curve = [figures[0], *points.values()]
        matches = [_match(share, ours[share], points[share], curve, answers, of) for share in ours if share in points]
        matches = [match for match in matches if match.at_tokens]
        if matches:
            duels += [_duel(rival, match, answers, video, of) for match in matches]
            contests.append(_contest(rival, matches, video))
    return duels, contests


class _Match(NamedTuple):
    """LUVC and a rival at one share: what the rival had more, at equal tokens and, if it is ever as fast, seconds."""

    share: float
    mine: Figures
    theirs: Figures
    at_tokens: Differences
    at_time: Differences

    @property
    def times_as_fast(self) -> float:
        return self.theirs.speedup / self.mine.speedup


def _match(
    share: float, mine: Figures, theirs: Figures, curve: Sequence[Figures], answers: _Answers, of: str
) -> _Match:
    weights = _at_time(curve, mine.time)
    at_time = {} if weights is None else _differences(weights, mine.name, answers, of)
    return _Match(share, mine, theirs, _differences({theirs.name: 1.0}, mine.name, answers, of), at_time)


def _duel(rival: str, match: _Match, answers: _Answers, video: Mapping[str, str], of: str) -> Duel:
    points, interval = _mean([match.at_tokens], video)
    if of == "correct":  # of right and wrong answers there is a better interval than the bootstrap's
        low, high = paired(answers[match.theirs.name], answers[match.mine.name]).interval
        interval = (100 * low, 100 * high)
    timed = _mean([match.at_time], video) if match.at_time else (None, None)
    return Duel(rival, match.share, points, interval, match.times_as_fast, *timed)


def _contest(rival: str, matches: Sequence[_Match], video: Mapping[str, str]) -> Contest:
    timed = [match for match in matches if match.at_time]
    at_time = _mean([match.at_time for match in timed], video) if timed else (None, None)
    return Contest(
        rival,
        tuple(match.share for match in matches),
        *_mean([match.at_tokens for match in matches], video),
        geometric_mean(match.times_as_fast for match in matches),
        tuple(match.share for match in timed),
        *at_time,
    )


def _differences(weights: Mapping[str, float], mine: str, answers: _Answers, of: str) -> Differences:
    """On the questions for which all have the column `of`; settings of the rival are mixed by `weights`."""

    def known(name: str, key: str) -> bool:
        return key in answers[name] and answers[name][key][of] is not None

    return {
        key: sum(weight * answers[name][key][of] for name, weight in weights.items()) - row[of]
        for key, row in answers[mine].items()
        if known(mine, key) and all(known(name, key) for name in weights)
    }


def _mean(parts: Sequence[Differences], video: Mapping[str, str]) -> tuple[float, Interval]:
    """Mean, in points, over the questions that all parts have, with its interval by a bootstrap over clips."""
    keys = [key for key in parts[0] if all(key in part for part in parts)]
    means = [fmean(part[key] for part in parts) for key in keys]
    low, high = statistics.clustered(means, [video[key] for key in keys])
    return 100 * fmean(means), (100 * low, 100 * high)


def _at_time(curve: Sequence[Figures], time: float) -> dict[str, float] | None:
    """The two settings of a curve around a time and their weights in it; None where the curve has none as fast."""
    places = sorted(curve, key=lambda item: item.time)
    if time < places[0].time:
        return None
    if time >= places[-1].time:
        return {places[-1].name: 1.0}
    right = next(index for index, place in enumerate(places) if place.time > time)
    faster, slower = places[right - 1], places[right]
    part = (time - faster.time) / (slower.time - faster.time)
    return {faster.name: 1 - part, slower.name: part}


def in_words(duels: Sequence[Duel], contests: Sequence[Contest], by_probability: Sequence[Contest] = ()) -> str:
    """Markdown tables of the means and a list of where a rival is above LUVC at equal wall-clock; "" without duels."""
    if not duels:
        return ""
    lines = _means("accuracy", contests)
    if by_probability:
        lines += ["", *_means("the right choice's probability", by_probability)]
    above = [duel for duel in duels if duel.points_at_time is not None and duel.points_at_time > 0]
    lines += ["", "Where LUVC's curve lies below a rival's, accuracy against wall-clock:", ""]
    lines += [
        f"- at {duel.share:.0%}: {duel.rival} is {_points(duel.points_at_time, duel.interval_at_time)} points higher "
        f"at equal wall-clock; at equal tokens {_points(duel.points, duel.interval)} and {duel.times_as_fast:.2f}x as "
        "fast"
        for duel in sorted(above, key=lambda duel: (-duel.share, -(duel.points_at_time or 0)))
    ]
    never = sorted({duel.rival for duel in duels} - {duel.rival for duel in above})
    # Nothing is known between the shares that were measured.
    at = _shares(sorted({duel.share for duel in duels}, reverse=True))
    lines += [f"- not above LUVC where it was measured ({at}): {', '.join(never)}"] if never else []
    return "\n".join(lines)


def _means(measure: str, contests: Sequence[Contest]) -> list[str]:
    lines = [
        f"What a rival is above LUVC, points of {measure}, mean over the shares that both were measured at between "
        "50 % and 10 % of the tokens (95 %):",
        "",
        "| rival | shares | at equal tokens | times as fast | shares as fast | at equal wall-clock |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in contests:
        cells = [one.rival, _shares(one.shares), _points(one.points, one.interval), f"{one.times_as_fast:.2f}x"]
        cells += [_shares(one.shares_at_time) or "none", _points(one.points_at_time, one.interval_at_time)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _points(value: float | None, interval: Interval | None) -> str:
    if value is None or interval is None:
        return "-"
    return f"{value:+.1f} ({interval[0]:+.1f} to {interval[1]:+.1f})"


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)
