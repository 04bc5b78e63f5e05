"""How far a run is: counts, speeds, the heartbeat, and the guard that names a stage which stands still.

Pure accounting over an injected clock; `Display` at the end is the only thing that prints.
Knows nothing of Ray.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from luvc.errors import LuvcError
from pipeline.run.board import Snapshot
from pipeline.run.outcome import compared_and_failed

#: Speed is an average over this long, so that an ETA follows a change within minutes.
WINDOW_S = 120.0

ENGINE_STAGES = {"encode": "encode_s", "prefill": "prefill_s", "decode": "decode_s"}

#: Columns of the quality slice: alone with compression, and without.
_KINDS = ("", "reference_")

#: From the end of the pipeline to its start: the last stage that holds work is the one that is stuck.
STAGES_BACKWARDS = ("reference", "answer", "encode", "video_decode")

WHERE_TO_LOOK = {
    "reference": "the quality slice answers without compression, which takes longer; look at the engine actors' logs",
    "answer": "look at the engine actors' logs; a GPU that hangs, or answers longer than run.no_progress_s allows",
    "encode": "look at the encoder actors' logs; a GPU that hangs",
    "video_decode": "look at the decode workers' logs and at the storage the videos come from",
    "start": "no worker has taken any work: are there enough free CPUs and GPUs for run.actors and run.decode_cpus?",
}


class NoProgress(LuvcError):
    """Nothing has moved for `run.no_progress_s` seconds."""


class Tally:
    """Counts and seconds of one run, from finished units.

    Args:
        work: units this run is to do.
        done, failed: units of the plan that were already done or failed, not in `work`.
        clock: seconds, monotonic.
    """

    def __init__(self, work: int, done: int, failed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._done_before = done
        self._failed_before = failed
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque()
        self.done = 0
        self.failed = 0
        self._busy_s: dict[str, float] = dict.fromkeys(("video_decode", *ENGINE_STAGES, "sink"), 0.0)
        self._units: dict[str, int] = dict.fromkeys(self._busy_s, 0)
        #: By stage, by worker: where one actor does both, it waits for frames, which is the encoder's time.
        self._starved_s: dict[str, dict[str, float]] = {}
        self.storage_reads = 0
        self._engine_peak_bytes = 0
        self._quality = {"compared": 0, "failed": 0}
        self._agreements: list[float] = []
        self._reference_s = 0.0

    def add(self, outcomes: pa.Table, results: pa.Table, failures: pa.Table) -> None:
        """Count finished units: their outcomes, and the rows these hold."""
        self.failed += failures.num_rows
        self.done += outcomes.num_rows - failures.num_rows
        self._recent.append((self._clock(), self.done + self.failed))
        self._busy_s["video_decode"] += _sum(outcomes["video_decode_s"])
        self.storage_reads += int(_sum(outcomes["storage_reads"]))
        self._engine_peak_bytes = max(self._engine_peak_bytes, pc.max(outcomes["engine_peak_bytes"]).as_py() or 0)
        self._units["video_decode"] += outcomes.num_rows
        for stage, column in ENGINE_STAGES.items():
            self._busy_s[stage] += _sum(results[column])
            self._units[stage] += outcomes.num_rows - failures.num_rows
        waits = outcomes.select(["worker", "starved_s", "encoder", "encoder_starved_s"]).to_pylist()
        for wait in waits:
            self._waited("prefill" if wait["encoder"] else "encode", wait["worker"], wait["starved_s"])
            self._waited("encode", wait["encoder"], wait["encoder_starved_s"])

    def compared(self, quality: pa.Table) -> None:
        """Count units of the quality slice (`[QUALITY]`)."""
        compared, failed = compared_and_failed(quality)
        self._quality["compared"] += compared
        self._quality["failed"] += failed
        self._agreements += quality["agreement"].drop_null().to_pylist()
        self._reference_s += sum(_sum(quality[f"{kind}{name}"]) for name in ENGINE_STAGES.values() for kind in _KINDS)

    def _waited(self, stage: str, worker: str | None, seconds: float | None) -> None:
        if worker is not None:
            by_worker = self._starved_s.setdefault(stage, {})
            by_worker[worker] = max(seconds or 0.0, by_worker.get(worker, 0.0))

    def wrote(self, units: int, seconds: float) -> None:
        """Count a part file."""
        self._busy_s["sink"] += seconds
        self._units["sink"] += units

    @property
    def left(self) -> int:
        return self._work - self.done - self.failed

    @property
    def videos_per_s(self) -> float:
        """Units finished a second, lately; starting workers and loading a model does not count."""
        now = self._clock()
        while len(self._recent) > 2 and self._recent[1][0] <= now - WINDOW_S:
            self._recent.popleft()
        if not self._recent:
            return 0.0
        since, count = self._recent[0]
        return (self.done + self.failed - count) / (now - since) if now > since else 0.0

    @property
    def eta_s(self) -> float | None:
        speed = self.videos_per_s
        return self.left / speed if speed > 0 else None

    def heartbeat(self) -> dict[str, Any]:
        """Fields of a `heartbeat` event; `done` and `failed` count the whole plan."""
        stage = {
            name: {"busy_s": round(busy_s, 3), "units": self._units[name]} for name, busy_s in self._busy_s.items()
        }
        for name in {"encode", *self._starved_s}:
            stage[name]["starved_s"] = round(sum(self._starved_s.get(name, {}).values()), 3)
        found = {}
        if any(self._quality.values()):
            stage["reference"] = {"busy_s": round(self._reference_s, 3), "units": sum(self._quality.values())}
            mean = sum(self._agreements) / len(self._agreements) if self._agreements else None
            found = {"quality": self._quality | {"agreement": mean if mean is None else round(mean, 4)}}
        eta_s = self.eta_s
        return {
            "done": self._done_before + self.done,
            "failed": self._failed_before + self.failed,
            "left": self.left,
            "videos_per_s": round(self.videos_per_s, 4),
            "eta_s": None if eta_s is None else round(eta_s, 1),
            "engine_peak_bytes": self._engine_peak_bytes,
            "stage": stage,
            **found,
        }


class NoProgressGuard:
    """Raises when no count has changed for too long.

    Args:
        limit_s: zero would abort before the first unit; the configuration forbids it.
        clock: seconds, monotonic.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._moved_at = clock()
        self._marks: Any = None

    def check(self, finished: int, board: Snapshot) -> None:
        """Look at how far the run is.

        Raises:
            NoProgress: nothing moved; the message names the stage.
        """
        marks = (finished, board.started, board.finished)
        if marks != self._marks:
            self._marks, self._moved_at = marks, self._clock()
        elif self._clock() - self._moved_at >= self._limit_s:
            stage = stuck_stage(board.in_flight)
            held = board.in_flight.get(stage, 0)
            raise NoProgress(
                f"nothing moved for {self._limit_s:g} s; stuck in stage {stage!r} with {held} units in flight",
                WHERE_TO_LOOK[stage],
            )


