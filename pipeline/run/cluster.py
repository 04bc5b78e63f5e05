"""Connects to Ray: the cluster a configuration names, the one this job runs in, or a local one.

Every way this can go wrong ends in one readable line.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from luvc.errors import LuvcError
from pipeline.config import RunConfig

_ROOT = Path(__file__).resolve().parents[2]


KNOCK_S = 10.0


class ClusterError(LuvcError):
    """Ray cannot be reached or started."""


@contextmanager
def connected(config: RunConfig, verbose: bool = False) -> Iterator[None]:
    """Inside: a connection to Ray. One that was there before is used and left open.

    Raises:
        ClusterError: no cluster can be reached or started.
    """
    prepare_environment()
    address = _address(config.run.ray_address)
    if address:
        _use_token()
    import ray

    if ray.is_initialized():
        yield
        return
    with _messages_aside(not verbose):
        _connect(ray, address, config, verbose)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str | None, config: RunConfig, verbose: bool) -> None:
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            knock(address)
            ray.init(address=address, runtime_env=_runtime_env(), **quiet)
        else:
            ray.init(address="local", num_cpus=local_cpus(config), include_dashboard=False, **quiet)
    except Exception as error:
        raise explain(error, address) from error
    _warn_if_too_small(ray, config)


def local_cpus(config: RunConfig) -> int:
    """Logical CPUs of a local Ray: the machine's, but enough for all engine actors and one decoder to exist."""
    needed = config.run.model_cpus + config.run.decode_cpus
    return max(os.cpu_count() or 1, math.ceil(needed))


def explain(error: Exception, address: str | None) -> ClusterError:
    """What failed and what to do, in a line."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
    where = f"the Ray cluster at {address}" if address else "a local Ray"
    if any(word in str(error).lower() for word in ("token", "unauthenticated", "unauthorized", "401")):
        return ClusterError(
            f"{where} asks for a token that this process does not have ({first})",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with the token; "
            "`ray get-auth-token` prints it on the head node",
        )
    if address:
        return ClusterError(
            f"cannot connect to {where}: {first}",
            "is it running? `ray start` clusters ask for a token: set RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN if the "
            "cluster is on another machine), or run.ray_address=local",
        )
    return ClusterError(f"cannot start {where}: {first}", "is there memory, and space in /tmp and /dev/shm?")


def _address(asked: str) -> str | None:
    """Address of a cluster, or None for a local Ray."""
    if asked == "local":
        return None
    if asked != "auto":
        return asked
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    # `ray start` leaves the address here; a Ray that some script started inside itself does not. The file outlives a
    # cluster that was killed.
    with suppress(OSError):
        found = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster").read_text()
        knock(found.strip())
        return found.strip() or None
    return None


def knock(address: str) -> None:
    """Ray itself waits for minutes where nobody listens. Raises OSError."""
    host, _, port = address.rpartition(":")
    if "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _use_token() -> None:
    """Who names a token means it; Ray's client wants to be told a second time.

    A token file in the home folder says nothing: a local Ray makes one, and offering it to a cluster without tokens
    breaks the run in the middle.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def prepare_environment() -> None:
    """Settings that have to stand before Ray is imported. Workers inherit them."""
    # Workers import this package; when it is not installed, tell them where it is.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if not _installed() and str(_ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, paths)])
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _installed() -> bool:
    spec = importlib.util.find_spec("pipeline")
    origin = Path(spec.origin).resolve() if spec and spec.origin else _ROOT
    return any(part in ("site-packages", "dist-packages") for part in origin.parts)


def _runtime_env() -> dict[str, Any] | None:
    """Ships this package to a cluster, unless it is installed there as it is here, or came with the Ray job."""
    if _installed() or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    import luvc
    import pipeline

    return {"py_modules": [luvc, pipeline]}


def _warn_if_too_small(ray: Any, config: RunConfig) -> None:
    have = ray.cluster_resources().get("CPU", 0)
    needed = config.run.model_cpus + config.run.decode_cpus
    if have < needed:
        print(  # noqa: T201 - a person should see it while the run waits
            f"warning: the run needs {needed:g} CPUs to start, the cluster has {have:g}; waiting for more",
            file=sys.stderr,
        )


@contextmanager
def _messages_aside(active: bool) -> Iterator[None]:
    """Keeps what Ray prints for its developers off the terminal: it goes to a file, which stays if the run breaks.

    Ray's C++ core writes to file descriptor 2 and its listener thread to `sys.stdout`, whatever the log level. Python's
    own `sys.stderr`, where this program speaks, keeps the terminal.
    """
    python_stderr = sys.__stderr__
    if not active or python_stderr is None or python_stderr is not sys.stderr:
        yield
        return
    path = Path(tempfile.gettempdir(), f"luvc-ray-{os.getpid()}.log")
    python_stderr.flush()
    terminal = os.dup(2)
    with path.open("a", encoding="utf-8", errors="replace") as log:
        os.dup2(log.fileno(), 2)
        sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=python_stderr.encoding, errors="replace")
        try:
            with redirect_stdout(log):
                yield
        except BaseException:
            print(f"Ray's own messages: {path}", file=sys.stderr)  # noqa: T201 - for whoever looks for the cause
            raise
        else:
            path.unlink(missing_ok=True)
        finally:
            sys.stderr.close()
            sys.stderr = python_stderr
            os.dup2(terminal, 2)
            os.close(terminal)


def devices() -> dict[str, float]:
    """CPUs and GPUs of the cluster this process is connected to: what a run holds, and what is paid for."""
    import ray

    total = ray.cluster_resources()
    return {"cpus": total.get("CPU", 0.0), "gpus": total.get("GPU", 0.0)}
