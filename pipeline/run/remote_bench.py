"""`luvc bench` on a node of the cluster this job runs on, one with a GPU where there is one.

The report goes to anything fsspec reaches: the node's own disk is gone with the node.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luvc.errors import LuvcError
from pipeline.run import cluster


class BenchmarkFailed(LuvcError):
    """The benchmark stopped on its node."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code.

    Raises:
        ClusterError: there is no cluster to run on.
        BenchmarkFailed: it stopped on its node.
        OutputError, StorageError: the report could not be written.
    """
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, epilog="All other arguments are those of `luvc bench`."
    )
    parser.add_argument("--out", help="write the JSON here: a path or URL")
    parser.add_argument("--gpus", type=float, help="GPUs to reserve; default: 1 if the cluster has any now, else 0")
    parser.add_argument("--cpus", type=float, help="CPUs to reserve; default: all of the largest node")
    args, rest = parser.parse_known_args(argv)
    if args.out:
        from pipeline.section import expand_url
        from pipeline.storage import check_writable

        args.out = expand_url(args.out)
        check_writable(args.out.rpartition("/")[0])
    code, report = _on_a_node(args.gpus, args.cpus, rest)
    if report:
        from luvc.bench.report import table

        print(table(json.loads(report)))  # noqa: T201 - Ray may not pass on a task's last lines
    if args.out and report:
        from pipeline.storage import write_atomic

        write_atomic(args.out, report)
        print(args.out)  # noqa: T201 - a command line speaks
    return code


def _on_a_node(gpus: float | None, cpus: float | None, arguments: list[str]) -> tuple[int, bytes]:
    """Exit code and report of the benchmark, run as one Ray task."""
    cluster.prepare_environment()
    address = os.environ.get("RAY_ADDRESS", "auto")
    import ray

    try:
        cluster.knock(address)
        ray.init(address=address, logging_level=logging.WARNING)
    except Exception as error:
        raise cluster.explain(error, address) from error
    try:
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        options = {"num_gpus": gpus, "num_cpus": cpus or cpus_of_a_node(ray.nodes(), gpus), "max_retries": 0}
        task = ray.remote(_bench).options(**options).remote(with_defaults(arguments, gpus))
        code, report = ray.get(task)
        return int(code), bytes(report)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BenchmarkFailed(lines[-1] if lines else type(error).__name__) from error
    finally:
        ray.shutdown()


def cpus_of_a_node(nodes: Sequence[dict[str, Any]], gpus: float) -> float:
    """CPUs to reserve: all of the largest node that will do, so that nothing runs beside the benchmark.

    Args:
        nodes: as `ray.nodes()` gives them.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return max((each.get("CPU", 0.0) for each in alive if each.get("GPU", 0.0) >= gpus), default=0.0) or 1.0


def with_defaults(arguments: list[str], gpus: float) -> list[str]:
    """Arguments of `luvc bench`, with shape and device by what was reserved."""
    given = {argument.partition("=")[0] for argument in arguments}
    shape, device = ("gpu", "cuda") if gpus else ("cpu", "cpu")
    return [
        *([] if "--shape" in given else ["--shape", shape]),
        *([] if "--device" in given else ["--device", device]),
        *arguments,
    ]


def _bench(arguments: list[str]) -> tuple[int, bytes]:
    from luvc.bench.command import main as bench

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bench.json")
        try:
            code = bench([*arguments, "--out", str(out)])
        except SystemExit as error:  # wrong arguments; argparse has said which
            code = error.code if isinstance(error.code, int) else 1
        sys.stdout.flush()
        return code, out.read_bytes() if out.exists() else b""
