"""The two sentences people read first: how the run ended, and what held it back. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.report import actors
from pipeline.report.format import hours, number, percent, plural
from pipeline.report.records import RunFacts, StageTime, Totals
from pipeline.report.runlog import UNFINISHED

#: An engine that was there for less than this share of the run spent the run starting.
READY_SHARE = 0.5

#: An engine that waits less than this share of its time is not starved.
STARVED_SHARE = 0.2

ADVICE = {
    "encode": "merging earlier or more (compression.merge) or another GPU would help most",
    "prefill": "pruning more visual tokens (compression.prune, compression.merge) or another GPU would help most",
    "decode": "shorter answers (generation.max_new_tokens) or larger batches (run.kv_bytes) would help most",
}
NAMES = {
    "video_decode": "video decoding",
    "encode": "the vision encoder",
    "prefill": "prefill",
    "decode": "answer decoding",
    "sink": "writing results",
}


def outcome(totals: Totals, run: RunFacts | None, below_quality: bool = False) -> str:
    """How things stand, in a few sentences."""
    said = _outcome(totals, run)
    return f"{said} Quality is below the threshold." if below_quality else said


def _outcome(totals: Totals, run: RunFacts | None) -> str:
    planned, done, failed, pending = totals.planned, totals.done, totals.failed, totals.pending
    clips = plural(planned, "clip")
    if run is None:
        unplannable = totals.pending_unplannable
        bad = f" {number(unplannable)} of them cannot be read." if unplannable else ""
        return f"Planned, not yet run: {clips}, {hours(totals.planned_video_s)} of video.{bad}"
    if planned == 0:
        return "The plan is empty: there was nothing to do."
    if done == planned:
        state = f"All {clips} done ({hours(totals.done_video_s)} of video)."
        if run.units == 0:
            return f"Nothing was left to do. {state}"
        return state
    if failed == planned:
        return f"All {clips} failed." if planned > 1 else "The only clip failed."
    parts = [f"{number(done)} of {clips} done"]
    if failed:
        parts.append(f"{number(failed)} failed")
    if pending:
        parts.append(f"{number(pending)} still to do")
    sentence = ", ".join(parts) + "."
    endings = {
        "interrupted": "The run was interrupted; start it again to continue.",
        "aborted": "The run was aborted; its last messages say why. Start it again to continue.",
        UNFINISHED: "The run has not ended: it is still going, or it was killed. Starting it again continues.",
    }
    ending = endings.get(run.outcome, "Start it again to continue." if pending else "")
    return f"{sentence} {ending}".strip()


def bottleneck(
    stages: Mapping[str, StageTime], run: RunFacts | None, video_hours: float, reference_s: float = 0.0
) -> str:
    """What to change to go faster, in one sentence.

    Args:
        stages: by name.
        run: the run whose busy and starved seconds the stages carry.
        video_hours: hours of video done, over which `seconds` were spent.
        reference_s: engine seconds for the quality slice: work that is not the run's own, but no start-up either.
    """
    engine = [stage for stage in stages.values() if stage.device == "engine"]
    busy_s = sum(stage.busy_s or 0.0 for stage in engine)
    waits = [stage.starved_s for stage in engine if stage.starved_s is not None]
    starved_s = sum(waits) if waits else None
    if run is not None and run.units and run.wall_s > 0 and starved_s is not None and busy_s + starved_s > 0:
        ready = (busy_s + starved_s + reference_s) / (run.wall_s * _actors(run))
        if ready < READY_SHARE:
            return (
                f"Start-up-bound: the engine was at work or waiting for frames only {percent(ready)} of the run; "
                "starting took the rest, so a longer run is faster per clip."
            )
        # Only waiting for frames is the decoders' fault; a pool that waits for visual tokens waits for the encoder.
        waited = (stages["encode"].starved_s or 0.0) / (busy_s + starved_s) if "encode" in stages else 0.0
        if waited >= STARVED_SHARE:
            return _starved(waited, (stages["video_decode"].busy_s or 0.0) / run.wall_s)
        return _engine_bound({stage.name: stage.busy_s or 0.0 for stage in engine}, waited)
    seconds = {stage.name: stage.seconds for stage in engine}
    if sum(seconds.values()) > 0:
        return _engine_bound(seconds, None)
    if video_hours > 0:
        return "No stage times were measured, so no bottleneck can be named."
    return "No clip is done yet, so no bottleneck can be named."


def _actors(run: RunFacts) -> float:
    return float(actors.count(run.config.get("run") or {}))


def _starved(waited: float, decode_cores: float) -> str:
    start = f"The engine waited for frames {percent(waited)} of its time"
    if decode_cores < 0.25:
        return f"{start}, yet decoders were mostly idle: start-up or scheduling held the run back, not a stage."
    more = max(1, round(decode_cores * waited / (1 - waited))) if waited < 0.98 else None
    if more is None:
        return f"Decode-bound: {start[0].lower()}{start[1:]}; it needs many more CPU cores for video decoding."
    return (
        f"Decode-bound: {start[0].lower()}{start[1:]}; "
        f"about {plural(more, 'more CPU core')} for video decoding would keep it busy."
    )


def _engine_bound(seconds: Mapping[str, float], waited: float | None) -> str:
    name = max(seconds, key=lambda key: seconds[key])
    share = seconds[name] / sum(seconds.values())
    subject = NAMES[name]
    sentence = f"Engine-bound: {subject} takes {percent(share)} of engine time; {ADVICE[name]}."
    if waited is not None and waited >= 0.01:
        sentence += f" The engine waited for frames only {percent(waited)} of its time."
    return sentence
