"""Child processes that are never waited for without a bound.

`subprocess.run(timeout=...)` kills a late child and then waits for it for ever: for one that hangs inside the kernel
(a GPU driver, a broken file system), which no signal ends, and for the pipes of its own children. Here a child has a
session of its own and writes to files; whoever is late is killed with its whole process group, and who is still there
a few seconds later is left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

PATIENCE_S = 5.0


class Child:
    """One process with its group.

    Args:
        command, cwd, env: as `subprocess.Popen` has them.
        text: what it reads; nothing by default.
    """

    def __init__(
        self,
        command: Sequence[str],
        text: str = "",
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self._stdout: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - live as long as this object
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as stdin:
            stdin.write(text.encode())
            stdin.seek(0)
            self.process = subprocess.Popen(
                self.command,
                stdin=stdin,
                stdout=self._stdout,
                stderr=self._stderr,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )

    def wait(self, timeout_s: float) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it was late, and is killed; has what it printed.
        """
        try:
            return self.process.wait(timeout_s)
        except BaseException as error:
            self.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                error.stdout, error.stderr = self.stdout.encode(), self.stderr.encode()
            raise

    def kill(self) -> bool:
        """Kill its group; whether it is gone within `PATIENCE_S`. Safe to call twice."""
        kill_group(self.process)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)
        return self.process.returncode is not None

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return _read(self._stdout)

    @property
    def stderr(self) -> str:
        """What it has complained of so far."""
        return _read(self._stderr)


def run(
    command: Sequence[str],
    timeout_s: float = 120.0,
    text: str = "",
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or kill it.

    Raises:
        subprocess.TimeoutExpired: after `timeout_s`, and `PATIENCE_S` more where it cannot be killed.
        subprocess.CalledProcessError: its exit code is not 0, and `check` asks for that.
    """
    child = Child(command, text, cwd, env)
    code = child.wait(timeout_s)
    if check and code:
        failed = subprocess.CalledProcessError(code, child.command, child.stdout, child.stderr)
        failed.add_note(child.stderr[-3000:])
        raise failed
    return subprocess.CompletedProcess(child.command, code, child.stdout, child.stderr)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the group that the process, started with `start_new_session`, leads."""
    # The group outlives its leader, and its number is not given away before all of it is gone.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(file: IO[bytes]) -> str:
    # The file's offset is shared with the child, which goes on writing where it stood.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
