"""Token merging without the axis constraint: the control that OIM's rectangular grid is compared with.

Per frame, units are split alternately into two sets; every unit of the first proposes to its most similar
unit of the second, and the best proposals are merged into it (bipartite soft matching, ToMe, 2210.09461).
What is left is a row of units in raster order, not a grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc.methods.oim import UnitGrid


def merge_any(grid: UnitGrid, after: int, keys: Tensor | None = None) -> UnitGrid:
    """Shrink every frame of `grid` to `after` units, at least half of them; returns `[frames, 1, after, ...]`.

    Args:
        keys: `[frames, height, width, features]` to compare instead of the hidden states.
    """
    hidden, size, *positions = (part.flatten(1, 2) for part in grid.channels)
    frames, before = size.shape
    if after == before:
        flat = (part[:, None] for part in (hidden, size, *positions))
        return UnitGrid(*flat)
    features = (hidden.flatten(2) if keys is None else keys.flatten(1, 2)).float()
    features = torch.nn.functional.normalize(features, dim=-1)
    similarity = features[:, ::2] @ features[:, 1::2].transpose(1, 2)
    best, partner = similarity.max(dim=-1)
    # Stable sorts: the answer does not depend on how ties fall in a larger batch.
    proposals = best.argsort(dim=1, descending=True, stable=True)[:, : before - after]
    source = proposals * 2
    target = partner.gather(1, proposals) * 2 + 1
    gone = torch.zeros(frames, before, dtype=torch.uint8, device=size.device).scatter_(1, source, 1)
    left = gone.argsort(dim=1, stable=True)[:, :after]

    moved = size.gather(1, source)
    total = size.scatter_add(1, target, moved)

    def merged(values: Tensor) -> Tensor:
        trailing = (1,) * (values.ndim - 2)

        def wide(index: Tensor) -> Tensor:
            return index.view(*index.shape, *trailing).expand(*index.shape, *values.shape[2:])

        # b + sum of (a - b) w leaves units that nothing is merged into exactly as they were.
        weight = (moved / total.gather(1, target)).to(values.dtype).view(*moved.shape, *trailing)
        change = (values.gather(1, wide(source)) - values.gather(1, wide(target))) * weight
        return values.scatter_add(1, wide(target), change).gather(1, wide(left))[:, None]

    return UnitGrid(merged(hidden), total.gather(1, left)[:, None], *(merged(part) for part in positions))
