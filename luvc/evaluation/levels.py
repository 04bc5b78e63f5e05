"""Every method at the same mean number of visual tokens, for one clip size: what the curves of a study compare.

Mergers and scaled frames can only reach grids of whole rows and columns, so a level is such a grid: the one whose
count is nearest to the share asked for (`luvc.scheduling.scaled_sides`). All other methods are given that count, as
the mean over the layers of the language model, wherever they drop. Pure; knows no model beyond its number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from luvc.compression import (
    MERGE_METHODS,
    PRUNE_METHODS,
    THREE_STAGES,
    Compression,
    Merge,
    MergeStep,
    Prune,
    Stage,
    held,
)
from luvc.scheduling import retained_in_layers, scaled_sides
from luvc.shapes import Grid

SCHEDULES = ("held", "ramp", "stages")

#: Names in `METHOD@SHARE`. A pruner drops behind the encoder, once; with a schedule, inside the language model.
METHODS = (
    *("luvc", "luvc-ramp", "luvc-stages", "luvc-cut", "resize", *MERGE_METHODS, *PRUNE_METHODS),
    *(f"{pruner}-{schedule}" for pruner in PRUNE_METHODS for schedule in SCHEDULES),
    "spu-cut",  # of every pruner the same: what drops everything chooses nothing
)


def level_tokens(share: float, grid: Grid) -> int:
    """Visual tokens of a clip, mean over layers, that stand for `share` of them."""
    height, width = scaled_sides(grid.height, grid.width, share)
    return grid.frames * height * width


def at_share(method: str, share: float, layers: int, grid: Grid) -> Compression:
    """`method` at `level_tokens(share, grid)` in the mean of the layers.

    LUVC's two parts share the work as measured (docs/results.md): the pruner's part costs little, the merger's more,
    and the more the earlier and the further it merges. Down to a quarter the merger therefore leaves three quarters, in
    the second half of the encoder; below, where the encoder is most of the time, a half in its second quarter. The
    pruner takes the rest behind the encoder and holds that (`held`); it makes up for the rounding of the merger's grid.

    In `luvc-ramp`, `luvc-stages` and `luvc-cut` each part leaves sqrt(share), until the pruner's ramp is the published
    one that starts at the first layer (mean 1/2, at a share of 1/4: merge to a half, prune to a half). Below, the
    merger stays at a half and the ramp is scaled down, its first drop behind the encoder.

    Args:
        method: one of METHODS.
        share: in (0, 1].
        layers: of the language model.
        grid: visual tokens of a clip without compression.

    Raises:
        ConfigError: a share that is none.
    """
    name = f"{method}@{share:g}"
    if method == "resize" or not 0 < share <= 1:  # the class says what is wrong with the share
        return Compression(name, resize=share)
    target = level_tokens(share, grid)
    sides = scaled_sides(grid.height, grid.width, share)
    if method == "oim":
        return Compression(name, merge=oim_to(grid, sides))
    if method == "tome":
        return Compression(name, merge=Merge("tome", keep=target / grid.units))
    if method.startswith("luvc"):
        schedule, late = method.partition("-")[2] or "held", share >= 0.25
        least = 0.75 if schedule == "held" and late else 0.5
        merged = scaled_sides(grid.height, grid.width, max(least, math.sqrt(share)))
        depths = (0.5, 1.0) if schedule == "held" and late else (0.25, 0.5)
        prune = prune_to("spu", schedule, grid.frames * merged[0] * merged[1], target, layers)
        return Compression(name, merge=oim_to(grid, merged, *depths), prune=prune)
    pruner, _, schedule = method.partition("-")
    return Compression(name, prune=prune_to(pruner, schedule or "drop", grid.units, target, layers))


def oim_to(grid: Grid, sides: tuple[int, int], first: float = 0.25, last: float = 0.5) -> Merge | None:
    """A merger that shrinks every frame of `grid` to `sides` (rows, columns); None when nothing is to be done.

    Steps as the automatic ones of `Merge`, but each axis has a share of its own: at least two steps an axis,
    none below 0.6, width and height by turns.
    """
    shares = {"width": sides[1] / grid.width, "height": sides[0] / grid.height}
    left = {axis: max(2, math.ceil(math.log(share) / math.log(0.6))) for axis, share in shares.items() if share < 1}
    keeps = {axis: max(0.5, shares[axis] ** (1 / count)) for axis, count in left.items()}
    order: list[Literal["width", "height"]] = []
    while any(left.values()):
        for axis in ("width", "height"):
            if left.get(axis):
                order.append(axis)
                left[axis] -= 1
    if not order:
        return None
    spread = (last - first) / max(1, len(order) - 1)
    steps = tuple(MergeStep(round(first + index * spread, 6), axis, keeps[axis]) for index, axis in enumerate(order))
    return Merge(keep=sides[0] * sides[1] / (grid.height * grid.width), first=first, last=last, steps=steps)


def prune_to(pruner: str, schedule: str, tokens: int, mean: int, layers: int) -> Prune | None:
    """The pruner that leaves the count nearest to `mean` of `tokens`, in the mean of the layers.

    `drop`: once, behind the encoder. `held`: the same, and falling to zero in the last quarter of the layers. `stages`
    and `ramp`: in the published shape down to zero at the last layer, which has a mean of about one half. For more, the
    ramp starts later and the stages keep more; for less, the whole shape is scaled down, its first drop behind the
    encoder. `cut`: all of them up to a depth, and none behind it.
    """
    if mean >= tokens:
        return None
    shape = {"drop": _drop, "held": _held, "stages": _stages, "ramp": _ramp, "cut": _cut}[schedule]

    def made(amount: float) -> Prune:
        return shape(pruner, amount, layers)

    def count(amount: float) -> float:
        return sum(retained_in_layers(tokens, layers, made(amount))) / layers

    return made(_nearest(count, mean))


def _nearest(count: Callable[[float], float], wanted: float) -> float:
    """Where in [0, 1] a function that never falls comes nearest to `wanted`; to six digits, so that files are short."""
    low, high = 0, 1_000_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle / 1e6) >= wanted else (middle, high)
    return min((high / 1e6, low / 1e6), key=lambda amount: abs(count(amount) - wanted))


def _drop(pruner: str, amount: float, layers: int) -> Prune:
    return Prune(pruner, stages=(Stage(0.0, amount),))


def _held(pruner: str, amount: float, layers: int) -> Prune:
    """Dropped behind the encoder and held to three quarters of the depth; for more than that leaves, held longer."""
    if amount <= 0.875:  # the mean of what is held in full
        return Prune(pruner, stages=held(round(amount / 0.875, 6)))
    return Prune(pruner, stages=held(1.0, 0.75 + 0.25 * (amount - 0.875) / 0.125))


def _stages(pruner: str, amount: float, layers: int) -> Prune:
    """Half way the published stages; below, their first drop behind the encoder; above, higher ones."""
    if amount <= 0.5:
        start = round(2 * amount, 6)
        scaled = [Stage(stage.depth, round(start * stage.keep, 6)) for stage in THREE_STAGES]
        return Prune(pruner, stages=(Stage(0.0, start), *scaled))
    keep = THREE_STAGES[0].keep + (2 * amount - 1) * (1 - THREE_STAGES[0].keep)
    depths = [stage.depth for stage in THREE_STAGES]
    return Prune(pruner, stages=(Stage(depths[0], keep), Stage(depths[1], keep**2), Stage(depths[2], 0.0)))


def _ramp(pruner: str, amount: float, layers: int) -> Prune:
    """Half way the published ramp, to zero at the last layer; below, one that starts lower; above, later.

    Written as a stage for each layer, half a layer before it: a fraction of whole layers can come out a little
    above the layer.
    """
    last, top = layers - 1, min(1.0, 2 * amount)
    start = last * max(0.0, 2 * amount - 1)
    keeps = [top if layer <= start else top * (last - layer) / (last - start) for layer in range(last)]
    stages = [Stage(round(max(0.0, (layer - 0.5) / layers), 6), round(keep, 6)) for layer, keep in enumerate(keeps)]
    return Prune(pruner, stages=(*stages, Stage(1.0, 0.0)))


def _cut(pruner: str, amount: float, layers: int) -> Prune:
    """All tokens in the first `amount` of the layers; the layer in which that ends has the fraction."""
    whole = min(math.floor(amount * layers), layers - 1)
    depth = (whole - 0.5) / layers
    stages = [(depth, amount * layers - whole), (depth + 1 / layers, 0.0)]
    return Prune(pruner, stages=tuple(Stage(round(max(0.0, at), 6), round(min(1.0, keep), 6)) for at, keep in stages))
