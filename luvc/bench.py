"""Engine against transformers' `generate` on the same inputs: one table, one JSON.

    python -m luvc.bench --shape cpu            # or: luvc bench --shape gpu --device cuda

Random weights in the shape of a real model, the same uint8 frames for all, every answer exactly as long. Rivals and
presets are timed in turns, round by round, and compared by the median of the rounds' ratios, because machines are
shared and noisy. transformers runs at its best batch size; its input layout is prepared outside the clock.
Needs torch and transformers only.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import luvc
from luvc import attention
from luvc.compression import PRESETS, Compression
from luvc.engine import Budgets, Engine
from luvc.families import family_of
from luvc.preprocess import Normalisation, normalise

PROMPT = tuple(range(100, 140))  # 40 text tokens around the video


@dataclass(frozen=True)
class Setting:
    """One benchmark: a model's shape and the inputs.

    Attributes:
        vision, text: fields of transformers' Qwen2.5-VL configurations.
        videos, frames, frame_px, new_tokens: the work.
    """

    vision: dict[str, Any]
    text: dict[str, Any]
    videos: int
    frames: int
    frame_px: int
    new_tokens: int


SETTINGS = {
    "tiny": Setting(
        dict(depth=4, hidden_size=64, intermediate_size=128, num_heads=4, fullatt_block_indexes=[1, 3]),
        dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128),
        *(4, 4, 112, 4),
    ),
    "cpu": Setting(
        dict(depth=12, hidden_size=384, intermediate_size=1536, num_heads=6, fullatt_block_indexes=[2, 5, 8, 11]),
        dict(
            hidden_size=896,
            num_hidden_layers=16,
            num_attention_heads=14,
            num_key_value_heads=2,
            intermediate_size=4864,
        ),
        *(16, 32, 224, 32),
    ),
    "gpu": Setting(
        dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, fullatt_block_indexes=[7, 15, 23, 31]),
        dict(
            hidden_size=3584,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            intermediate_size=18944,
            vocab_size=152064,
        ),
        *(64, 64, 448, 128),
    ),
}


class _Tokenizer:
    """The engine's tokenizer with random weights: one prompt, and text of no meaning."""

    chat_template = None
    all_special_tokens: tuple[str, ...] = ()

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return ""

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [*PROMPT[:20], 3, *PROMPT[20:]]}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return " ".join(map(str, ids))


