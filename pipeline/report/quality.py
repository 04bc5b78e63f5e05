"""The quality slice: how answers compare with those without compression, and what both cost. Pure; tables in, data out.

A slice of some twenty clips is a sample: every mean stands with its 95 % interval, by a bootstrap over clips (questions
about one clip differ together). Thresholds are compared with the means, not with the intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from luvc.evaluation.statistics import Interval, bootstrap, wilson
from pipeline.report.estimate import Stretched
from pipeline.report.format import plural, span
from pipeline.report.records import Pair, Quality

ENGINE_STAGES = ("encode", "prefill", "decode")
COLUMNS = [
    *("unit_id", "uri", "start_s", "end_s", "prompt_id", "text", "reference_text", "agreement", "similarity"),
    *(f"{kind}{stage}_s" for kind in ("", "reference_") for stage in ENGINE_STAGES),
    *("error_class", "message", "finished_at"),
]

#: Pairs of answers on the page, and in the message of a run that fails.
WORST = 5
SAID = 3

#: A bootstrap over fewer clips says nothing.
FEWEST_UNITS = 5

INSTALL_HINT = "install requirements/evaluate.txt on the machines that run engines"


@dataclass(frozen=True)
class Slice:
    """What a slice measured.

    Attributes:
        quality: for the report.
        alone_s, reference_alone_s: engine seconds `[units, stages]` of each clip answered alone, with compression and
            without; clips for which both are known.
    """

    quality: Quality
    alone_s: np.ndarray
    reference_alone_s: np.ndarray

    def stretched(self, busy_s: Mapping[str, float]) -> Stretched | None:
        """Engine seconds of a run without compression: each stage scaled by what it took longer for the slice.

        Args:
            busy_s: what the run's engines worked in each stage.
        """
        units = len(self.alone_s)
        if not units:
            return None
        busy = np.array([busy_s.get(stage, 0.0) for stage in ENGINE_STAGES])

        def seconds(weights: np.ndarray) -> np.ndarray:
            same, off = weights @ self.alone_s, weights @ self.reference_alone_s
            return np.sum(busy * np.where(same > 0, off / np.where(same > 0, same, 1.0), 1.0), axis=-1)

        interval = None
        if units >= FEWEST_UNITS:
            interval = bootstrap(units, seconds)
        return Stretched(units, float(seconds(np.ones(units))), interval)


def measured(rows: pa.Table, sample: Sequence[str], thresholds: Mapping[str, Any]) -> Slice | None:
    """What a slice says; None where there was none.

    Args:
        rows: of `quality/`, with at least `COLUMNS`; those of other units do not count, and of two for one unit and
            prompt the later one does.
        sample: units of the slice.
        thresholds: the `quality` section of the configuration.
    """
    if not sample:
        return None
    chosen = set(sample)
    newest = {
        (row["unit_id"], row["prompt_id"]): row
        for row in sorted(rows.to_pylist(), key=lambda row: row["finished_at"])
        if row["unit_id"] in chosen
    }
    compared = [row for row in newest.values() if row["error_class"] is None]
    failed = [row for row in newest.values() if row["error_class"] is not None]
    units = len({row["unit_id"] for row in compared})
    right = sum(row["text"] == row["reference_text"] for row in compared)
    agreement, similarity = _mean(compared, "agreement"), _mean(compared, "similarity")
    alone_s, reference_alone_s = _alone(compared, ""), _alone(compared, "reference_")
    both = ~(np.isnan(alone_s).any(axis=1) | np.isnan(reference_alone_s).any(axis=1))
    reasons = Counter(row["message"] for row in failed).most_common(1)
    found = Quality(
        sample=len(chosen),
        units=units,
        failed=len({row["unit_id"] for row in failed}),
        failure=reasons[0][0] if reasons else None,
        answers=len(compared),
        same=right / len(compared) if compared else None,
        same_interval=wilson(right, len(compared)) if compared else None,
        agreement=agreement,
        agreement_interval=_interval(compared, "agreement"),
        similarity=similarity,
        similarity_interval=_interval(compared, "similarity"),
        min_agreement=thresholds.get("min_agreement"),
        min_similarity=thresholds.get("min_similarity"),
        below=(),
        engine_s=float(alone_s[both].sum()),
        reference_engine_s=float(reference_alone_s[both].sum()),
        worst=tuple(_worst(compared)),
    )
    return Slice(found.judged(tuple(_below(found))), alone_s[both], reference_alone_s[both])


def complaint(quality: Quality) -> Iterator[str]:
    """Why a run fails, with the pairs of answers that differ most; nothing if it does not."""
    for sentence in quality.below:
        yield f"quality: {sentence}"
    if not quality.below:
        return
    for pair in quality.worst[:SAID]:
        alike = "" if pair.similarity is None else f", similarity {pair.similarity:.2f}"
        where = " ".join(filter(None, (pair.uri, span(pair.start_s, pair.end_s), pair.prompt_id)))
        yield f"  {where}: agreement {pair.agreement:.2f}{alike}"
        yield f"    with compression:    {_line(pair.text)}"
        yield f"    without compression: {_line(pair.reference_text)}"


def _below(found: Quality) -> Iterator[str]:
    """Sentences on what is below its threshold. What could not be measured is not passed."""
    for name, value, interval, least in (
        ("agreement", found.agreement, found.agreement_interval, found.min_agreement),
        ("similarity", found.similarity, found.similarity_interval, found.min_similarity),
    ):
        if least is None:
            continue
        key = f"quality.min_{name}: {least:g}"
        if not found.units:
            reason = found.failure or "no clip of the slice was answered"
            yield f"{name} could not be measured, {key} ({reason})"
        elif value is None:
            yield f"similarity was not measured, {key} ({INSTALL_HINT})"
        elif value < least:
            between = "" if interval is None else f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
            yield f"{name} {value:.3f} is below {key} ({plural(found.units, 'clip')}{between})"


def _line(text: str) -> str:
    """Text of a model in one line of a terminal, without control characters."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return repr(plain if len(plain) <= 200 else f"{plain[:200]}…")


