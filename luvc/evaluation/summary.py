"""From rows of answers to figures: each setting against the uncompressed run on the same questions. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from luvc.compression import PRESETS
from luvc.errors import ConfigError
from luvc.evaluation import statistics
from luvc.evaluation.answers import Row
from luvc.evaluation.settings import OFF
from luvc.evaluation.statistics import Interval, Pairs

#: Sentences -> similarities of pairs of them, in -1..1.
Similarity = Callable[[Sequence[tuple[str, str]]], list[float]]


@dataclass(frozen=True)
class Share:
    """Right answers among all."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """The share; 0 when nothing was asked."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> Interval:
        """95 % interval of the share (Wilson)."""
        return statistics.wilson(self.right, self.total)


@dataclass(frozen=True)
class Figures:
    """One setting.

    Attributes:
        name: of the setting.
        overall: questions with choices, answered rightly.
        by_kind, by_group: the same in parts.
        unparsed: share of answers that were none of the choices.
        errors: questions without an answer.
        loss: accuracy of the uncompressed run minus this one's, with its 95 % interval: the wider of Newcombe's and
            of the bootstrap over videos.
        loss_by_kind: the same for each kind, interval by Newcombe.
        p_value: McNemar's exact test against the uncompressed run.
        probability: mean probability of the right choice (its first token); None where no answer tells it.
        probability_loss: that of the uncompressed run minus this one's, and the 95 % interval, by the bootstrap over
            videos. A right answer counts 0 or 1 and most of that is the luck of near ties; this is what was lost.
        probability_moved: mean size of that difference, whatever its sign: 0 where nothing at all is changed.
        changed: share of all answers whose text is another than the uncompressed run's.
        texts: free texts among the questions.
        text_tokens: their mean length.
        text_agreement: of free texts, tokens in common and in order with the uncompressed run's (ROUGE-L's F).
        text_similarity: cosine of sentence embeddings of the same; None when not measured.
        reference_similarity: cosine to the nearest reference; None when not measured.
        visual_tokens, merged_tokens, mean_layer_tokens: means over videos.
        wall_s: seconds of all blocks.
        speedup: seconds of the uncompressed run over this one's, median of the blocks: machines are shared and noisy.
        stages_s: engine seconds in encoder, prefill and decoding.
    """

    name: str
    compression: dict[str, Any]
    overall: Share
    by_kind: dict[str, Share]
    by_group: dict[str, Share]
    unparsed: float
    errors: int
    loss: float
    loss_interval: Interval
    loss_by_kind: dict[str, tuple[float, Interval]]
    p_value: float
    probability: float | None
    probability_loss: tuple[float, Interval] | None
    probability_moved: float | None
    changed: float
    texts: int
    text_tokens: float
    text_agreement: float | None
    text_similarity: float | None
    reference_similarity: float | None
    visual_tokens: float
    merged_tokens: float
    mean_layer_tokens: float
    wall_s: float
    speedup: float
    stages_s: dict[str, float] = field(default_factory=dict)

    @property
    def keep(self) -> float:
        """Share of visual tokens in the mean of the language model's layers."""
        return self.mean_layer_tokens / self.visual_tokens if self.visual_tokens else 1.0

    @property
    def relative(self) -> float | None:
        """Accuracy over the uncompressed run's on the same questions; None if that had none right."""
        uncompressed = self.overall.value + self.loss
        return self.overall.value / uncompressed if uncompressed else None

    @property
    def time(self) -> float:
        """Seconds, as a share of the uncompressed run's."""
        return 1 / self.speedup

    @property
    def worst_kind(self) -> tuple[str, Share]:
        """The kind with the lowest accuracy."""
        return min(self.by_kind.items(), key=lambda item: (item[1].value, item[0]))


@dataclass(frozen=True)
class Comparison:
    """Two settings on the same questions.

    Attributes:
        difference: accuracy of the first minus that of the second.
        interval: of it, 95 %: the wider of Newcombe's and of the bootstrap over videos.
        p_value: McNemar's exact test.
    """

    difference: float
    interval: Interval
    p_value: float


