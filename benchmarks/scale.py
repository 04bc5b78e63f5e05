"""What planning, the anti-join, the sink, a run with the fake engine and the report take as the corpus grows.

    python -m benchmarks.scale --units 10000 100000 1000000 --run-units 10000 100000 1000000 [--folder DIR]

A corpus of N empty files whose headers "were read last night", but for N/100 new ones that are real clips. On it:

- plan: lists the N files, takes over what is known, reads the new headers, writes manifest and facts
- sink: the driver's half of a run without Ray: outcomes of N/2 units into part files, counts, events
- anti-join: reads the manifest and the ids in those parts, and says what is pending
- report: of the N units, after the other half has gone through the sink as well
- run: `--run-units` alone: everything through Ray Data with `engine: fake` and `decode: false`, so that what is left is
  the cost of the machinery; 64 units share a block

Each phase is a process of its own; figures are those of that process (for a run: the driver), with imports: seconds,
CPU seconds, and the highest resident memory, which for a run counts Ray's shared memory as far as the driver has
touched it. `all_cpu_s` adds all processes that this one started, looked at every two seconds: for a run those of Ray.
Slopes between sizes leave start-up out. On a shared machine CPU seconds are worth more than seconds.

A run leaves a mark at every tenth of its units, with the same figures so far; the file is written at each of them, so
a run that is stopped says how far it came and what that took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

EXAMPLE = Path(__file__).parents[1] / "examples" / "videos"
FILES_A_FOLDER = 1_000
NEW_SHARE = 100
SINK_UNITS = 2_048
LOOK_S = 2.0
PHASES = ("plan", "sink", "antijoin", "sink", "report")


def config_of(folder: Path) -> Any:
    """A run over the corpus."""
    from pipeline.config import parse_config

    return parse_config(
        {
            "name": "scale",
            "inputs": [{"path": str(folder / "videos")}],
            "sampling": {"frames": 1},
            "compression": "off",
            "output": {"path": str(folder / "out")},
            "run": {
                "engine": "fake",
                "engine_options": {"decode": False},
                "in_flight_units": 256,
                "ray_address": "local",
                "no_progress_s": 3600,
            },
        }
    )


def prepare(folder: Path, units: int) -> None:
    """Makes the corpus, and facts as a plan of last night would have left them."""
    from pipeline.plan.headers import write_probes
    from pipeline.schemas import PROBES
    from pipeline.storage import list_files

    clip = next(EXAMPLE.glob("*.mp4")).read_bytes()
    new = set(range(0, units, NEW_SHARE))
    for index in range(units):
        path = folder / "videos" / f"{index // FILES_A_FOLDER:05d}" / f"{index:08d}.mp4"
        if index % FILES_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(clip if index in new else b"")
    files = [file for index, file in enumerate(list_files(str(folder / "videos"))) if index not in new]
    count = len(files)
    same: dict[str, Any] = {"duration_s": 30.0, "width_px": 1280, "height_px": 720, "rotation_deg": 0, "fps": 25.0}
    columns = {name: pa.repeat(pa.scalar(value, PROBES.field(name).type), count) for name, value in same.items()}
    columns |= {
        "uri": pa.array([file.url for file in files]),
        "etag": pa.array([file.version for file in files]),
        "size_bytes": pa.array([file.size_bytes for file in files], pa.int64()),
        "codec": pa.repeat("h264", count),
        "key_frames_s": pa.nulls(count, PROBES.field("key_frames_s").type),
    }
    write_probes(pa.table([columns[name] for name in PROBES.names], schema=PROBES), str(folder / "out"))


def plan(folder: Path) -> dict[str, Any]:
    """Manifest on top of last night's facts."""
    from pipeline.run.folder import Folder
    from pipeline.run.pending import make_plan

    config = config_of(folder)
    output = Folder.of(config)
    made = make_plan(config, output, save=output.write_probes)
    output.write_probes(made.probes)
    output.write_manifest(made.table)
    facts = {"units": made.summary.units, "headers_read": made.summary.headers_read}
    sizes = {kind: (folder / "out" / kind / f"{kind}.parquet").stat().st_size for kind in ("manifest", "probes")}
    return facts | {f"{kind}_bytes": size for kind, size in sizes.items()}


