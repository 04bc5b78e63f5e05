"""One contestant in a process of its own, so that neither memory nor an allocator's habits are shared.

    python -m luvc.bench.worker --shape cpu --contestant generate:4        (or ours:balanced)

Each line on standard input asks for one round: all videos once. Standard output carries one JSON object a line: first
`ready`, after a warm-up round, then one for each round, with `seconds` and the process's peak memory so far.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from luvc.bench.contestants import Generate, Ours
from luvc.bench.setting import SETTINGS, build, videos
from luvc.memory import peak_bytes


def timed(run: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """One round: what the contestant says of it, its seconds, and the peak memory so far."""
    started = time.perf_counter()
    facts = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {**facts, "seconds": time.perf_counter() - started, "peak_bytes": peak_bytes(device)}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SETTINGS, required=True)
    parser.add_argument("--contestant", required=True, help="generate:BATCH or ours:PRESET")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--videos", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--cold", action="store_true", help="no warm-up")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    # Whatever a library prints must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(line: dict[str, Any]) -> None:
        replies.write(json.dumps(line) + "\n")
        replies.flush()

    try:
        setting = SETTINGS[args.shape].resized(args.videos, args.frames)
        device, dtype = torch.device(args.device), getattr(torch, args.dtype)
        model, clips = build(setting, device, dtype), videos(setting, device)
        kind, _, choice = args.contestant.partition(":")
        run = (
            Generate(model, setting, clips, int(choice)) if kind == "generate" else Ours(model, setting, clips, choice)
        )
        if not args.cold:
            run.warm_up()
        reply({"ready": True, "startup_seconds": time.perf_counter() - started, "machine": machine(device, dtype)})
        for _ in sys.stdin:
            reply(timed(run, device))
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        raise
    return 0


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Facts about where it runs."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }


def processor() -> str:
    """Name and number of CPU cores."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return f"{names[0]}, {len(names)} cores" if names else f"{os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
