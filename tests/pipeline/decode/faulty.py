"""Decoders that misbehave, for the worker to survive: named by "tests.pipeline.decode.faulty:<function>"."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.decode.protocol import DecodedClip, DecodeSettings
from pipeline.errors import CorruptVideo


def _clip(unit: Mapping[str, Any], value: int) -> DecodedClip:
    count = len(unit["timestamps_s"])
    frames = np.full((count, unit["frame_height_px"], unit["frame_width_px"], 3), value, np.uint8)
    return DecodedClip(frames, tuple(unit["timestamps_s"]), count, count, 0, 0.0)


def good(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    """Pictures whose level is the number in the unit's uri."""
    return _clip(unit, int(unit["uri"].rsplit("-", 1)[-1]))


def slow(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    time.sleep(0.2)
    return good(unit, settings, options)


def hang(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    time.sleep(3600)
    raise AssertionError


def segfault(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    ctypes.string_at(0)
    raise AssertionError


def leave(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    os._exit(7)


def eat_memory(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    hoard = [np.ones(32 * 1024**2, np.uint8) for _ in range(1000)]
    raise AssertionError(len(hoard))


def refuse(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    raise CorruptVideo("no good", "really")


def surprise(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    raise KeyError("what")


def chatty(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    print("this must not get between the frames" * 100, flush=True)
    os.write(1, b"nor this" * 100)
    return good(unit, settings, options)


def environment(unit: Mapping[str, Any], settings: DecodeSettings, options: Any) -> DecodedClip:
    """Fails with the names of heavy modules that the worker imported."""
    import sys

    raise CorruptVideo(",".join(name for name in ("torch", "ray", "transformers") if name in sys.modules))
