"""One run from configuration to report: check, plan, reckon what is pending, stream it through, write, report.

Safe to kill at any point and start again: the next run reads from the output what is done. The only module that ties
the others together; what each step means is in them.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from luvc.errors import LuvcError
from pipeline.config import RunConfig
from pipeline.errors import OutputError
from pipeline.forecast import Forecast, forecast
from pipeline.parts import run_facts
from pipeline.requests import Requests, requests
from pipeline.run import cluster, surroundings
from pipeline.run.folder import Folder
from pipeline.run.lease import Lease, OutputBusy
from pipeline.run.ledger import Ledger, Retry
from pipeline.run.outcome import UNIT, Facts, quality_table
from pipeline.run.pending import manifest_of, pending_units, read_ledger, sample_of, spread
from pipeline.run.pools import sized
from pipeline.run.progress import Display, NoProgressGuard, Tally, duration
from pipeline.run.sink import Part, PartWriter, Sink
from pipeline.run.surroundings import stop_on_signal
from pipeline.run.telemetry import RayRecord, RunTelemetry

if TYPE_CHECKING:
    from pipeline.run.feed import Feed

Outcome = Literal["done", "some_failed", "interrupted", "aborted", "nothing_to_do"]


class RunAborted(LuvcError):
    """The run cannot go on; what it finished is written, and another run continues."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended; counts are of the whole plan.

    Attributes:
        run_id: None when there was nothing to do.
        report: where report.html lies, None when it could not be built.
        below: what of the quality slice is below its threshold, in sentences.
    """

    outcome: Outcome
    planned: int
    done: int
    failed: int
    pending: int
    wall_s: float = 0.0
    run_id: str | None = None
    report: str | None = None
    below: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 all done; 4 finished, quality below the threshold; 3 finished and some units failed; 1 not finished."""
        if self.outcome in ("interrupted", "aborted"):
            return 1
        if self.below:
            return 4
        return 3 if self.failed else 0


def run(
    config: RunConfig,
    retry_failed: Retry = None,
    replan: bool = True,
    add: Sequence[str] = (),
    verbose: bool = False,
    calibrate: int = 0,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),  # noqa: T201
) -> RunOutcome:
    """Run what is pending.

    Args:
        retry_failed: also take failed units: those that trying again can help, or all.
        replan: false uses the manifest that is there, where no new videos are wanted.
        add: videos to add to the manifest that is there, instead of listing the inputs.
        verbose: show Ray's own messages.
        calibrate: do so many units first, in a run of their own, and say what the others will take.
        say: told what happens, in lines for a person.

    Raises:
        LuvcError: the run could not start, or had to stop (`RunAborted` and others); the message says why.
    """
    run_id = new_run_id()
    surroundings.check_output_is_kept(config.output.path)
    folder, asked = Folder.of(config), requests()
    with ExitStack() as stack:
        stack.enter_context(folder.writable())
        lease = Lease(folder, run_id, say)
        stack.enter_context(lease.kept())
        manifest = manifest_of(config, folder, replan, add, lease, say)
        planned = manifest["unit_id"]
        ledger = read_ledger(folder, planned)
        counts = ledger.counts
        if not pc.any(ledger.work(retry_failed)).as_py():
            hint = "; --retry-failed tries failed units again" if counts["failed"] else ""
            say(f"nothing to do: {counts['done']} done, {counts['failed']} failed{hint}")
            if folder.run_without_report():
                build_report(config, folder, None, say)
            # As with failed units: it is still so, and a scheduler that starts the run again must not read success.
            below = _judged(config, say) if config.slice_units else ()
            return RunOutcome(
                "nothing_to_do", counts["planned"], counts["done"], counts["failed"], counts["pending"], below=below
            )
        units = pending_units(manifest, ledger, retry_failed)
        del manifest  # as large as `units`, which may be nearly all of it, and a run is long
        with cluster.connected(config, verbose):
            if 0 < calibrate < units.num_rows:
                slice_ = spread(units, calibrate)
                sample = sample_of(config, planned, slice_)
                first = _Job(_sized(config, say), run_id, folder, lease, ledger, slice_, say, asked, sample).execute()
                if first.outcome not in ("done", "some_failed"):
                    return first
                tried = pc.is_in(units["unit_id"], value_set=slice_["unit_id"].combine_chunks())
                ledger = read_ledger(folder, planned)
                units, run_id, asked = units.filter(pc.invert(tried)), new_run_id(), requests()
            sample = sample_of(config, planned, units)
            job = _Job(_sized(config, say), run_id, folder, lease, ledger, units, say, asked, sample)
            del units  # see `_Job._feed`
            return job.execute()


def _sized(config: RunConfig, say: Callable[[str], None]) -> RunConfig:
    """With pool sizes in place of "auto"."""
    solved, why = sized(config, cluster.devices()["gpus"])
    if why:
        say(why)
    return solved