def stuck_stage(in_flight: Mapping[str, int]) -> str:
    """The stage nearest to the end that holds work; "start" when none does."""
    return next((stage for stage in STAGES_BACKWARDS if in_flight.get(stage)), "start")


def line(beat: Mapping[str, Any], board: Snapshot) -> str:
    """A heartbeat in words."""
    counts = f"{beat['done']} done, {beat['failed']} failed, {beat['left']} left"
    if not board.started.get("answer"):
        return f"{counts}; starting workers and loading the model"
    eta = "?" if beat["eta_s"] is None else duration(beat["eta_s"])
    return f"{counts}, {beat['videos_per_s']:.2f} videos/s, ETA {eta}"


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    hours, rest = divmod(int(seconds + 0.5), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _sum(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0.0)


class Display:
    """Progress for a person: a bar on a terminal, else one line a heartbeat.

    Args:
        work: units this run is to do.
        stream: where to; a bar only if it is a terminal.
    """

    def __init__(self, work: int, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("units"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task("starting", total=work)
            self._bar.start()

    def update(self, tally: Tally, board: Snapshot) -> None:
        """Called often."""
        if self._bar:
            text = line(tally.heartbeat(), board)
            self._bar.update(self._task, completed=tally.done + tally.failed, description=text)

    def heartbeat(self, beat: Mapping[str, Any], board: Snapshot) -> None:
        """Called once a heartbeat."""
        if not self._bar:
            print(line(beat, board), file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
