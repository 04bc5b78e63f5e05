"""How busy an engine's GPUs are, asked of NVML now and then. Nothing where there is no GPU or no `nvidia-ml-py`.

Pure but for the library and the thread, which are given. Knows nothing of Ray.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from typing import Any

from pipeline.run import meters
from pipeline.run.telemetry import Record

PERIOD_S = 5.0


def nvml() -> Any | None:
    """The NVML library, started; None where it or its driver is missing."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:  # noqa: BLE001 - no package, no driver, no permission: then there is nothing to watch
        return None
    return library


def sample(library: Any, gpus: Sequence[str], record: Record) -> None:
    """Record utilisation and memory of GPUs, named by index or UUID as Ray does."""
    for gpu in gpus:
        device = (
            library.nvmlDeviceGetHandleByIndex(int(gpu))
            if gpu.isdigit()
            else library.nvmlDeviceGetHandleByUUID(gpu.encode())
        )
        record(meters.GPU_UTILIZATION, library.nvmlDeviceGetUtilizationRates(device).gpu / 100, gpu=gpu)
        record(meters.GPU_MEMORY_BYTES, library.nvmlDeviceGetMemoryInfo(device).used, gpu=gpu)


def watch(gpus: Sequence[str], record: Record, period_s: float = PERIOD_S) -> threading.Event | None:
    """Sample from a thread of its own until the event that is returned is set; None if there is nothing to watch."""
    library = nvml() if gpus else None
    if library is None:
        return None
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(period_s):
            try:
                sample(library, gpus, record)
            except Exception:  # noqa: BLE001 - a driver that stops answering must not cost an answer
                return

    threading.Thread(target=loop, name="gpu-watch", daemon=True).start()
    return stop