def by_name(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Answers by setting and question."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["setting"], {})[row["question_id"]] = row
    return found


def paired(first: Mapping[str, Row], second: Mapping[str, Row]) -> Comparison:
    """Compare two settings on the scored questions that both have."""
    scored = [(one, second[key]) for key, one in first.items() if key in second and one["correct"] is not None]
    pairs = _pairs(scored)
    differences = [int(one["correct"]) - int(other["correct"]) for one, other in scored]
    by_video = statistics.clustered(differences, [row["video"] for row, _ in scored])
    interval = statistics.wider(statistics.newcombe(pairs), by_video)
    return Comparison(pairs.difference, interval, statistics.mcnemar(pairs))


def summarise(rows: Sequence[Row], similarity: Similarity | None = None) -> list[Figures]:
    """Figures of every setting, uncompressed first; questions that the uncompressed run lacks do not count.

    A setting that has no scored question in common with it is left out.

    Raises:
        ConfigError: there is no uncompressed run, or nothing with choices in it.
    """
    by_setting = by_name(rows)
    off = by_setting.get(OFF)
    if not off or all(row["correct"] is None for row in off.values()):
        raise ConfigError("evaluate: there are no scored answers of the uncompressed run to compare with")
    scored = {key for key, row in off.items() if row["correct"] is not None}
    order = [OFF, *(name for name, own in by_setting.items() if name != OFF and own.keys() & scored)]
    return [_figures(name, by_setting[name], off, similarity) for name in order]


def _figures(name: str, own: Mapping[str, Row], off: Mapping[str, Row], similarity: Similarity | None) -> Figures:
    common = [key for key in off if key in own]
    mine, theirs = [own[key] for key in common], [off[key] for key in common]
    scored = [(one, other) for one, other in zip(theirs, mine, strict=True) if one["correct"] is not None]
    sure = [pair for pair in scored if None not in (pair[0]["right_probability"], pair[1]["right_probability"])]
    free = [(one, other) for one, other in zip(theirs, mine, strict=True) if one["correct"] is None]

    def part(column: str) -> dict[str, list[tuple[Row, Row]]]:
        groups: dict[str, list[tuple[Row, Row]]] = {}
        for pair in scored:
            groups.setdefault(pair[1][column], []).append(pair)
        return dict(sorted(groups.items()))

    comparison = paired(off, own)
    videos = list({row["video"]: row for row in mine}.values())
    wall_s, off_wall_s = _walls(mine), _walls(theirs)
    shared = [block for block in wall_s if block in off_wall_s]
    return Figures(
        name=name,
        compression=json.loads(mine[0]["compression"]),
        overall=_share(scored),
        by_kind={kind: _share(group) for kind, group in part("kind").items()},
        by_group={kind: _share(group) for kind, group in part("group").items()},
        unparsed=fmean(other["choice"] is None for _, other in scored),
        errors=sum(bool(row["error"]) for row in mine),
        loss=comparison.difference,
        loss_interval=comparison.interval,
        loss_by_kind={
            kind: (_pairs(group).difference, statistics.newcombe(_pairs(group))) for kind, group in part("kind").items()
        },
        p_value=comparison.p_value,
        probability=fmean(other["right_probability"] for _, other in sure) if sure else None,
        probability_loss=_probability_loss(sure) if sure else None,
        probability_moved=fmean(map(abs, _lost_probability(sure))) if sure else None,
        changed=fmean(one["text"] != other["text"] for one, other in zip(theirs, mine, strict=True)),
        texts=len(free),
        text_tokens=fmean(len(other["token_ids"]) for _, other in free) if free else 0.0,
        text_agreement=(
            fmean(statistics.agreement(one["token_ids"], other["token_ids"]) for one, other in free) if free else None
        ),
        text_similarity=_mean(similarity, [(one["text"], other["text"]) for one, other in free]),
        reference_similarity=_nearest(similarity, [other for _, other in free if other["references"]]),
        visual_tokens=fmean(row["visual_tokens"] for row in videos),
        merged_tokens=fmean(row["merged_tokens"] for row in videos),
        mean_layer_tokens=fmean(row["mean_layer_tokens"] for row in videos),
        wall_s=sum(wall_s.values()),
        speedup=median(off_wall_s[block] / wall_s[block] for block in shared),
        stages_s={stage: sum(row[f"{stage}_s"] for row in mine) for stage in ("encode", "prefill", "decode")},
    )


def _lost_probability(pairs: Sequence[tuple[Row, Row]]) -> list[float]:
    return [one["right_probability"] - other["right_probability"] for one, other in pairs]


def _probability_loss(pairs: Sequence[tuple[Row, Row]]) -> tuple[float, Interval]:
    lost = _lost_probability(pairs)
    return fmean(lost), statistics.clustered(lost, [one["video"] for one, _ in pairs])


def _share(pairs: Sequence[tuple[Row, Row]]) -> Share:
    return Share(sum(bool(other["correct"]) for _, other in pairs), len(pairs))


def _pairs(scored: Sequence[tuple[Row, Row]]) -> Pairs:
    return Pairs.of([bool(one["correct"]) for one, _ in scored], [bool(other["correct"]) for _, other in scored])


def _walls(rows: Sequence[Row]) -> dict[int, float]:
    # A block that was stopped or made larger was answered in parts; each part's rows carry that part's seconds.
    parts = {(row["block"], row["block_wall_s"]) for row in rows}
    return {number: sum(seconds for block, seconds in parts if block == number) for number, _ in parts}


def _mean(similarity: Similarity | None, pairs: list[tuple[str, str]]) -> float | None:
    return fmean(similarity(pairs)) if similarity and pairs else None


def _nearest(similarity: Similarity | None, rows: Sequence[Row]) -> float | None:
    if not similarity or not rows:
        return None
    return fmean(max(similarity([(row["text"], text) for text in row["references"]])) for row in rows)


def as_report(figures: Sequence[Figures], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The figures as plain data for JSON; points are percentage points."""
    off = figures[0]

    def entry(item: Figures) -> dict[str, Any]:
        low, high = item.loss_interval
        numbers: dict[str, Any] = {
            "questions": item.overall.total,
            "keep": round(item.keep, 6),
            "accuracy": round(item.overall.value, 6),
            "accuracy_interval95": [round(bound, 6) for bound in item.overall.interval],
            "relative_accuracy": _rounded(item.relative),
            "loss_points": round(100 * item.loss, 4),
            "loss_points_lower95": round(100 * low, 4),
            "loss_points_upper95": round(100 * high, 4),
            "mcnemar_p": float(f"{item.p_value:.3g}"),
            **_probability(item),
            "answers_changed": round(item.changed, 6),
            "unparsed": round(item.unparsed, 6),
            "errors": item.errors,
            "by_kind": {kind: round(share.value, 6) for kind, share in item.by_kind.items()},
            "loss_points_by_kind": {
                kind: [round(100 * value, 4) for value in (loss, *interval)]
                for kind, (loss, interval) in item.loss_by_kind.items()
            },
            "by_group": {group: round(share.value, 6) for group, share in item.by_group.items()},
            "text_tokens": round(item.text_tokens, 1),
            "text_agreement": _rounded(item.text_agreement),
            "text_similarity": _rounded(item.text_similarity),
            "reference_similarity": _rounded(item.reference_similarity),
            "visual_tokens": round(item.visual_tokens, 1),
            "merged_tokens": round(item.merged_tokens, 1),
            "mean_layer_tokens": round(item.mean_layer_tokens, 1),
            "wall_s": round(item.wall_s, 2),
            "speedup": round(item.speedup, 6),
            "stages_s": {stage: round(seconds, 2) for stage, seconds in item.stages_s.items()},
            "compression": item.compression,
        }
        return numbers

    worst, share = off.worst_kind
    return {
        "questions": off.overall.total,
        "texts": off.texts,
        "by_kind_questions": {kind: part.total for kind, part in off.by_kind.items()},
        "uncompressed": {
            "overall": round(off.overall.value, 6),
            "worst_kind": round(share.value, 6),
            "worst_kind_name": worst,
            **entry(off),
        },
        "presets": {item.name: entry(item) for item in figures[1:] if item.name in PRESETS},
        "rivals": {item.name: entry(item) for item in figures[1:] if item.name not in PRESETS},
        **facts,
    }


def _probability(item: Figures) -> dict[str, float]:
    if item.probability is None or item.probability_loss is None or item.probability_moved is None:
        return {}
    loss, (low, high) = item.probability_loss
    return {
        "right_probability": round(item.probability, 6),
        "probability_points_lost": round(100 * loss, 4),
        "probability_points_lost_lower95": round(100 * low, 4),
        "probability_points_lost_upper95": round(100 * high, 4),
        "probability_points_moved": round(100 * item.probability_moved, 4),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
