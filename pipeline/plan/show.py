"""Prints where the visual tokens of one unit go: block by block in the encoder, layer by layer after it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

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


def format_schedule(planned: Schedule) -> str:
    """One schedule as text."""
    grid, merged = planned.grid, planned.merged_grid
    return "\n".join(
        [
            f"compression {planned.compression.name}: grid {grid.frames}x{grid.height}x{grid.width}"
            f" -> {merged.frames}x{merged.height}x{merged.width}",
            "vision encoder    patch tokens",
            *_runs("block", planned.encoder_tokens),
            "language model    visual tokens",
            *_runs("layer", planned.layer_tokens),
        ]
    )


def _runs(name: str, counts: tuple[int, ...]) -> list[str]:
    lines, start = [], 0
    for index in range(1, len(counts) + 1):
        if index == len(counts) or counts[index] != counts[start]:
            span = f"{name} {start}" if index - start == 1 else f"{name}s {start}-{index - 1}"
            lines.append(f"  {span:<15} {counts[start]:>9,}")
            start = index
    return lines