def outcomes_of(units: pa.Table, run_id: str) -> pa.Table:
    """Outcomes as an engine would have sent them for these rows of a manifest, `[OUTCOME]`."""
    from pipeline.run.outcome import OUTCOME
    from pipeline.schemas import RESULTS

    count = len(units)
    constant: dict[str, Any] = {
        "prompt_id": "prompt",
        "prompt": "Describe this video.",
        "text": "A dog runs along a beach while two children fly a kite; the camera follows them to the left. " * 2,
        "finish_reason": "stop",
        "model": "luvc-demo",
        "compression": "off",
        "frames_expected": 1,
        "frames_decoded": 1,
        "frames_corrupt": 0,
        "patches": 256,
        "visual_tokens": 64,
        "merged_tokens": 64,
        "prompt_tokens": 40,
        "output_tokens": 48,
        "video_s": 30.0,
        "video_decode_s": 0.2,
        "encode_s": 0.05,
        "prefill_s": 0.05,
        "decode_s": 0.1,
        "run_id": run_id,
        "finished_at": datetime.now(UTC),
        "layer_tokens": [64] * 30,
    }
    columns = []
    for field in RESULTS:
        if field.name in units.column_names and field.name not in constant:
            columns.append(units[field.name].combine_chunks().cast(field.type))
        else:
            columns.append(pa.repeat(pa.scalar(constant.get(field.name), field.type), count))
    rows = pa.StructArray.from_arrays(columns, fields=list(RESULTS))
    own = {"video_decode_s": 0.2, "storage_reads": 3, "worker": "w", "busy_s": 1.0, "starved_s": 0.1}
    outcome = [pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), rows)]
    outcome += [pa.repeat(pa.scalar(own.get(field.name), field.type), count) for field in list(OUTCOME)[1:]]
    return pa.Table.from_arrays(outcome, schema=OUTCOME)


def sink(folder: Path) -> dict[str, Any]:
    """Half of the units, or what is left of them, into part files."""
    from pipeline.run import job
    from pipeline.run.folder import Folder
    from pipeline.run.progress import Tally
    from pipeline.run.sink import PartWriter, Sink
    from pipeline.run.telemetry import RunTelemetry

    config, run_id = config_of(folder), job.new_run_id()
    output = Folder.of(config)
    manifest = output.read_manifest()
    assert manifest is not None
    done = bool(output.parts("results"))
    half = len(manifest) // 2
    units = manifest.slice(half) if done else manifest.slice(0, half)
    tally, events, parts = Tally(len(units), half if done else 0, 0), output.event_log(run_id), 0
    telemetry = RunTelemetry(lambda *_, **__: None, len(manifest))

    def wrote(part: Any) -> None:
        nonlocal parts
        parts += 1
        tally.wrote(part.units, part.seconds)
        events.append("part_written", path=part.path, rows=part.rows, units=part.units, bytes=part.bytes)

    results, failures = (
        PartWriter(kind, f"{run_id}-driver", {}, output.write, config.output.part_units, config.output.part_bytes)
        for kind in ("results", "failures")
    )
    events.append("run_started", name=config.name, planned=len(manifest), work=len(units))
    output.write(f"runs/{run_id}/config.yaml", config.dump().encode())
    into = Sink(results, failures, wrote)
    for start in range(0, len(units), SINK_UNITS):
        batch = outcomes_of(units.slice(start, SINK_UNITS), run_id)
        done_rows, failed_rows = into.add(batch)
        tally.add(batch, done_rows, failed_rows)
        telemetry.outcomes(done_rows, failed_rows)
        events.append("heartbeat", **tally.heartbeat())
    into.flush()
    beat = tally.heartbeat()
    events.append("run_finished", outcome="done", done=beat["done"], failed=0, left=0, wall_s=60.0)
    events.close()
    return {"units": len(units), "parts": parts}


def antijoin(folder: Path) -> dict[str, Any]:
    """What is pending, by reading the output."""
    from pipeline.run.folder import Folder
    from pipeline.run.pending import pending_units, read_ledger

    output = Folder.of(config_of(folder))
    manifest = output.read_manifest()
    assert manifest is not None
    ledger = read_ledger(output, manifest["unit_id"])
    work = pending_units(manifest, ledger, None)
    return {**ledger.counts, "parts": len(output.parts("results")), "work": len(work)}


def report(folder: Path) -> dict[str, Any]:
    """Page and figures."""
    from pipeline.report import build_report

    made = build_report(str(folder / "out"))
    totals = made.totals
    assert totals.planned == totals.done + totals.failed + totals.pending
    return {"done": totals.done, "page_bytes": (folder / "out" / "report.html").stat().st_size}


