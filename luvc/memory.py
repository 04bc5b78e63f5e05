"""Memory: what the allocator should keep, numbers on their way to a device, and the highest use so far."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4


def keep_freed_pages() -> bool:
    """Let glibc's allocator keep freed memory for the next tensor instead of returning it to the kernel.

    By default every tensor above 32 MiB is mapped freshly and every free at the heap's end is given back, so that
    each activation of a large batch costs a page fault for every 4 KiB: SiLU on 3,192 x 4,864 bfloat16 values took
    41 ms, of which 38 were faults (benchmarks/notes.md).
    Holds for the whole process; freed memory up to 2 GiB stays with it.

    Returns:
        False where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_MAX, 0)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1) and mallopt(_M_TOP_PAD, 64 << 20))


def on_device(values: Sequence[Any] | Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Host numbers as a tensor on `device`, without waiting for the work queued there.

    CUDA waits for its stream before it copies from ordinary memory, but not before it copies from pinned memory.
    """
    host = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    if device.type != "cuda" or host.is_cuda:
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def peak_bytes(device: torch.device) -> int:
    """Highest memory so far: allocated on a GPU, resident of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
