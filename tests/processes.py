"""What tests ask about processes of this machine."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def ends(pid: int, within_s: float = 60.0) -> bool:
    """Whether the process ends; one that nobody has collected has ended, too."""
    until = time.monotonic() + within_s
    while _alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill_marked(name: str, value: str, within_s: float = 5.0) -> None:
    """SIGKILL for every process that has this variable in its environment, as all children of one that has it do."""
    mark, until = f"{name}={value}".encode(), time.monotonic() + within_s
    while (found := _marked(mark)) and time.monotonic() < until:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _marked(mark: bytes) -> list[int]:
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found
