"""What a report says, as frozen data: the keys of `metrics.json`. No arithmetic here.

Two scopes: the *plan* (every unit of the manifest, whichever run did it) and the *run* the report is about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.report.cost import Cost
from pipeline.report.estimate import Estimate, Rates, Uncompressed
from pipeline.report.history import Night

METRICS_VERSION = "1"


@dataclass(frozen=True)
class Totals:
    """The plan's units, where `planned = done + failed + pending` holds, and their videos.

    Attributes:
        planned: units of the manifest.
        done: units with results.
        failed: units with a failure and no results.
        pending: all other units.
        videos: different videos among the planned units.
        answers: rows of results for planned units (units times prompts).
        planned_video_s, done_video_s, failed_video_s: seconds of video, as far as lengths are known.
        pending_unplannable: pending units whose planning already failed; the next run files them as failures.
    """

    planned: int
    done: int
    failed: int
    pending: int
    videos: int
    answers: int
    planned_video_s: float
    done_video_s: float
    failed_video_s: float
    pending_unplannable: int


@dataclass(frozen=True)
class Integrity:
    """What should be zero, and what older plans left behind.

    Attributes:
        duplicate_answers: rows beyond the first for one (unit_id, prompt_id); they are not counted.
        units_missing_answers: done units with fewer answers than prompts.
        answers_of_other_plans: rows of results whose unit is not in the manifest: kept, not counted.
        units_with_corrupt_frames: done units with frames that could not be decoded (tolerant decode policy).
        corrupt_frames: those frames; each is replaced by a copy of the nearest good one.
        frames_expected, frames_decoded: frames of the done units.
        unreadable_event_lines: lines of the run's event log that are not JSON.
    """

    duplicate_answers: int
    units_missing_answers: int
    answers_of_other_plans: int
    units_with_corrupt_frames: int
    corrupt_frames: int
    frames_expected: int
    frames_decoded: int
    unreadable_event_lines: int


@dataclass(frozen=True)
class RunFacts:
    """The run the report is about.

    Attributes:
        run_id: name of its folder in `runs/`.
        name: `name` in its configuration; a history of runs is kept by it.
        outcome: done, some_failed, interrupted, aborted, or unfinished (killed, or still going).
        started_at, ended_at: first and last event, ISO 8601 in UTC.
        wall_s: seconds from start to end.
        units, failed, answers: what this run added.
        model: `model.id`.
        compression: its name.
        config_hash: of the whole configuration without storage options.
        versions, machine: as the run recorded them.
        engine: attention back end, dtype and device of its engines, the longest `startup_s`, the highest `peak_bytes`.
        config: the configuration without storage options.
    """

    run_id: str
    name: str | None
    outcome: str
    started_at: str | None
    ended_at: str | None
    wall_s: float
    units: int
    failed: int
    answers: int
    model: str | None
    compression: str | None
    config_hash: str | None
    versions: dict[str, Any]
    machine: dict[str, Any]
    engine: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True)
class Speed:
    """Work per wall time, start-up included.

    Attributes:
        runs: runs counted.
        wall_s: their seconds, from start to end of each.
        units: units they finished.
        answers: rows of results they wrote.
        video_s: seconds of video they finished.
        output_tokens: tokens they generated.
        units_per_s: units finished per second; None when no time was measured, as are the other rates.
        video_hours_per_hour: hours of video finished per hour of wall time.
        output_tokens_per_s: generated tokens per second.
    """

    runs: int
    wall_s: float
    units: int
    answers: int
    video_s: float
    output_tokens: int
    units_per_s: float | None
    video_hours_per_hour: float | None
    output_tokens_per_s: float | None


@dataclass(frozen=True)
class StageTime:
    """One stage of the pipeline.

    Attributes:
        name: video_decode, encode, prefill or decode.
        device: cpu (decode workers) or engine.
        seconds: worker seconds of the plan's done units, from results.
        share: of `seconds` over all stages.
        s_per_video_hour: worker seconds per hour of video.
        busy_s: seconds worked in this run up to its last heartbeat, summed over workers.
        starved_s: seconds of this run in which its workers waited for input.
    """

    name: str
    device: str
    seconds: float
    share: float | None
    s_per_video_hour: float | None
    busy_s: float | None
    starved_s: float | None


@dataclass(frozen=True)
class LadderStep:
    """Visual tokens at one step on the way from patches to decoder layers, over the plan's done units.

    Attributes:
        name: patches, visual (before compression), merged, or layers (the mean over decoder layers).
        tokens: sum over units.
        per_unit: mean per unit.
        ratio: of the visual tokens the language model would get without compression.
    """

    name: str
    tokens: float
    per_unit: float | None
    ratio: float | None


@dataclass(frozen=True)
class Failed:
    """One failed unit, shown as an example.

    Attributes:
        unit_id, uri: which unit, of which video.
        start_s, end_s: the clip in the video, seconds.
        message: what happened.
        attempts: how often it was tried.
    """

    unit_id: str
    uri: str
    start_s: float | None
    end_s: float | None
    message: str
    attempts: int | None


@dataclass(frozen=True)
class Cause:
    """Failed units of one stage and error class; the most frequent cause first.

    Attributes:
        stage: where they failed.
        error_class: class of the error.
        units: how many.
        retryable: for how many of them trying again can help.
        hint: what to do about it.
        examples: some of the units.
    """

    stage: str
    error_class: str
    units: int
    retryable: int
    hint: str
    examples: tuple[Failed, ...]


@dataclass(frozen=True)
class Bin:
    """One column of a histogram.

    Attributes:
        from_tokens, to_tokens: smallest and largest number of generated tokens, both included.
        answers: answers of such a length.
    """

    from_tokens: int
    to_tokens: int
    answers: int


@dataclass(frozen=True)
class Lengths:
    """Generated tokens per answer; null without answers.

    Attributes:
        mean, median, longest: of all answers.
        p10, p90: a tenth of the answers is shorter, a tenth longer.
        bins: histogram.
    """

    mean: float
    p10: float
    median: float
    p90: float
    longest: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Moment:
    """One interval of the run.

    Attributes:
        start: ISO 8601 in UTC.
        interval_s: its length in seconds.
        units, failed: units that finished or failed in it.
        video_s: seconds of video finished.
        output_tokens: tokens generated by the units that finished.
        units_per_s: units finished per second.
        busy: seconds of work per second in each stage, counted as units finish; empty where it was not measured.
        starved: seconds that engines waited for frames, per second.
    """

    start: str
    interval_s: float
    units: int
    failed: int
    video_s: float
    output_tokens: int
    units_per_s: float
    busy: dict[str, float]
    starved: float


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt that are not the same.

    Attributes:
        unit_id, uri: which unit, of which video.
        start_s, end_s: the clip in the video, seconds.
        prompt_id: which prompt.
        text, reference_text: the answer with compression, and without.
        agreement: tokens that both share, in order, 0 to 1.
        similarity: of their sentence embeddings; null where not measured.
    """

    unit_id: str
    uri: str
    start_s: float | None
    end_s: float | None
    prompt_id: str
    text: str
    reference_text: str
    agreement: float
    similarity: float | None