def run(folder: Path) -> dict[str, Any]:
    """All units through Ray Data."""
    from pipeline.run import job

    ended = job.run(config_of(folder), replan=False, say=lambda _: None)
    return {"outcome": ended.outcome, "done": ended.done, "wall_s": ended.wall_s}


def measured(phase: str, folder: Path) -> dict[str, Any]:
    """Runs one phase in this process."""
    functions: dict[str, Callable[[Path], dict[str, Any]]] = {
        "plan": plan,
        "sink": sink,
        "antijoin": antijoin,
        "report": report,
        "run": run,
    }
    started = time.perf_counter()
    facts = functions[phase](folder)
    return facts | {
        "s": round(time.perf_counter() - started, 2),
        "cpu_s": round(time.process_time(), 2),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


class Watch:
    """CPU seconds of a process and all it starts, from /proc; one that ends between two looks loses the time since.

    Args:
        pid: of the process.
        look: called after each look.
    """

    def __init__(self, pid: int, look: Callable[[Watch], None]) -> None:
        self.started = time.perf_counter()
        self._pid = pid
        self._look = look
        self._cpu_s = {(pid, self._stat(pid)[19]): 0.0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def all_cpu_s(self) -> float:
        """Of all."""
        return round(sum(self._cpu_s.values()), 2)

    def figures(self) -> dict[str, Any]:
        """So far; memory is what is resident now."""
        fields = self._stat(self._pid)
        now = {"s": round(time.perf_counter() - self.started, 1), "cpu_s": self._seconds(fields)}
        return now | {"all_cpu_s": self.all_cpu_s, "resident_bytes": int(fields[21]) * resource.getpagesize()}

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            known = {pid for pid, _ in self._cpu_s}
            for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
                try:
                    fields = self._stat(pid)
                except OSError:
                    continue
                key = (pid, fields[19])  # a number is given again
                if key in self._cpu_s or int(fields[1]) in known:
                    self._cpu_s[key] = self._seconds(fields)
                    known.add(pid)
            try:
                self._look(self)
            except OSError:  # the process has ended
                return

    @staticmethod
    def _stat(pid: int) -> list[str]:
        """Fields from the third on: what precedes may hold spaces."""
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

    @staticmethod
    def _seconds(fields: list[str]) -> float:
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def apart(phase: str, folder: Path, mark: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """The same in a process of its own; `mark` gets the figures of a run at every tenth of its units."""
    marks: list[dict[str, Any]] = []

    def look(watch: Watch) -> None:
        done, left = progress(folder)
        before = marks[-1]["done"] if marks else 0
        if 10 * done // max(1, done + left) > 10 * before // max(1, done + left):
            marks.append({"done": done} | watch.figures())
            mark({"outcome": "running", "marks": marks})

    command = [sys.executable, "-m", "benchmarks.scale", "--phase", phase, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, Watch(process.pid, look) as watch:
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found | {"all_cpu_s": watch.all_cpu_s} | ({"marks": marks} if marks else {})


def progress(folder: Path) -> tuple[int, int]:
    """Units done and left, as the run's last heartbeat says."""
    for log in (folder / "out" / "runs").glob("*/events.jsonl"):
        with log.open("rb") as lines:
            lines.seek(max(0, log.stat().st_size - 10_000))
            for line in reversed(lines.read().splitlines()):
                if b'"heartbeat"' in line and line.endswith(b"}"):
                    beat = json.loads(line)
                    return beat["done"], beat["left"]
    return 0, 0


def main() -> None:
    """Measure all sizes; the file is written after each, so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--run-units", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where the corpora are made; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        print(json.dumps(measured(args.phase, args.folder)))
        return
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}

    def keep(kind: str, units: int, made: dict[str, Any]) -> None:
        found.setdefault(kind, {})[str(units)] = made
        args.out.write_text(json.dumps(found, indent=1) + "\n")

    found["machine"] = {
        "cpus": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    for kind, sizes in (("phases", args.units), ("run", args.run_units)):
        for units in sizes:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                prepare(Path(folder), units)
                phases = PHASES if kind == "phases" else ("plan", "run")
                made = {}
                for phase in phases:
                    made[phase] = apart(phase, Path(folder), partial(keep, "run", units))
                    print(units, phase, made[phase], file=sys.stderr, flush=True)
            keep(kind, units, made if kind == "phases" else made["run"])


if __name__ == "__main__":
    main()
