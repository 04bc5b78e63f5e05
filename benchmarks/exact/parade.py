"""A seed becomes a clip full of things that move, or come one after another, for training. Pure.

Nothing of it is tested on. In the test's clips at most two things move and three take turns; here three or four do, so
that a clip, which is dear to look at, has as many answers as a still. Seeds come in twins, as in `compose`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from benchmarks.exact.compose import DIRECTIONS, OPTIONS, Draw
from benchmarks.exact.material import Palette
from benchmarks.exact.scene import Actor, Ask, ExactScene
from benchmarks.exact.words import TINTS

LANES = (3, 4)
DYED = 0.6
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def _movers(draw: Draw) -> list[tuple[Actor, str]]:
    """One thing in each lane, all along the same axis, each its own way."""
    wide = draw.aspect
    sideways, lanes = draw.chance(0.5), int(draw.pick(LANES))
    across, along = (1.0, wide) if sideways else (wide, 1.0)
    found = []
    for lane in range(lanes):
        heading = str(draw.pick(("left", "right") if sideways else ("up", "down")))
        sense = sum(DIRECTIONS[heading])
        size = min(across / lanes * draw.uniform(0.75, 1.0), 0.4)
        at, middle = (lane + 0.5) * across / lanes, along * draw.uniform(0.42, 0.58)
        half = along * draw.uniform(0.35, 0.52) / 2 * sense
        start, end = ((middle + way * half, at) for way in (-1, 1))
        if not sideways:
            start, end = start[::-1], end[::-1]
        tint = str(draw.pick(tuple(TINTS))) if draw.chance(DYED) else None
        moves = (draw.uniform(0.0, 0.12), draw.uniform(0.88, 1.0))
        found.append((draw.actor(draw.picture(), start, end, size, moves=moves, tint=tint), heading))
    return found


def _turns(draw: Draw) -> list[Actor]:
    """Things in columns that are seen one after another, in the order of the list."""
    count = int(draw.pick(LANES))
    columns = draw.sample(range(count), count)
    actors = []
    for turn in range(count):
        place = ((columns[turn] + 0.5) * draw.aspect / count, 0.5 + draw.uniform(-0.2, 0.2))
        tint = str(draw.pick(tuple(TINTS))) if draw.chance(DYED) else None
        visible = (turn / count, (turn + 1) / count)
        size = min(0.95 * draw.aspect / count, 0.4) * draw.uniform(0.7, 1.0)
        actors.append(draw.still(draw.picture(), place, size, 0.02, visible=visible, tint=tint))
    return actors


def compose_parade(seed: int, palette: Palette) -> ExactScene:
    """The clip of this seed, with its questions; `seed` and `seed ^ 1` are twins."""
    backwards = bool(seed % 2)
    draw = Draw(seed // 2, palette)
    camera, clutter = draw.camera(), draw.clutter()
    asks: list[Ask] = []
    if draw.chance(0.6):
        movers = _movers(draw)
        actors = [actor for actor, _ in movers]
        for actor, heading in movers:
            seen = OPPOSITE[heading] if backwards else heading
            wrong = [other for other in DIRECTIONS if other != seen]
            asks.append(draw.ask("motion", f"Which way does the {actor.name} move?", seen, wrong))
    else:
        actors = _turns(draw)
        names = [actor.name for actor in actors]
        turns = names[::-1] if backwards else names
        for text, answer in (("Which object appears first?", turns[0]), ("Which object appears last?", turns[-1])):
            asks.append(draw.ask_name("order", text, answer, names))
        for before, after in pairwise(turns):
            asks.append(draw.ask_name("order", f"Which object appears right after the {before}?", after, names))
            asks.append(draw.ask_name("order", f"Which object appears right before the {after}?", before, names))
    for actor in actors:
        if actor.tint:
            wrong = draw.sample([tint for tint in TINTS if tint != actor.tint], OPTIONS - 1)
            asks.append(draw.ask("colour", f"Which color is the {actor.name}?", actor.tint, wrong))
    scene = ExactScene(seed, "parade", draw.aspect, camera, clutter, tuple(actors))
    return replace(scene.reverse() if backwards else scene, asks=tuple(asks))
