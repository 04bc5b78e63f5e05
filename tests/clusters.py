"""A Ray cluster of this machine for tests: a head with its dashboard on loopback, asking for a token."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TOKEN = "test-" + "0123456789abcdef" * 2
START_S = 180.0


@dataclass(frozen=True)
class Head:
    """A running head node.

    Attributes:
        dashboard: URL of its dashboard.
        gcs: address for `ray.init`.
        token: what it asks for.
        env: environment for processes that may use it.
    """

    dashboard: str
    gcs: str
    token: str
    env: dict[str, str]


@contextmanager
def head(cpus: int = 2) -> Iterator[Head]:
    """Start a head; every process of it is gone at the end."""
    # Sockets below this folder have names of at most 107 characters, so it cannot be pytest's.
    folder = tempfile.mkdtemp(prefix="luvc-ray-", dir="/tmp")
    port, dashboard, client, agent = _free_ports(4)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "PYTHONPATH"}
    env |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = ["ray", "start", "--head", "--block", f"--temp-dir={folder}", f"--num-cpus={cpus}"]
    command += [f"--port={port}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += ["--object-store-memory=200000000", "--disable-usage-stats"]
    log = Path(folder, "start.log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        _wait_for(url, process, log)
        yield Head(url, f"127.0.0.1:{port}", TOKEN, env)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        for pid in _processes(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        with suppress(urllib.error.URLError, OSError):
            opener.open(request, timeout=5)
            return
        time.sleep(0.3)
    raise RuntimeError(f"no Ray head at {url}:\n{log.read_text(errors='replace')[-3000:]}")


def _processes(folder: str) -> list[int]:
    """Processes whose command line names this cluster's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if folder.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                found.append(int(entry.parent.name))
    return found
