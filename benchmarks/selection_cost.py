"""What choosing tokens costs against the work it saves: mergers against the encoder, pruners against the prefill.

    python -m benchmarks.selection_cost [--device cuda] [--frames 32] [--rounds 7]

Random weights in the shape of a Qwen2.5-VL small enough for a CPU (vision 12x384, language model 16x896). Each round
times the uncompressed stage and the selection alone, back to back; the figures are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch

import luvc
from luvc import attention
from luvc.bench.setting import SETTINGS, build
from luvc.compression import PRUNE_METHODS, Compression
from luvc.families import FAMILIES
from luvc.methods.candidates import Candidates
from luvc.methods.oim import UnitGrid, merge_axis
from luvc.methods.select import select
from luvc.methods.tome import merge_any
from luvc.preprocess import Normalisation


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@torch.inference_mode()
def main() -> None:
    """Measure and print; JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = build(SETTINGS["cpu"], device, dtype)
    family = FAMILIES["qwen2_5_vl"]
    runtime = family.runtime(model, None, Normalisation())
    model.set_attn_implementation(attention.NAME)
    grid = family.grid(runtime.shape, args.frames, 224, 224)
    off = luvc.schedule(runtime.shape, grid, "off")
    frames = torch.randint(0, 256, (args.frames, 224, 224, 3), dtype=torch.uint8, device=device)
    hidden = torch.randn(1, grid.units + 40, 896, device=device, dtype=dtype)
    units = torch.randn(grid.frames, grid.height, grid.width, 4, 384, device=device, dtype=dtype)

    def encode() -> object:
        return runtime.encode([frames], [off], 16384)

    def prefill() -> object:
        positions = torch.arange(hidden.shape[1], device=device).expand(3, 1, -1)
        return model.model.language_model(inputs_embeds=hidden, position_ids=positions, use_cache=False)

    def oim() -> object:
        merged = UnitGrid.fresh(units)
        for step in luvc.schedule(runtime.shape, grid, {"merge": {"keep": 0.25}}).merge_steps:
            merged = merge_axis(merged, step.axis, step.after)
        return merged

    def tome() -> object:
        merged = UnitGrid.fresh(units)
        for step in luvc.schedule(runtime.shape, grid, {"merge": {"method": "tome"}}).merge_steps:
            merged = merge_any(merged, step.after)
        return merged

    place = torch.arange(grid.units, device=device)
    layer = runtime.decoder.model.layers[0]

    def prune(settings: dict[str, object]) -> Callable[[], object]:
        chosen = Compression.from_any({"prune": settings}).prune
        assert chosen is not None
        visual = hidden[0, : grid.units]

        def once() -> None:
            alive, where = visual, place
            for count in sorted(set(luvc.schedule(runtime.shape, grid, {"prune": settings}).layer_tokens))[::-1][1:]:
                frame = (grid.height * grid.width,)
                candidates = Candidates(alive, where, (len(alive),), (grid.units,), frame, layer)
                index = select(candidates, (count,), chosen)
                alive, where = alive[index], where[index]

        return once

    cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {"oim": (oim, encode), "tome": (tome, encode)}
    for axis in ("channel", "sequence"):
        for kind in ("dct", "fir"):
            cases[f"spu {axis} {kind}"] = (prune({"axis": axis, "filter": kind}), prefill)
    cases |= {name: (prune({"method": name}), prefill) for name in PRUNE_METHODS if name != "spu"}
    report = {}
    print(f"{args.frames} frames of 224x224, {grid.units} visual tokens, three stages of pruning, {device}, {dtype}")
    print(f"{'method':<22}{'selection':>12}{'stage':>12}{'share':>9}")
    for name, (selection, stage) in cases.items():
        selection(), stage()
        pairs = [(timed(selection, device), timed(stage, device)) for _ in range(args.rounds)]
        share = statistics.median(a / b for a, b in pairs)
        chosen_s, stage_s = (statistics.median(side) for side in zip(*pairs, strict=True))
        report[name] = {"selection_s": chosen_s, "stage_s": stage_s, "share": share}
        print(f"{name:<22}{chosen_s * 1e3:>9.2f} ms{stage_s * 1e3:>9.1f} ms{share:>9.2%}")
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({"machine": machine, "torch": torch.__version__, "methods": report}))


if __name__ == "__main__":
    main()
