"""Figures as Markdown tables. Numbers in, text out; knows no files."""

from __future__ import annotations

from collections.abc import Sequence

from luvc.evaluation.statistics import Interval
from luvc.evaluation.summary import Figures


def table(figures: Sequence[Figures]) -> str:
    """Every setting as a row: tokens, accuracy, what was lost and how sure that is, speed."""
    off = figures[0]
    sure = any(item.probability_loss for item in figures)
    head = ["setting", "tokens in, mean of layers", "share", "accuracy", "relative", "lost points (95 %)", "McNemar p"]
    head += ["lost probability (95 %)", "moved"] if sure else []
    lines = _head([*head, "changed", "unparsed", "seconds", "speed"])
    for item in figures:
        relative = "-" if item.relative is None else f"{item.relative:.1%}"
        lines.append(
            _row(
                [
                    _name(item, off),
                    f"{item.merged_tokens:.0f}, {item.mean_layer_tokens:.0f}",
                    f"{item.keep:.1%}",
                    f"{item.overall.value:.1%}",
                    relative,
                    "-" if item is off else _points(item.loss, item.loss_interval),
                    "-" if item is off else f"{item.p_value:.2g}",
                    *(_probability(item, off) if sure else []),
                    f"{item.changed:.0%}",
                    f"{item.unparsed:.1%}",
                    f"{item.wall_s:.0f}",
                    f"{item.speedup:.2f}x",
                ]
            )
        )
    return "\n".join(lines)


def _probability(item: Figures, off: Figures) -> list[str]:
    if item is off:
        return ["-", "-"]
    if item.probability_loss is None or item.probability_moved is None:
        return ["not measured", "not measured"]
    return [_points(*item.probability_loss), f"{100 * item.probability_moved:.1f}"]


def _points(loss: float, interval: Interval) -> str:
    low, high = (100 * bound for bound in interval)
    return f"{100 * loss:+.1f} ({low:+.1f} to {high:+.1f})"


def _name(item: Figures, off: Figures) -> str:
    """A setting that was stopped has been asked less: its row must not look like the others."""
    asked, of = item.overall.total, off.overall.total
    return item.name if asked == of else f"{item.name} ({asked} of {of} questions)"


def texts_table(figures: Sequence[Figures]) -> str:
    """Free texts apart from short answers: how much of them is the same, and how alike they are; "" without any."""
    if not figures[0].texts:
        return ""
    head = [f"setting ({figures[0].texts} texts)", "tokens a text", "tokens in common (ROUGE-L)"]
    lines = _head([*head, "similar to uncompressed", "similar to reference"])
    for item in figures:
        values = (item.text_agreement, item.text_similarity, item.reference_similarity)
        cells = ["not measured" if value is None else f"{value:.2f}" for value in values]
        lines.append(_row([item.name, f"{item.text_tokens:.0f}", *cells]))
    return "\n".join(lines)


def kinds_table(figures: Sequence[Figures]) -> str:
    """Accuracy by kind of question and by group."""
    kinds, groups = figures[0].by_kind, figures[0].by_group
    lines = _head(["setting", *(f"{name} ({part.total})" for name, part in (*kinds.items(), *groups.items()))])
    for item in figures:
        parts = [*(item.by_kind.get(name) for name in kinds), *(item.by_group.get(name) for name in groups)]
        lines.append(_row([item.name, *("-" if part is None else f"{part.value:.0%}" for part in parts)]))
    return "\n".join(lines)


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
