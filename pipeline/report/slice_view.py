"""The page's words about the quality slice: what was compared, how alike answers are, what went wrong. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.report import format
from pipeline.report.records import Metrics, Quality


@dataclass(frozen=True)
class Figure:
    """A number with what stands above and below it."""

    name: str
    value: str
    under: str
    known: bool = True


def view(metrics: Metrics) -> dict[str, Any] | None:
    """The section; None without a slice."""
    found = metrics.quality
    return None if found is None else {"note": _note(found), "figures": _figures(found)}


def warnings(metrics: Metrics) -> list[str]:
    """What is below its threshold, and clips that could not be compared."""
    found = metrics.quality
    if found is None:
        return []
    said = [f"Quality: {sentence}." for sentence in found.below]
    if found.failed:
        clips = format.plural(found.failed, "clip")
        said.append(f"{clips} of the quality slice could not be answered without compression: {found.failure}.")
    return said


def _note(found: Quality) -> str:
    if not found.units:
        return f"None of the {format.plural(found.sample, 'clip')} chosen for comparison was answered both ways yet."
    which = format.plural(found.units, "clip")
    of = "" if found.units == found.sample else f" of {format.number(found.sample)} chosen"
    return (
        f"{which}{of}, picked by their ids, were also answered without compression: same weights, same frames "
        f"({format.plural(found.answers, 'answer')}). In brackets 95 % intervals over clips; alike is not the same as "
        "right: luvc evaluate measures accuracy."
    )


def _figures(found: Quality) -> list[Figure]:
    alike = [
        Figure("The same answer", format.percent(found.same), f"word for word{_between(found.same_interval)}"),
        Figure(
            "Agreement",
            format.percent(found.agreement),
            f"of tokens, in order{_between(found.agreement_interval)}{_least(found.min_agreement)}",
        ),
    ]
    if found.similarity is None:
        alike.append(Figure("Similarity", "not measured", "needs requirements/evaluate.txt", known=False))
    else:
        under = f"of sentence embeddings{_between(found.similarity_interval)}{_least(found.min_similarity)}"
        alike.append(Figure("Similarity", format.percent(found.similarity), under))
    if found.engine_s > 0:
        alike.append(
            Figure(
                "Engine time without",
                f"{format.rate(found.reference_engine_s / found.engine_s)}×",
                f"{format.duration(found.reference_engine_s)} instead of {format.duration(found.engine_s)}, "
                "each clip alone",
            )
        )
    return alike


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({format.percent(interval[0])} to {format.percent(interval[1])})"


def _least(threshold: float | None) -> str:
    return "" if threshold is None else f"; at least {format.percent(threshold)} asked for"