def _judged(config: RunConfig, say: Callable[[str], None], sample: Sequence[str] | None = None) -> tuple[str, ...]:
    """What of the quality slice is below its threshold; says so, with the pairs that differ most.

    Args:
        sample: its units; None: those of the newest run.
    """
    from pipeline import report

    found = report.measure_quality(config.output.path, config.output.storage, sample, config.quality.model_dump())
    for line in report.complaint(found) if found else ():
        say(line)
    return found.below if found else ()


def new_run_id(now: datetime | None = None) -> str:
    """Sorts by time, and two runs started in the same second differ."""
    return f"{now or datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def started_on(run_id: str) -> str:
    """The day a run began, UTC, as its id says: YYYY-MM-DD. A run over midnight has one day."""
    return f"{run_id[:4]}-{run_id[4:6]}-{run_id[6:8]}"


class _Job:
    """One run with work to do."""

    def __init__(
        self,
        config: RunConfig,
        run_id: str,
        folder: Folder,
        lease: Lease,
        ledger: Ledger,
        units: pa.Table,
        say: Callable[[str], None],
        requests_before: Requests | None = None,
        sample: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._run_id = run_id
        self._folder = folder
        self._lease = lease
        self._counts = ledger.counts
        self._units = units
        self._say = say
        retried = int(pc.sum(pc.greater(units["tried"], 0)).as_py() or 0)
        self._tally = Tally(units.num_rows, self._counts["done"], self._counts["failed"] - retried)
        self._telemetry = RunTelemetry(RayRecord(config.name), self._counts["planned"])
        lease.check()  # planning and connecting take long; a run that lost its output leaves no folder of its own
        self._events = folder.event_log(run_id)
        self._versions = surroundings.versions()
        self._requests_before = requests_before or requests()
        self._sample = tuple(sample)
        quality = self._writer("quality") if sample else None
        self._sink = Sink(self._writer("results"), self._writer("failures"), self._wrote, quality)
        self._written: Counter[str] = Counter()
        self._engines = 0
        self._started = time.monotonic()

    def _writer(self, kind: str) -> PartWriter:
        output = self._config.output
        folder = f"{kind}/dt={started_on(self._run_id)}" if output.partition == "date" else kind
        return PartWriter(
            folder, f"{self._run_id}-driver", self._facts(), self._write, output.part_units, output.part_bytes
        )

    def _write(self, path: str, data: bytes) -> None:
        self._lease.check()  # while this process slept, another run may have answered these units
        self._folder.write(path, data)

    def _facts(self) -> dict[str, dict[str, Any]]:
        """For the footers of part files."""
        config = self._config
        return {self._run_id: run_facts(config.name, config.model.id, config.config_hash, self._versions)}

    def _wrote(self, part: Part) -> None:
        kind = part.path.split("/")[0]
        self._written[kind] += part.units
        self._tally.wrote(0 if kind == "quality" else part.units, part.seconds)
        self._telemetry.wrote(kind, part.bytes)
        self._events.append("part_written", path=part.path, rows=part.rows, units=part.units, bytes=part.bytes)

    def execute(self) -> RunOutcome:
        self._folder.write(f"runs/{self._run_id}/config.yaml", self._config.dump().encode())
        expected = self._expected()
        self._events.append(
            "run_started",
            name=self._config.name,
            **self._counts,
            work=self._units.num_rows,
            versions=self._versions,
            machine=surroundings.machine() | cluster.devices(),
            config_hash=self._config.config_hash,
            estimate=expected.estimate and expected.estimate.as_dict(),
            sample=list(self._sample),
        )
        self._say(f"run {self._run_id}: {self._units.num_rows} units to do, {self._counts['done']} already done")
        self._say(str(expected))
        outcome: Outcome = "aborted"
        try:
            self._stream()
            self._sink.flush()
            if self._tally.left:
                outcome = "interrupted"
            else:
                outcome = "some_failed" if self._tally.heartbeat()["failed"] else "done"
        except OutputError as error:
            # It could be written when the run began, so the configuration is not to blame.
            raise RunAborted(error.message, f"{error.hint}; what is written stays, run again to continue") from error
        finally:
            ended = self._finish(outcome)
        return ended

    def _expected(self) -> Forecast:
        try:
            return forecast(self._config, self._units)
        except Exception as error:  # noqa: BLE001 - whatever it is, a run is worth more than knowing how long it takes
            return Forecast(None, f"earlier runs cannot be read ({type(error).__name__}: {error})")

    def _stream(self) -> None:
        """Everything through the pipeline, or until a signal."""
        config = self._config
        facts = Facts(self._run_id, config.model.id, config.compression.name or "custom", frozenset(self._sample))
        display = Display(self._units.num_rows)
        guard = NoProgressGuard(config.run.no_progress_s)
        next_beat = time.monotonic() + config.run.heartbeat_s
        try:
            with self._feed(facts) as feed, stop_on_signal(feed.stop, self._say):
                for outcomes in feed:
                    if outcomes is not None:
                        self._take(outcomes)
                    self._sink.tick()
                    self._lease.raise_if_lost()
                    board = feed.snapshot()
                    for engine in board.engines[self._engines :]:
                        self._events.append("engine_ready", **engine)
                    self._engines = len(board.engines)
                    guard.check(self._tally.done + self._tally.failed, board)
                    display.update(self._tally, board)
                    if time.monotonic() >= next_beat:
                        next_beat = time.monotonic() + config.run.heartbeat_s
                        display.heartbeat(self._beat(), board)
                if self._tally.left and not feed.stopped:
                    raise RunAborted(f"the pipeline ended and {self._tally.left} units are missing", "run again")
        finally:
            display.close()

    def _feed(self, facts: Facts) -> Feed:
        """The pipeline. Lets go of the units: Ray's store has them, and the report needs the memory."""
        from pipeline.run.feed import Feed

        units, self._units = self._units, UNIT.empty_table()
        return Feed(units, self._config, facts)

    def _take(self, outcomes: pa.Table) -> None:
        results, failures = self._sink.add(outcomes)
        self._tally.add(outcomes, results, failures)
        self._telemetry.outcomes(results, failures)
        if self._sample:
            quality = quality_table(outcomes)
            self._tally.compared(quality)
            self._telemetry.compared(quality)
        for row in failures.select(["unit_id", "uri", "stage", "error_class"]).to_pylist():
            self._events.append("unit_failed", **row)

    def _beat(self) -> dict[str, Any]:
        asked = requests().since(self._requests_before)
        made = {"writes": asked.writes, "reads": asked.reads + self._tally.storage_reads}
        beat = self._tally.heartbeat() | {"storage": made}
        self._events.append("heartbeat", **beat)
        self._telemetry.beat(beat)
        return beat

    def _finish(self, outcome: Outcome) -> RunOutcome:
        """Write what is finished, say how it ended, build the report. Runs after an error, too."""
        failing = sys.exc_info()[1] is not None
        evicted = failing and self._evicted()
        if evicted:
            self._say("another run has had this output; what is not written yet is left to it")
        else:
            with suppress(LuvcError, OSError) if failing else ExitStack():
                self._sink.flush()
        wall_s = time.monotonic() - self._started
        beat = self._tally.heartbeat()
        # What is answered and could not be written is still to be done.
        lost_done = self._tally.done - self._written["results"]
        lost_failed = self._tally.failed - self._written["failures"]
        counts = {"done": beat["done"] - lost_done, "failed": beat["failed"] - lost_failed}
        counts["left"] = beat["left"] + lost_done + lost_failed
        report: str | None = None
        below: tuple[str, ...] = ()
        with suppress(LuvcError, OSError) if failing else ExitStack():
            self._beat()
            self._telemetry.ended(outcome)
            self._events.append("run_finished", outcome=outcome, **counts, wall_s=round(wall_s, 3))
            self._events.close()
        with suppress(LuvcError, OSError) if failing else ExitStack():
            # Whoever has the output now tells of it.
            report = None if evicted else build_report(self._config, self._folder, self._run_id, self._say)
            if self._sample and outcome in ("done", "some_failed"):
                below = _judged(self._config, self._say, self._sample)
                self._telemetry.judged(bool(below))
        pending = self._counts["planned"] - counts["done"] - counts["failed"]
        planned = self._counts["planned"]
        return RunOutcome(
            outcome, planned, counts["done"], counts["failed"], pending, wall_s, self._run_id, report, below
        )

    def _evicted(self) -> bool:
        """Whether another run has, or has had, the output; whatever it was that ended this one."""
        try:
            self._lease.check()
        except OutputBusy:
            return True
        except (LuvcError, OSError):  # the store does not answer; what is to be written asks again
            pass
        return False


def build_report(config: RunConfig, folder: Folder, run_id: str | None, say: Callable[[str], None]) -> str | None:
    """The report of a run; where it lies, or None if it cannot be built: answers are worth more than a page."""
    from pipeline import report

    try:
        report.build_report(config.output.path, config.output.storage, run_id)
        return folder.url("report.html")
    except Exception as error:  # noqa: BLE001 - whatever it is, the answers are written
        say(f"the report could not be built ({type(error).__name__}: {error}); try `luvc report` later")
        return None


def summary(ended: RunOutcome) -> str:
    """How it ended, in a line."""
    counts = f"{ended.done} done, {ended.failed} failed, {ended.pending} pending of {ended.planned}"
    below = "; quality below the threshold" if ended.below else ""
    return f"{ended.outcome.replace('_', ' ')}: {counts} in {duration(ended.wall_s)}{below}"
