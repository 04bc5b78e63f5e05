"""Python that runs in a process of its own, because importing or trying it may crash or hang.

A probe prints one JSON object; a process that dies instead is an answer too. Loads nothing itself.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import children

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Probe:
    """What a child process found: its facts, or why it could not say."""

    facts: Mapping[str, Any] | None
    error: str = ""


def probe(code: str, deadline_s: float = DEADLINE_S) -> Probe:
    """Run Python `code` in its own process; it prints one JSON object as its last line."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = children.run(command, deadline_s)  # a broken GPU driver can hang a process for good
    except subprocess.TimeoutExpired:
        return Probe(None, f"no answer within {deadline_s:g} s")
    if done.returncode < 0:
        return Probe(None, f"crashed with {signal.Signals(-done.returncode).name}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        facts = json.loads(last)
    except ValueError:
        facts = None
    if done.returncode == 0 and isinstance(facts, dict):
        return Probe(facts)
    return Probe(None, (done.stderr.strip().splitlines() or ["no output"])[-1])


AV = """
import av, io, json
import numpy as np
av.logging.set_level(None)
def tried(encoder):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream(encoder, rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for level in %(levels)r:
            frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), level, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as source:
        means = [float(frame.to_ndarray(format="rgb24").mean()) for frame in source.decode(video=0)]
    right = len(means) == len(%(levels)r) and all(abs(m - w) < 12 for m, w in zip(means, %(levels)r))
    return "right" if right else f"wrong frames: {means}"
codecs = {}
for name, encoder in %(codecs)r.items():
    if name not in av.codecs_available:
        codecs[name] = "no decoder"
    elif encoder not in av.codecs_available:
        codecs[name] = "untried"
    else:
        try:
            codecs[name] = tried(encoder)
        except Exception as error:
            codecs[name] = f"{type(error).__name__}: {error}"
lib = av.library_versions
print(json.dumps({"version": av.__version__, "codecs": codecs,
    "libavcodec": ".".join(map(str, lib["libavcodec"])), "libavformat": ".".join(map(str, lib["libavformat"]))}))
"""

TORCH = """
import json, torch
from luvc import backends, loading
device = loading._device("auto")
dtype = loading._dtype("auto", device)
found = {name: backends.tried(name, device, dtype) for name in backends.BACKENDS}
attention = {name: each if isinstance(each, str) else "" for name, each in found.items()}
uses = backends.choose("auto", device, dtype).name
gpus = []
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        gpus.append({"name": facts.name, "bytes": facts.total_memory, "capability": f"{facts.major}.{facts.minor}"})
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus, "attention": attention,
    "uses": uses, "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}))
"""

IMPORT = """
import importlib, json
module = importlib.import_module(%(name)r)
print(json.dumps({"version": str(getattr(module, "__version__", ""))}))
"""


VLLM = """
import json, vllm
from vllm import LLMEngine
print(json.dumps({"version": vllm.__version__}))
"""
