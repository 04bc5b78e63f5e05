"""What compression does to the embedded model's answers: every setting against no compression, on the same clips.

    python -m benchmarks.embedded_model.compressions --material DIR --out FILE

Held-out scenes of eight frames, answered by the engine. For each setting: how often the main object is named, how
often the answers equal the uncompressed ones, visual tokens (mean over the decoder's layers) and engine seconds.
A first look with a weak model and few clips, not the study: intervals are wide, and it says so.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch

import luvc
from benchmarks.embedded_model.evaluate import CAPTION_QUESTION, OBJECT_QUESTION, names
from benchmarks.embedded_model.sets import SETS
from luvc.engine import Budgets

AT_HALF = {"schedule": "stages", "stages": [[1 / 3, 0.45], [2 / 3, 0.2025], [1.0, 0.0]]}

#: Name -> compression. Presets first, then one thing changed at a time.
SETTINGS: dict[str, Any] = {
    "off": "off",
    "paper": "paper",
    "balanced": "balanced",
    "fast": "fast",
    "OIM 50 %": {"merge": {"keep": 0.5}},
    "OIM 25 %": {"merge": {"keep": 0.25}},
    "OIM 25 %, second half": {"merge": {"keep": 0.25, "first": 0.5, "last": 0.9}},
    "OIM 25 %, by keys": {"merge": {"keep": 0.25, "metric": "key"}},
    "OIM 25 % + random": {"merge": {"keep": 0.25}, "prune": {**AT_HALF, "method": "random"}},
    "ToMe-like 25 %": {"merge": {"method": "tome", "keep": 0.25}},
    "resize 25 %": {"resize": 0.25},
    "SPU channel": {"prune": {**AT_HALF, "axis": "channel"}},
    "SPU sequence": {"prune": {**AT_HALF, "axis": "sequence"}},
    "SPU channel, inverted": {"prune": {**AT_HALF, "axis": "channel", "sign": "low"}},
    "random": {"prune": {**AT_HALF, "method": "random"}},
    "uniform": {"prune": {**AT_HALF, "method": "uniform"}},
    "key norm": {"prune": {**AT_HALF, "method": "key_norm"}},
    "adjacent frames 25 %": {"prune": {"method": "adjacent_frames", "stages": [[0.0, 0.25]]}},
}


def measure(setting: Any, requests: list[luvc.Request], wanted: list[str], off: dict[str, list[str]]) -> dict[str, Any]:
    """Answer all requests with one setting; `off` receives or gives the uncompressed answers."""
    budgets = Budgets(max_new_tokens=24)
    engine = luvc.load("luvc-demo", setting, dtype="float32", device="cpu", budgets=budgets)
    started = time.perf_counter()
    done = {each.id: each for each in engine.generate(requests)}
    wall_s = time.perf_counter() - started
    texts = {key: [answer.text for answer in each.answers] for key, each in done.items()}
    if not off:
        off.update(texts)
    named = [names(texts[item.id][1], name) for item, name in zip(requests, wanted, strict=True)]
    same = [texts[item.id] == off[item.id] for item in requests]
    first = done[requests[0].id].tokens
    share = sum(named) / len(named)
    return {
        "object_named": round(share, 3),
        "named_interval95": round(1.96 * math.sqrt(share * (1 - share) / len(named)), 3),
        "answers_same": round(sum(same) / len(same), 3),
        "merged_tokens": first.merged,
        "mean_layer_tokens": round(first.mean_by_layer, 1),
        "seconds": round(wall_s, 1),
        "encode_s": round(sum(each.times.encode_s for each in done.values()), 1),
        "prefill_s": round(sum(each.times.prefill_s for each in done.values()), 1),
    }


def table(results: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| setting | tokens in, mean of layers | object named | same answers as off | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["settings"].items():
        interval = f"{row['object_named']:.0%} ± {row['named_interval95']:.0%}"
        tokens = f"{row['merged_tokens']}, {row['mean_layer_tokens']:.0f}"
        lines.append(f"| {name} | {tokens} | {interval} | {row['answers_same']:.0%} | {row['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all settings and print, or write, the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--material", type=Path, required=True, help="folder made by benchmarks.exact.material")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, help="these settings (and off); others stay in --out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    entry = SETS["held_out_scenes"]
    scenes = [entry.scene(args.material, seed) for seed in entry.seeds[: args.clips]]
    requests = []
    for scene in scenes:
        frames, _ = entry.draw(args.material, scene.seed)
        requests.append(luvc.Request(str(scene.seed), [CAPTION_QUESTION, OBJECT_QUESTION], frames))
    off: dict[str, list[str]] = {}
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()} CPU, {args.threads} threads, float32",
        "clips": len(scenes),
        "settings": {},
    }
    results["settings"] = (
        json.loads(args.out.read_text())["settings"] if args.only and args.out and args.out.is_file() else {}
    )
    for name, setting in SETTINGS.items():
        if args.only and name not in ("off", *args.only):
            continue
        results["settings"][name] = measure(setting, requests, [scene.main.cutout.name for scene in scenes], off)
        print(name, results["settings"][name], flush=True)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