def _worst(rows: Sequence[Mapping[str, Any]]) -> Iterator[Pair]:
    differing = [row for row in rows if row["text"] != row["reference_text"]]
    differing.sort(key=lambda row: (row["agreement"], row["similarity"] or 0.0, row["unit_id"], row["prompt_id"]))
    names = ("unit_id", "uri", "start_s", "end_s", "prompt_id", "text", "reference_text", "agreement", "similarity")
    for row in differing[:WORST]:
        yield Pair(**{name: row[name] for name in names})


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if row[column] is not None]
    return sum(values) / len(values) if values else None


def _interval(rows: Sequence[Mapping[str, Any]], column: str) -> Interval | None:
    """Of the mean over answers, by a bootstrap over clips."""
    known = [row for row in rows if row[column] is not None]
    units = {unit_id: index for index, unit_id in enumerate(dict.fromkeys(row["unit_id"] for row in known))}
    if len(units) < FEWEST_UNITS:
        return None
    where = [units[row["unit_id"]] for row in known]
    sums = np.bincount(where, weights=[row[column] for row in known])
    counts = np.bincount(where)
    return bootstrap(len(units), lambda weights: (weights @ sums) / (weights @ counts))


def _alone(rows: Sequence[Mapping[str, Any]], prefix: str) -> np.ndarray:
    """`[units, stages]`; NaN where it is not known."""
    columns = [f"{prefix}{stage}_s" for stage in ENGINE_STAGES]
    by_unit: dict[str, np.ndarray] = {}
    for row in rows:
        seconds = np.array([np.nan if row[name] is None else row[name] for name in columns])
        by_unit[row["unit_id"]] = by_unit.get(row["unit_id"], 0.0) + seconds
    return np.array(list(by_unit.values())).reshape(-1, len(ENGINE_STAGES))
