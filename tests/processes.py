"""What tests ask about processes of this machine."""

from __future__ import annotations

import time
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
