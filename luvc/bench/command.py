"""Engine against transformers' `generate` (and vLLM) on the same inputs: one table, one JSON, one chart.

    python -m luvc.bench --shape cpu            # or: luvc bench --shape gpu --device cuda

Random weights in the shape of a real model, the same uint8 frames for all, every answer exactly as long. Every
contestant runs in a process of its own and starts with a warm-up round. On a CPU they are timed in turns, round by
round, and compared by the median of the rounds' ratios, because machines are shared and noisy; on a GPU one after the
other, because each wants its memory. transformers runs at its best batch size, and its input is laid out in patches
outside the clock; ours and vLLM's is not. Needs torch and transformers only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luvc.bench.process import Contestant, ContestantFailed
from luvc.bench.report import chart, rates, summarise, table
from luvc.bench.setting import SETTINGS
from luvc.compression import PRESETS

BATCHES = (1, 4, 8, 16)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="luvc bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SETTINGS, default="cpu", help="model and inputs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=int, help="instead of the setting's number")
    parser.add_argument("--frames", type=int, help="of a video, instead of the setting's number")
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    parser.add_argument(
        "--batches", type=int, nargs="*", default=list(BATCHES), help="of transformers; the best counts"
    )
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM: it takes part, too")
    parser.add_argument("--out", type=Path, help="write the JSON here, and the chart beside it")
    args = parser.parse_args(argv)
    try:
        report = bench(args, say)
    except ContestantFailed as error:
        say(f"error: {error}")
        return 1
    say(table(report))
    say(rates(report))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".svg").write_text(chart(report), encoding="utf-8")
    return 0


def bench(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark; returns the report that is written as JSON."""
    setting = SETTINGS[args.shape].resized(args.videos, args.frames)
    common = ["--shape", args.shape, "--device", args.device, "--dtype", args.dtype]
    common += ["--videos", str(setting.videos), "--frames", str(setting.frames)]

    def worker(kind: str, *more: str) -> Contestant:
        return Contestant([sys.executable, "-m", "luvc.bench.worker", *common, "--contestant", kind, *more])

    with tempfile.TemporaryDirectory() as scratch:
        contestants: dict[str, Callable[[], Contestant]] = {}
        best = 0
        if args.batches:
            best = _best_batch([size for size in args.batches if size <= setting.videos], worker, setting.videos, say)
            contestants["transformers"] = lambda: worker(f"generate:{best}")
        if args.vllm_python:
            for name, rate in (("vllm", 0.0), ("vllm EVS 25 %", 0.75)):
                line = _vllm_command(args, Path(scratch), rate)
                contestants[name] = lambda line=line: Contestant(line)  # type: ignore[misc]
        for preset in args.presets:
            contestants[preset] = lambda preset=preset: worker(f"ours:{preset}")  # type: ignore[misc]
        rounds = _in_turns if args.device == "cpu" else _one_by_one
        timings = rounds(contestants, args.rounds, say)
    report = summarise(timings, setting)
    report["best_batch"] = best
    report["date"] = f"{datetime.now(UTC):%Y-%m-%d}"
    return report


def _best_batch(
    sizes: Sequence[int], worker: Callable[..., Contestant], videos: int, say: Callable[[str], None]
) -> int:
    seconds = {}
    for size in sizes:
        with worker(f"generate:{size}", "--cold") as contestant:  # a first call adds a second to a minute
            seconds[size] = contestant.round()["seconds"]
        say(f"transformers, batch {size}: {videos / seconds[size]:.3f} videos/s")
    return min(seconds, key=seconds.__getitem__)


def _in_turns(
    contestants: dict[str, Callable[[], Contestant]], rounds: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    started: dict[str, Contestant] = {}
    timings: dict[str, dict[str, Any]] = {name: {"rounds": []} for name in contestants}
    try:
        for name, start in contestants.items():
            started[name] = start()
            timings[name]["ready"] = started[name].ready()  # one at a time: they share the cores
        for index in range(rounds):
            for name, contestant in started.items():
                timings[name]["rounds"].append(contestant.round())
            seconds = ", ".join(f"{name} {timings[name]['rounds'][-1]['seconds']:.2f} s" for name in contestants)
            say(f"round {index + 1}: {seconds}")
    finally:
        for contestant in started.values():
            contestant.close()
    return timings


def _one_by_one(
    contestants: dict[str, Callable[[], Contestant]], rounds: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    timings: dict[str, dict[str, Any]] = {}
    for name, start in contestants.items():
        with start() as contestant:
            timings[name] = {"ready": contestant.ready(), "rounds": [contestant.round() for _ in range(rounds)]}
        say(f"{name}: " + ", ".join(f"{each['seconds']:.2f} s" for each in timings[name]["rounds"]))
    return timings


def _vllm_command(args: argparse.Namespace, scratch: Path, pruning_rate: float) -> list[str]:
    import numpy as np
    import torch

    from luvc.bench import vllm_worker
    from luvc.bench.checkpoint import save_for_vllm
    from luvc.bench.setting import build, videos

    setting = SETTINGS[args.shape].resized(args.videos, args.frames)
    folder, clips = scratch / "model", scratch / "clips.npz"
    if not folder.exists():
        device = torch.device("cpu")
        save_for_vllm(build(setting, device, getattr(torch, args.dtype)), folder)
        np.savez(clips, clips=torch.stack(videos(setting, device)).numpy())
    options = {
        "--model": folder,
        "--clips": clips,
        "--new-tokens": setting.new_tokens,
        "--batch": setting.videos,
        "--pruning-rate": pruning_rate,
        "--dtype": args.dtype,
        "--kv-bytes": (40 if args.device != "cpu" else 2) << 30,
    }
    return [args.vllm_python, vllm_worker.__file__, *(str(part) for pair in options.items() for part in pair)]


def say(line: str) -> None:
    """Print at once: a round can take minutes."""
    print(line, flush=True)  # noqa: T201 - a command line speaks
