"""Decoders that go wrong for videos with certain names. Run inside decode workers, not in the tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.decode import decode_unit
from pipeline.decode.protocol import DecodedClip, DecodeSettings
from pipeline.decode.pyav import decode
from pipeline.errors import PermissionDenied, StorageError


def by_name(unit: Mapping[str, Any], settings: DecodeSettings, options: Mapping[str, Any]) -> DecodedClip:
    """Called in the decode worker's own process."""
    name = Path(unit["uri"]).stem
    if name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(3600)
    if name == "forbidden":  # as root a file's mode forbids nothing
        raise PermissionDenied(f"{unit['uri']}: no permission to read")
    if name == "flaky" and _first_time(unit["uri"]):
        raise StorageError(f"{unit['uri']}: 503 Slow Down")
    return decode(unit, settings, options)


def in_ray_worker(unit: Mapping[str, Any], settings: DecodeSettings, storage_options: Mapping[str, Any]) -> DecodedClip:
    """Called in Ray's worker process in place of `decode_unit`."""
    name = Path(unit["uri"]).stem
    if name == "kills-worker" or (name == "kills-worker-once" and _first_time(unit["uri"])):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_unit(unit, settings, storage_options, decoder="tests.faults.decoders:by_name")


def _first_time(uri: str) -> bool:
    memory = Path(uri + ".seen")
    if memory.exists():
        return False
    memory.touch()
    return True