@dataclass
class Timing:
    """Rounds of one contestant.

    Attributes:
        seconds: of each round, all videos.
        peak_bytes: highest memory above that before the round.
        stages: seconds in encoder, prefill and decode of the last round.
        tokens: visual tokens of one video before, after merging, and in the mean of the layers.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)


def build(setting: Setting, device: torch.device, dtype: torch.dtype) -> Any:
    """A Qwen2.5-VL of random weights on `device`."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    head_dim = setting.text["hidden_size"] // setting.text["num_attention_heads"]
    section = [head_dim // 8, head_dim * 3 // 16, head_dim * 3 // 16]
    text = {
        "vocab_size": 32000,
        **setting.text,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {**setting.vision, "out_hidden_size": setting.text["hidden_size"]}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=2,
        video_token_id=3,
        vision_start_token_id=4,
        vision_end_token_id=5,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None  # every answer is exactly as long
    return model


def videos(setting: Setting, device: torch.device) -> list[Tensor]:
    """uint8 `[frames, px, px, 3]`, smooth noise, different for each video."""
    made = []
    for seed in range(setting.videos):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(setting.frames, 3, 8, 8, generator=generator) * 255
        frames = torch.nn.functional.interpolate(coarse, size=(setting.frame_px,) * 2, mode="bilinear")
        made.append(frames.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().to(device))
    return made


class Generate:
    """transformers' greedy `generate` in batches of `size`."""

    def __init__(self, model: Any, setting: Setting, clips: Sequence[Tensor], size: int) -> None:
        self.model, self.setting, self.size = model, setting, size
        patches = [_patches(clip, model.dtype) for clip in clips]
        self.batches = [patches[start : start + size] for start in range(0, len(patches), size)]
        edge = setting.frame_px // 14
        self.grid = [(setting.frames + 1) // 2, edge, edge]
        visual = self.grid[0] * edge * edge // 4
        self.ids = torch.tensor([[*PROMPT[:20], *[3] * visual, *PROMPT[20:]]], device=clips[0].device)
        self.visual = visual

    @torch.inference_mode()
    def __call__(self) -> dict[str, float]:
        for batch in self.batches:
            ids = self.ids.expand(len(batch), -1)
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == 3) * 2,
                pixel_values_videos=torch.cat(batch),
                video_grid_thw=torch.tensor([self.grid] * len(batch), device=ids.device),
                do_sample=False,
                max_new_tokens=self.setting.new_tokens,
            )
        return {}


def _patches(clip: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels as the stock processor lays them out, `[patches, channel * 2 * 14 * 14]`."""
    size = (clip.shape[1], clip.shape[2])
    pixels = normalise(clip, size, Normalisation(), dtype)
    grid = pixels.reshape(len(pixels) // 2, 2, 3, size[0] // 28, 2, 14, size[1] // 28, 2, 14)
    return grid.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(0, 4).flatten(1).contiguous()


class Ours:
    """Our engine with one compression."""

    def __init__(self, model: Any, setting: Setting, clips: Sequence[Tensor], compression: Any) -> None:
        model.set_attn_implementation(attention.NAME)
        runtime = family_of(model.config.to_dict()).runtime(model, _Tokenizer(), Normalisation())
        on_gpu = clips[0].is_cuda
        budgets = Budgets(
            prefill_tokens=32768 if on_gpu else 4096,
            encode_tokens=65536 if on_gpu else 8192,
            kv_bytes=(40 if on_gpu else 2) << 30,
            max_new_tokens=setting.new_tokens,
        )
        self.engine = Engine(runtime, Compression.from_any(compression), budgets, ())
        self.requests = [luvc.Request(str(index), ["?"], clip) for index, clip in enumerate(clips)]
        self.setting = setting
        self.tokens: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        done = list(self.engine.generate(self.requests))
        for each in done:
            if each.error is not None or len(each.answers[0].token_ids) != self.setting.new_tokens:
                raise RuntimeError(f"a request failed in the benchmark: {each.error}")
        counts = done[0].tokens
        self.tokens = {"visual": counts.visual, "merged": counts.merged, "mean_by_layer": counts.mean_by_layer}
        return {name: sum(getattr(each.times, name) for each in done) for name in ("encode_s", "prefill_s", "decode_s")}


class _Peak:
    """Highest memory during a block: allocated bytes on a GPU, resident bytes of the process (sampled) on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> _Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        self._before, self._stop = _resident_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.bytes = max(self.bytes, _resident_bytes() - self._before)

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        self._stop.set()
        self._thread.join()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:  # not Linux
        return 0


def one_round(run: Callable[[], dict[str, float]], timing: Timing, device: torch.device) -> None:
    """Run once and note seconds, peak memory and stages."""
    with _Peak(device) as peak:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        timing.stages = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        timing.seconds.append(time.perf_counter() - started)
    timing.peak_bytes = max(timing.peak_bytes, peak.bytes)


def bench(
    setting: Setting, device: torch.device, dtype: torch.dtype, rounds: int, presets: Sequence[str], say: Any = print
) -> dict[str, Any]:
    """Run the benchmark; returns the report that is written as JSON."""
    model, clips = build(setting, device, dtype), videos(setting, device)
    ours = {name: Ours(model, setting, clips, name) for name in presets}
    stock = build(setting, device, dtype)  # transformers keeps its own attention
    rivals = {size: Generate(stock, setting, clips, size) for size in (1, 4, 8, 16) if size <= setting.videos}
    timings: dict[str, Timing] = {}
    for size, rival in rivals.items():  # also the warm-up
        timings[f"generate batch {size}"] = timing = Timing()
        one_round(rival, timing, device)
        say(f"generate, batch {size}: {setting.videos / timing.seconds[0]:.3f} videos/s")
    best = min(rivals, key=lambda size: timings[f"generate batch {size}"].seconds[0])
    contestants: dict[str, Callable[[], dict[str, float]]] = {"transformers": rivals[best], **ours}
    for name, run in contestants.items():
        timings[name] = Timing()
        run()
    for index in range(rounds):
        for name, run in contestants.items():
            one_round(run, timings[name], device)
        say(f"round {index + 1}: " + ", ".join(f"{n} {timings[n].seconds[-1]:.2f} s" for n in contestants))
    for name, engine in ours.items():
        timings[name].tokens = engine.tokens
    timings["transformers"].tokens = {"visual": rivals[best].visual}

    def ratio(name: str) -> float:
        pairs = zip(timings["transformers"].seconds, timings[name].seconds, strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)

    report: dict[str, Any] = {f"ratio_{name}": round(ratio(name), 3) for name in ours}
    report["videos_per_s"] = {n: setting.videos / statistics.median(timings[n].seconds) for n in contestants}
    report["peak_bytes"] = {n: timings[n].peak_bytes for n in contestants}
    report["best_batch"] = best
    report["timings"] = {name: asdict(timing) for name, timing in timings.items()}
    report["setting"] = asdict(setting)
    report["machine"] = machine(device, dtype)
    return report


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Facts about where it ran."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    rows = [
        "| engine | videos/s | of transformers | visual tokens, mean of layers | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, speed in report["videos_per_s"].items():
        ratio = report.get(f"ratio_{name}", 1.0)
        tokens = report["timings"][name]["tokens"]
        alive = tokens.get("mean_by_layer", tokens.get("visual", 0))
        peak = report["peak_bytes"][name] / 2**20
        label = f"transformers, batch {report['best_batch']}" if name == "transformers" else name
        rows.append(f"| {label} | {speed:.3f} | {ratio:.2f}x | {alive:,.0f} | {peak:,.0f} MiB |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="luvc bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SETTINGS, default="cpu", help="model and inputs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=int, help="instead of the setting's number")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--out", type=Path, help="write the JSON here")
    args = parser.parse_args(argv)
    setting = SETTINGS[args.shape]
    if args.videos:
        setting = Setting(**{**asdict(setting), "videos": args.videos})
    report = bench(setting, torch.device(args.device), getattr(torch, args.dtype), args.rounds, args.presets)
    print(table(report))  # noqa: T201 - a command line speaks
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
