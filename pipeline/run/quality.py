"""The quality slice: some units of every run are also answered without compression, and the two answers compared.

Which ones is a matter of their ids, which are hashes: as good as random, and the same however often the plan is made.
A run that goes on for one that did not end goes on with its sample. The answer itself is finished before it is
compared; whatever happens then costs the comparison, never the unit.

`pick` and the rows are pure; `Comparison` is the part in an engine actor. Knows nothing of torch until it compares.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from luvc.evaluation.statistics import agreement
from luvc.types import Answer, Completion, Request, StageTimes, TwinRequest
from pipeline.run.board import Turn
from pipeline.run.engine_loop import EngineLoop
from pipeline.run.engine_stage import WorkerDied, now, process
from pipeline.run.outcome import IDENTITY_NAMES, Facts

REFERENCE = "reference"


def pick(work: pa.ChunkedArray, count: int, begun: Sequence[str], planned: pa.ChunkedArray) -> tuple[str, ...]:
    """Unit ids of the sample: those of a run that did not end, as far as they are planned, then the smallest.

    Args:
        work: ids this run is to do.
        count: how many.
        begun: sample of the run before, if that did not end.
        planned: ids of the whole plan.
    """
    sample = pa.array(begun, pa.string())
    kept = sample.filter(pc.is_in(sample, value_set=planned.combine_chunks())).to_pylist()[:count] if begun else []
    # A million ids stay in Arrow: only as many as can be of use become strings.
    smallest = pc.bottom_k_unstable(work, min(len(work), count + len(kept)))
    more = sorted(set(work.take(smallest).to_pylist()) - set(kept))
    return tuple(kept + more[: count - len(kept)])


@dataclass(frozen=True)
class Alone:
    """A unit answered alone: as the run does, and without compression."""

    same: Completion
    off: Completion


def rows(
    unit: Mapping[str, Any],
    answered: Completion,
    alone: Alone | Exception,
    similarities: Sequence[float | None],
    facts: Facts,
    at: datetime,
) -> list[dict[str, Any]]:
    """Rows of `QUALITY`, one a prompt.

    Args:
        answered: what stands in results.
        alone: what it is compared with, or why there is nothing.
        similarities: of each prompt's two answers.
    """
    error = alone if isinstance(alone, Exception) else alone.off.error
    common = {name: unit[name] for name in IDENTITY_NAMES} | {
        "visual_tokens": answered.tokens.visual,
        "merged_tokens": answered.tokens.merged,
        "video_s": unit["duration_s"],
        "model": facts.model,
        "compression": facts.compression,
        "run_id": facts.run_id,
        "finished_at": at,
    }
    if error is not None:
        message = getattr(error, "message", None) or str(error) or type(error).__name__
        common |= {"error_class": type(error).__name__, "message": message}
    if isinstance(alone, Alone):
        share = 1 / max(1, len(unit["prompts"]))
        common |= _seconds("", alone.same, share) | _seconds("reference_", alone.off, share)
    found: list[dict[str, Any]] = []
    for index, (prompt, answer) in enumerate(zip(unit["prompts"], answered.answers, strict=True)):
        row = common | {
            "prompt_id": prompt["prompt_id"],
            "prompt": prompt["text"],
            "text": answer.text,
            "output_tokens": len(answer.token_ids),
        }
        if error is None and isinstance(alone, Alone):
            row |= _beside(answer, alone.off.answers[index]) | {"similarity": similarities[index]}
        found.append(row)
    return found


def _seconds(prefix: str, completion: Completion, share: float) -> dict[str, float | None]:
    times: StageTimes | None = None if completion.error else completion.times
    names = ("encode_s", "prefill_s", "decode_s")
    return {f"{prefix}{name}": None if times is None else getattr(times, name) * share for name in names}


def _beside(answer: Answer, reference: Answer) -> dict[str, Any]:
    return {
        "reference_text": reference.text,
        "reference_output_tokens": len(reference.token_ids),
        "agreement": agreement(answer.token_ids, reference.token_ids),
    }


class Comparison:
    """Compares units of the sample in an engine actor.

    Args:
        loop: around an engine with twins.
        board: where units are noted before they are touched.
        facts: of the run.
    """

    def __init__(self, loop: EngineLoop, board: Any, facts: Facts) -> None:
        self._loop = loop
        self._board = board
        self._facts = facts
        self._lock = threading.Lock()
        self._similarity: Any = None
        self._looked = False

    def rows(self, unit: Mapping[str, Any], request: Request, answered: Completion) -> list[dict[str, Any]]:
        """Rows of `QUALITY` for a unit that is answered. Never raises."""
        unit_id = unit["unit_id"]
        alone: Alone | Exception
        similarities: list[float | None] = [None] * len(answered.answers)
        try:
            turn: Turn = ray.get(self._board.begin.remote(REFERENCE, unit_id, process()))
            if turn.deaths:
                hint = "look at the workers' logs; often too little memory"
                raise WorkerDied("the worker process died while answering this unit without compression", hint)
            alone = self._alone(request)
            if alone.off.error is None:
                similarities = self._similar(answered.answers, alone.off.answers)
        except Exception as error:  # noqa: BLE001 - the unit is answered, whatever this is
            alone = error
        finally:
            self._board.end.remote(REFERENCE, unit_id)
        return rows(unit, answered, alone, similarities, self._facts, now())

    def _alone(self, request: Request) -> Alone:
        done = {}
        # Neither goes first every time: the first one may page in or compile what the second finds ready.
        for compressed in sorted((True, False), reverse=int(request.id[-1], 16) % 2 == 0):
            twin = TwinRequest(**{**vars(request), "compressed": compressed})
            done[compressed] = self._loop.submit(twin, alone=True).result()
        return Alone(same=done[True], off=done[False])

    def _similar(self, answers: Sequence[Answer], references: Sequence[Answer]) -> list[float | None]:
        """Cosines where the sentence model is installed."""
        from luvc.evaluation.similarity import sentence_similarity

        with self._lock:
            if not self._looked:
                self._looked, self._similarity = True, sentence_similarity()
            if self._similarity is None:
                return [None] * len(answers)
            pairs = [(one.text, other.text) for one, other in zip(answers, references, strict=True)]
            return list(self._similarity(pairs))
