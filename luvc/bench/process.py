"""A contestant's process, seen from outside: one line in, one JSON object out."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


class ContestantFailed(Exception):
    """A contestant ended or reported an error."""


class Contestant:
    """Starts a worker; `round` runs all videos once.

    Args:
        command: that speaks the protocol of `luvc.bench.worker`. Its standard error is passed through when it fails.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        # A file, not a pipe: nobody reads it unless something goes wrong, and a full pipe would stop the worker.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1
        )
        self._ready: dict[str, Any] | None = None

    def ready(self) -> dict[str, Any]:
        """Wait for the end of its warm-up."""
        if self._ready is None:
            self._ready = self._reply()
        return self._ready

    def round(self) -> dict[str, Any]:
        """One timed round; at least `seconds` and `peak_bytes`."""
        self.ready()
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._kill()
        self._log.close()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _kill(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that hangs in a GPU's driver is left behind
            self._process.wait(timeout=30)

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"error": "it ended without an answer"}
        if "error" in reply:
            self._kill()
            self._log.seek(0)
            raise ContestantFailed(f"{' '.join(self.command)}: {reply['error']}\n{self._log.read()[-4000:]}")
        return reply
