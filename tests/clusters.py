"""A Ray cluster of this machine for tests: a head with its dashboard on loopback, worker nodes, asking for a token."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.children import Child
from tests.processes import kill_marked

TOKEN = "test-" + "0123456789abcdef" * 2
START_S = 180.0
#: A raylet waits 15 seconds for an agent that chooses its ports itself, too short on a busy machine, where even one
#: with given ports may need a second try.
TRIES = 3
_AGENT_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
)
_MARK = "LUVC_TEST_NODE"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Node:
    """One `ray start` with all its processes.

    Not with `--block`: then the death of any of them, of the server for Ray Client, too, is the end of all.
    """

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        self._mark = uuid.uuid4().hex
        command = ["ray", "start", "--object-store-memory=200000000", "--disable-usage-stats", *arguments]
        command += [f"--{name}={port}" for name, port in zip(_AGENT_PORTS, _free_ports(4), strict=True)]
        self.starting = Child(command, env=env | {_MARK: self._mark})

    def kill(self) -> None:
        """As a machine that is taken away: no process of it has time for anything."""
        kill_marked(_MARK, self._mark)
        self.starting.kill()


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        folder: of Ray's files.
        dashboard: URL of its dashboard.
        gcs: address for `ray.init`.
        token: what it asks for.
        env: environment for processes that may use it.
    """

    folder: Path
    dashboard: str
    gcs: str
    token: str
    env: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    def add_worker(self, cpus: int) -> Node:
        """A node more; returns when the cluster counts it."""
        there = len(self.alive())
        arguments = [f"--address={self.gcs}", f"--num-cpus={cpus}"]
        return self._start(arguments, lambda: len(self.alive()) > there)

    def start_head(self, arguments: list[str]) -> None:
        """The first node."""
        self._start(["--head", f"--temp-dir={self.folder}", *arguments], lambda: bool(self.alive()))

    def _start(self, arguments: list[str], ready: Callable[[], bool]) -> Node:
        for _ in range(TRIES):
            node = Node(arguments, self.env)
            self.nodes.append(node)
            with suppress(subprocess.TimeoutExpired):
                until = time.monotonic() + START_S
                while node.starting.wait(START_S) == 0 and time.monotonic() < until:
                    if ready():
                        return node
                    time.sleep(0.3)
            node.kill()
        raise RuntimeError(
            f"no Ray node after {TRIES} tries:\n{node.starting.stdout[-2000:]}{node.starting.stderr[-2000:]}"
        )

    def alive(self) -> list[dict[str, Any]]:
        """Nodes that are alive, as the state API has them."""
        with suppress(urllib.error.URLError, OSError):
            request = urllib.request.Request(
                f"{self.dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {self.token}"}
            )
            with _OPENER.open(request, timeout=10) as answer:
                nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
            return [node for node in nodes if node["state"] == "ALIVE"]
        return []

    def metrics(self) -> list[str]:
        """What Prometheus would read now, one text for each node that it is told of."""
        listed = json.loads((self.folder / "prom_metrics_service_discovery.json").read_text())
        texts = []
        for target in sorted({target for group in listed for target in group["targets"]}):
            with suppress(urllib.error.URLError, OSError), _OPENER.open(f"http://{target}/metrics", timeout=10) as page:
                texts.append(page.read().decode())
        return texts


@contextmanager
def cluster(cpus: int = 2, workers: tuple[int, ...] = ()) -> Iterator[Cluster]:
    """Start a head with `cpus` and a node more for each of `workers`; every process of it is gone at the end."""
    # Sockets below this folder have names of at most 107 characters, so it cannot be pytest's.
    folder = Path(tempfile.mkdtemp(prefix="luvc-ray-", dir="/tmp"))
    port, dashboard, client = _free_ports(3)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "PYTHONPATH"}
    env |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(int(START_S)),
        "OMP_NUM_THREADS": "1",
    }
    arguments = [
        f"--num-cpus={cpus}",
        f"--port={port}",
        f"--ray-client-server-port={client}",
    ]
    arguments += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    made = Cluster(folder, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", TOKEN, env)
    try:
        made.start_head(arguments)
        for more in workers:
            made.add_worker(more)
        yield made
    finally:
        for node in reversed(made.nodes):
            node.kill()
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