@dataclass(frozen=True)
class Quality:
    """The run's quality slice: some units, also answered without compression; null where there was none.

    Attributes:
        sample: units of the slice.
        units: units that were compared so far.
        failed: units that could not be answered without compression.
        failure: the most frequent reason.
        answers: answers that were compared.
        same, same_interval: share of them that are the same word for word, and its 95 % interval.
        agreement, agreement_interval: mean share of tokens in common, in order (F-measure of ROUGE-L); 0 to 1.
        similarity, similarity_interval: mean cosine of sentence embeddings; null where not measured.
        min_agreement, min_similarity: thresholds of the configuration.
        below: what is below its threshold, in sentences; not empty = exit code 4.
        engine_s, reference_engine_s: engine seconds of these units, each answered alone, with compression and without.
        worst: the answers that differ most.
    """

    sample: int
    units: int
    failed: int
    failure: str | None
    answers: int
    same: float | None
    same_interval: tuple[float, float] | None
    agreement: float | None
    agreement_interval: tuple[float, float] | None
    similarity: float | None
    similarity_interval: tuple[float, float] | None
    min_agreement: float | None
    min_similarity: float | None
    below: tuple[str, ...]
    engine_s: float
    reference_engine_s: float
    worst: tuple[Pair, ...]

    def judged(self, below: tuple[str, ...]) -> Quality:
        """The same, with what is below its threshold."""
        return replace(self, below=below)


@dataclass(frozen=True)
class Metrics:
    """Everything `metrics.json` holds; what is about one run is None before the first."""

    version: str
    outcome: str
    bottleneck: str
    totals: Totals
    integrity: Integrity
    run: RunFacts | None
    run_speed: Speed | None
    all_runs_speed: Speed
    run_cost: Cost | None
    all_runs_cost: Cost
    estimate: Estimate | None
    uncompressed: Uncompressed | None
    rates: Rates | None
    changes: str | None
    history: tuple[Night, ...]
    quality: Quality | None
    stages: tuple[StageTime, ...]
    ladder: tuple[LadderStep, ...]
    layer_tokens: tuple[float, ...]
    failures: tuple[Cause, ...]
    finish_reasons: dict[str, int]
    output_lengths: Lengths | None
    timeline: tuple[Moment, ...]

    def changed(self, changes: str | None) -> Metrics:
        """The same, with a sentence on what changed since the run before."""
        return replace(self, changes=changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
