"""The `luvc` command: plan, run, report, captions, failures, bench, doctor.

Parses arguments, calls one function and turns its end into a line and an exit code: 0 all done; 3 finished, some
units failed; 2 bad configuration, empty input or an output that cannot be written; 1 anything else. Imports the work
only when it is asked for, so `--help` is quick.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from luvc.errors import ConfigError, LuvcError, ModelError

EXIT_FAILED = 3
EXIT_CONFIG = 2
EXIT_OTHER = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args, rest = _parser().parse_known_args(argv)
    if rest and not getattr(args, "passes_on", False):
        _parser().error("unrecognized arguments: " + " ".join(rest))
    args.rest = rest
    try:
        return int(args.command(args))
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where errors become messages
        if args.debug:
            traceback.print_exc()
        _say(describe(error))
        return EXIT_CONFIG if is_configuration(error) else EXIT_OTHER


def is_configuration(error: Exception) -> bool:
    """Whether the user's configuration, input or output is to blame: exit code 2."""
    return isinstance(error, (ConfigError, ModelError))


def describe(error: Exception) -> str:
    """An error as a message: what, and what to do."""
    if isinstance(error, LuvcError):
        return f"error: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else "")
    return f"error: {type(error).__name__}: {error}\n  hint: --debug shows where"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command line speaks


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="luvc", description="Caption many videos with fewer visual tokens.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        sub.add_argument("--debug", action="store_true", help="show the whole trace of an error")
        return sub

    def with_config(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("config", metavar="CONFIG", help="the run's YAML file")
        sub.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="replace one value of the configuration, e.g. --set run.actors=8; may be repeated",
        )

    def with_output(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("output", metavar="OUTPUT", help="an output folder, or a configuration that names it")
        sub.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")

    plan = command("plan", _plan, "List, probe and size the inputs; write the manifest.")
    with_config(plan)
    plan.add_argument("--dry-run", action="store_true", help="write nothing")
    plan.add_argument("--show-compression", action="store_true", help="print tokens per layer for the largest unit")

    run = command("run", _run, "Run what is pending. Safe to kill and start again.")
    with_config(run)
    run.add_argument(
        "--retry-failed",
        nargs="?",
        const="retryable",
        choices=["retryable", "all"],
        help="also take failed units: those that trying again can help (default), or all",
    )
    run.add_argument("--no-plan", action="store_true", help="use the manifest that is there")
    run.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing")
    run.add_argument("--verbose", action="store_true", help="show Ray's own messages")

    report = command("report", _report, "Build report.html and metrics.json again, from files.")
    with_output(report)
    report.add_argument("--run-id", help="which run; default: the newest")

    captions = command("captions", _captions, "Print answers, clip by clip.")
    with_output(captions)
    captions.add_argument("--limit", type=int, default=100, help="clips to print; default 100")

    failures = command("failures", _failures, "List units that failed.")
    with_output(failures)
    failures.add_argument("--json", action="store_true", help="one JSON object a line")

    # luvc.bench has its own arguments: it also runs where nothing of the pipeline is installed.
    bench = commands.add_parser("bench", help="Time the engine against transformers.", add_help=False)
    bench.set_defaults(command=_bench, passes_on=True, debug=False)

    command("doctor", _doctor, "Say what works on this machine, and how to fix what does not.")
    return parser


def _config(args: argparse.Namespace) -> Any:
    from pipeline.config import load_config

    return load_config(args.config, args.overrides)


def _plan(args: argparse.Namespace) -> int:
    from pipeline.plan import plan

    config = _config(args)
    planned = plan(config)
    if not args.dry_run:
        from pipeline.run.folder import Folder

        folder = Folder.of(config)
        with folder.writable():
            folder.write_manifest(planned.table)
    _print(str(planned.summary))
    if args.show_compression:
        from pipeline.plan.show import compression_table

        _print(compression_table(config, planned.table))
    return 0


def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    if args.dry_run:
        return _dry_run(args, config)
    from pipeline.run.job import run, summary

    ended = run(config, args.retry_failed, replan=not args.no_plan, verbose=args.verbose or args.debug, say=_say)
    if ended.run_id:
        _say(summary(ended))
    if ended.report:
        _print(ended.report)
    return ended.exit_code


def _dry_run(args: argparse.Namespace, config: Any) -> int:
    from pipeline.plan import plan
    from pipeline.run.folder import Folder
    from pipeline.run.job import read_ledger

    planned = plan(config)
    ledger = read_ledger(Folder.of(config), planned.table["unit_id"])
    counts = ledger.counts
    _print(str(planned.summary))
    work = sum(ledger.work(args.retry_failed).to_pylist())
    _print(f"would run {work} units; {counts['done']} done, {counts['failed']} failed, {counts['pending']} pending")
    return 0


def _output(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The output folder, and how to reach it."""
    if args.output.endswith((".yaml", ".yml")):
        from pipeline.config import load_config

        output = load_config(args.output, args.overrides).output
        return output.path, output.storage
    return args.output, {}


def _report(args: argparse.Namespace) -> int:
    from pipeline.report import build_report

    path, storage = _output(args)
    build_report(path, storage, args.run_id)
    _print(f"{path.rstrip('/')}/report.html")
    return 0


def _captions(args: argparse.Namespace) -> int:
    from pipeline.report.captions import captions

    for line in captions(*_output(args), args.limit):
        _print(line)
    return 0


def _failures(args: argparse.Namespace) -> int:
    from pipeline.run.dead_letters import dead_letters, lines
    from pipeline.run.folder import Folder

    rows = dead_letters(Folder(*_output(args)))
    if args.json:
        for row in rows:
            _print(json.dumps(row, default=str, ensure_ascii=False))
    else:
        for line in lines(rows):
            _print(line)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from luvc.bench.command import main as bench

    return bench(args.rest)


def _doctor(args: argparse.Namespace) -> int:
    from pipeline.doctor import doctor

    return int(doctor() or 0)


if __name__ == "__main__":
    sys.exit(main())
