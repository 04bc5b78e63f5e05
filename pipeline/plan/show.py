"""Prints where the visual tokens of one unit go: block by block in the encoder, layer by layer after it. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from luvc.checkpoints import read_config
from luvc.families import family_of
from luvc.scheduling import Schedule, schedule

if TYPE_CHECKING:
    from pipeline.config import RunConfig


def compression_table(config: RunConfig, table: pa.Table) -> str:
    """Token counts of the largest unit of a manifest, as text; runs of equal counts share a line."""
    sound = table.filter(pc.is_null(table["error_class"]))
    if not sound.num_rows:
        return "no unit was planned without an error"
    largest = sound.take(pc.sort_indices(sound, [("visual_tokens", "descending")])[:1]).to_pylist()[0]
    family = family_of(model := read_config(config.model.id, config.model.revision))
    shape = family.shape(model)
    grid = family.grid(shape, largest["frames"], largest["frame_height_px"], largest["frame_width_px"])
    return f"largest unit: {largest['uri']}\n" + format_schedule(schedule(shape, grid, config.compression))


def format_schedule(planned: Schedule, prompt_tokens: int = 40, new_tokens: int = 64) -> str:
    """One schedule as text: its configuration, tokens by block and layer as bars, and what it saves.

    FLOPs and KV bytes are for one prompt of `prompt_tokens` and an answer of `new_tokens`.
    """
    grid, merged = planned.original_grid, planned.merged_grid
    off = schedule(planned.shape, grid, "off")
    settings = yaml.safe_dump(_plain(planned.compression.as_mapping()), sort_keys=False).rstrip()
    costs = [
        ("vision encoder", [p.vision_flops() / 1e9 for p in (off, planned)], "GFLOP"),
        ("prefill", [p.prefill_flops(prompt_tokens) / 1e9 for p in (off, planned)], "GFLOP"),
        ("decode", [p.decode_flops(prompt_tokens, new_tokens) / 1e9 for p in (off, planned)], "GFLOP"),
        ("KV cache, 16 bit", [p.kv_bytes(prompt_tokens, new_tokens) / 2**20 for p in (off, planned)], "MiB"),
    ]
    return "\n".join(
        [
            *(f"  {line}" for line in settings.splitlines()),
            f"grid {grid.frames}x{grid.height}x{grid.width} -> {merged.frames}x{merged.height}x{merged.width} tokens",
            "vision encoder     patch tokens",
            *_runs("block", planned.encoder_tokens, max(off.encoder_tokens)),
            "language model     visual tokens",
            *_runs("layer", planned.layer_tokens, max(off.layer_tokens)),
            f"cost of one answer ({prompt_tokens} prompt tokens, {new_tokens} new)   without -> with",
            *(
                f"  {name:<16} {before:>12,.1f} -> {after:,.1f} {unit} ({after / before:.0%})"
                for name, (before, after), unit in costs
            ),
        ]
    )


def _plain(value: Any) -> Any:
    """Nested tuples as lists, so that YAML prints what it reads."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _runs(name: str, counts: tuple[int, ...], full: int) -> list[str]:
    """Runs of equal counts share a line; a bar shows the share of the uncompressed count."""
    lines, start = [], 0
    for index in range(1, len(counts) + 1):
        if index == len(counts) or counts[index] != counts[start]:
            span = f"{name} {start}" if index - start == 1 else f"{name}s {start}-{index - 1}"
            bar = "█" * math.ceil(30 * counts[start] / max(1, full))
            lines.append(f"  {span:<15} {counts[start]:>9,}  {bar}".rstrip())
            start = index
    return lines
