"""The `luvc` command: plan, run, submit, report, captions, failures, compact, bench, evaluate, doctor.

Parses arguments, calls one function and turns its end into a line and an exit code: 0 all done; 3 finished, some
units failed; 4 finished, quality below the threshold; 2 bad configuration, empty input or an output that cannot be
written; 1 anything else. Imports the work only when it is asked for, so `--help` is quick.
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
EXIT_QUALITY = 4
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

    def with_add(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--add",
            action="extend",
            nargs="+",
            default=[],
            metavar="PATH",
            help="add these videos (files, folders, globs, lists) to the manifest instead of listing the inputs",
        )

    plan = command("plan", _plan, "List, probe and size the inputs; write the manifest.")
    with_config(plan)
    with_add(plan)
    plan.add_argument("--dry-run", action="store_true", help="write nothing")
    plan.add_argument("--show-compression", action="store_true", help="print tokens per layer for the largest unit")

    def with_work(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--retry-failed",
            nargs="?",
            const="retryable",
            choices=["retryable", "all"],
            help="also take failed units: those that trying again can help (default), or all",
        )
        sub.add_argument(
            "--calibrate",
            type=_positive,
            default=0,
            metavar="N",
            help="do N units first, say what the others will take, and go on",
        )
        sub.add_argument("--no-plan", action="store_true", help="use the manifest that is there")
        sub.add_argument(
            "--failed-ok",
            action="store_true",
            help="exit code 0, not 3, when some units failed: for schedulers that would start the run again",
        )

    run = command("run", _run, "Run what is pending. Safe to kill and start again.")
    with_config(run)
    with_work(run)
    with_add(run)
    run.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing")
    run.add_argument("--verbose", action="store_true", help="show Ray's own messages")

    submit = command("submit", _submit, "Send a run to a running Ray cluster and follow it; same exit codes as run.")
    with_config(submit)
    with_work(submit)
    with_add(submit)
    submit.add_argument(
        "--address",
        help="the cluster's dashboard, http://HEAD:8265; default: RAY_DASHBOARD_ADDRESS, RAY_ADDRESS, this machine",
    )
    submit.add_argument("--job-id", metavar="NAME", help="follow the job NAME if it runs already; start it if not")
    submit.add_argument("--no-wait", action="store_true", help="do not follow; exit code 0 once it is submitted")
    submit.add_argument(
        "--installed", action="store_true", help="the nodes have this package: send the configuration only"
    )
    submit.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="send this environment variable along (whoever holds the cluster's token can read it); may be repeated",
    )
    submit.add_argument(
        "--print-manifest", action="store_true", help="print a KubeRay RayJob of this run instead; submit nothing"
    )
    submit.add_argument("--image", default="luvc", help="for --print-manifest: container image, without its tag")

    report = command("report", _report, "Build report.html and metrics.json again, from files.")
    with_output(report)
    report.add_argument("--run-id", help="which run; default: the newest")

    captions = command("captions", _captions, "Print answers, clip by clip.")
    with_output(captions)
    captions.add_argument("--limit", type=int, default=100, help="clips to print; default 100")

    failures = command("failures", _failures, "List units that failed.")
    with_output(failures)
    failures.add_argument("--json", action="store_true", help="one JSON object a line")

    compact = command("compact", _compact, "Join small part files. Safe to kill and start again.")
    with_output(compact)
    compact.add_argument(
        "--part-bytes", type=_positive, metavar="N", help="size to aim at; default: output.part_bytes, or 64 MiB"
    )

    # luvc.bench has its own arguments: it also runs where nothing of the pipeline is installed.
    bench = commands.add_parser("bench", help="Time the engine against transformers.", add_help=False)
    bench.set_defaults(command=_bench, passes_on=True, debug=False)

    # So has the evaluation, for the same reason.
    evaluation = commands.add_parser("evaluate", help="Compare answers with and without compression.", add_help=False)
    evaluation.set_defaults(command=_evaluate, passes_on=True, debug=False)

    command("doctor", _doctor, "Say what works on this machine, and how to fix what does not.")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _config(args: argparse.Namespace) -> Any:
    from pipeline.config import load_config

    return load_config(args.config, args.overrides)


def _plan(args: argparse.Namespace) -> int:
    from pipeline.run.folder import Folder
    from pipeline.run.pending import make_plan

    config = _config(args)
    folder = Folder.of(config)
    if args.dry_run:
        planned = make_plan(config, folder, args.add)
    else:
        with folder.writable():
            planned = make_plan(config, folder, args.add, save=folder.write_probes)
            folder.write_probes(planned.probes)
            folder.write_manifest(planned.table)
    _print(str(planned.summary))
    _print(str(_forecast(config, planned.table)))
    if args.show_compression:
        from pipeline.plan.show import compression_table

        _print(compression_table(config, planned.table))
    return 0


def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    if args.dry_run:
        return _dry_run(args, config)
    from pipeline.run.job import run, summary

    ended = run(
        config,
        args.retry_failed,
        replan=not args.no_plan,
        add=args.add,
        verbose=args.verbose or args.debug,
        calibrate=args.calibrate,
        say=_say,
    )
    if ended.run_id:
        _say(summary(ended))
    if ended.report:
        _print(ended.report)
    return 0 if args.failed_ok and ended.exit_code == EXIT_FAILED else ended.exit_code


def _submit(args: argparse.Namespace) -> int:
    flags = (("--no-plan", args.no_plan), ("--failed-ok", args.failed_ok))
    retry = [f"--retry-failed={args.retry_failed}"] if args.retry_failed else []
    slice_first = [f"--calibrate={args.calibrate}"] if args.calibrate else []
    nowhere = [path for path in args.add if "://" not in path and not path.startswith("/")]
    if nowhere:
        raise ConfigError(f"--add {nowhere[0]}: the run happens on other machines", "give a URL or an absolute path")
    added = [f"--add={path}" for path in args.add]
    arguments = [*retry, *slice_first, *added, *(flag for flag, given in flags if given)]
    if args.print_manifest:
        from pipeline.run.kuberay import manifest
        from pipeline.run.parcel import pack

        _print(manifest(pack(args.config, args.overrides), args.image, arguments).rstrip("\n"))
        return 0
    from pipeline.run.submit import Submission, submit

    asked = Submission(
        args.config,
        args.overrides,
        args.address,
        args.job_id,
        wait=not args.no_wait,
        installed=args.installed,
        env=args.env,
        run_arguments=arguments,
    )
    return submit(asked, say=_say)


def _forecast(config: Any, manifest: Any) -> Any:
    """What the units of a plan that are still to do will take."""
    from pipeline.forecast import forecast
    from pipeline.run.folder import Folder
    from pipeline.run.pending import read_ledger

    return forecast(config, manifest.filter(read_ledger(Folder.of(config), manifest["unit_id"]).work()))


def _dry_run(args: argparse.Namespace, config: Any) -> int:
    from pipeline.forecast import forecast
    from pipeline.run.folder import Folder
    from pipeline.run.pending import make_plan, read_ledger

    planned = make_plan(config, Folder.of(config), args.add)
    ledger = read_ledger(Folder.of(config), planned.table["unit_id"])
    counts = ledger.counts
    work = ledger.work(args.retry_failed)
    _print(str(planned.summary))
    _print(str(forecast(config, planned.table.filter(work))))
    stand = f"{counts['done']} done, {counts['failed']} failed, {counts['pending']} pending"
    _print(f"would run {work.true_count} units; {stand}")
    return 0


def _output(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The output folder, and how to reach it."""
    output = _output_section(args)
    return (output.path, output.storage) if output else (args.output, {})


def _output_section(args: argparse.Namespace) -> Any:
    """The `output` section, if a configuration was given and not a folder."""
    if not args.output.endswith((".yaml", ".yml")):
        return None
    from pipeline.config import load_config

    return load_config(args.output, args.overrides).output


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


def _compact(args: argparse.Namespace) -> int:
    from pipeline.compact import compact
    from pipeline.config import OutputSettings

    output = _output_section(args) or OutputSettings(path=args.output)
    done = compact(output.path, output.storage, args.part_bytes or output.part_bytes, _say)
    for line in [str(one) for one in done] or ["nothing to compact: no part files here"]:
        _print(line)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from luvc.bench.command import main as bench

    return bench(args.rest)


def _evaluate(args: argparse.Namespace) -> int:
    from pipeline.evaluate import main as evaluate

    return evaluate(args.rest)


def _doctor(args: argparse.Namespace) -> int:
    from pipeline.doctor import doctor

    return int(doctor() or 0)


if __name__ == "__main__":
    sys.exit(main())
