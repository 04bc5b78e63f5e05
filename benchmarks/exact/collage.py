"""A seed becomes a still full of things, for training: a dozen exact labels for the price of one frame. Pure.

Nothing of it is tested on. Every cell of a grid holds a thing, a sign or nothing; the questions are those of the test's
templates that one frame can answer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from benchmarks.exact.compose import MOST, OPTIONS, RELATIONS, Draw
from benchmarks.exact.facts import way
from benchmarks.exact.material import Palette
from benchmarks.exact.scene import Actor, Ask, ExactScene, Sign
from benchmarks.exact.words import TINTS, plural
from benchmarks.scenes.vocabulary import PLURAL_NAMES

#: Columns and rows; a cell is what one thing fills.
GRIDS = ((2, 2), (3, 2), (3, 3), (4, 3))
SLOTS = 12
EMPTY, SIGN, AGAIN, DYED = 0.15, 0.2, 0.15, 0.55
#: Questions about one still, at most so many of a kind.
EACH = 3


def _actors(draw: Draw) -> list[Actor]:
    columns, rows = GRIDS[int(draw.rng.integers(len(GRIDS)))]
    wide = draw.aspect
    cell = min(wide / columns, 1 / rows)
    actors: list[Actor] = []
    for column in range(columns):
        for row in range(rows):
            if draw.chance(EMPTY):
                continue
            x = (column + 0.5 + draw.uniform(-0.1, 0.1)) * wide / columns
            y = (row + 0.5 + draw.uniform(-0.1, 0.1)) / rows
            pictures = [actor for actor in actors if not isinstance(actor.shows, Sign)]
            size = cell * draw.uniform(0.5, 0.95)
            if draw.chance(SIGN):
                sign, _ = draw.sign((x, y))
                actors.append(replace(sign, size=min(sign.size, 0.95 * wide / columns)))
            elif pictures and draw.chance(AGAIN):
                again = pictures[int(draw.rng.integers(len(pictures)))]
                actors.append(replace(draw.still(again.shows, (x, y), size), tint=again.tint))
            else:
                tint = str(draw.pick(tuple(TINTS))) if draw.chance(DYED) else None
                actors.append(draw.still(draw.picture(), (x, y), size, tint=tint))
    return actors


def _relations(draw: Draw, things: list[Actor]) -> list[Ask]:
    """Of pairs that stand clearly beside or above each other."""
    asks = []
    for first, second in combinations(things, 2):
        if draw.chance(0.5):
            first, second = second, first
        answer = way(first, second)
        if not answer:
            continue
        text = f"Where is the {first.name} compared to the {second.name}?"
        asks.append(draw.ask("relation", text, answer, [other for other in RELATIONS if other != answer]))
    return asks


def compose_still(seed: int, palette: Palette) -> ExactScene:
    """The still of this seed, with its questions."""
    draw = Draw(seed, palette)
    camera, clutter, actors = draw.camera(), draw.clutter(), _actors(draw)
    things = [actor for actor in actors if not isinstance(actor.shows, Sign)]
    signs = [actor for actor in actors if isinstance(actor.shows, Sign)]
    once = [actor for actor in things if sum(other.name == actor.name for other in things) == 1]
    names = list(dict.fromkeys(actor.name for actor in things))
    asks: list[list[Ask]] = [_relations(draw, once)]
    colours = []
    for actor in once:
        if actor.tint:
            wrong = draw.sample([tint for tint in TINTS if tint != actor.tint], OPTIONS - 1)
            colours.append(draw.ask("colour", f"Which color is the {actor.name}?", actor.tint, wrong))
    asks.append(colours)
    counts = []
    for name in names:
        count = sum(actor.name == name for actor in things)
        if count <= MOST and name not in PLURAL_NAMES:
            wrong = draw.sample([str(number) for number in range(1, MOST + 1) if number != count], OPTIONS - 1)
            counts.append((count, draw.ask("count", f"How many {plural(name)} are there?", str(count), wrong)))
    # Most names stand alone: those that do not are asked first.
    asks.append([ask for _, ask in sorted(counts, key=lambda pair: -pair[0])[:2]])
    sizes = sorted(actor.size for actor in things)
    if len(names) > 1 and sizes[-1] > 1.12 * sizes[-2]:
        largest = next(actor for actor in things if actor.size == sizes[-1])
        asks.append([draw.ask_name("name", "Which object is the largest?", largest.name, [largest.name, *names])])
    if len(signs) == 1:
        text = signs[0].look.text or ""
        alike = [other for other in palette.texts if other != text and other.isdigit() == text.isdigit()]
        what = "number" if text.isdigit() else "word"
        asks.append([draw.ask("read", f"Which {what} is on the sign?", text, draw.sample(alike, OPTIONS - 1))])
    asked = tuple(ask for group in asks for ask in draw.sample(group, EACH))
    return ExactScene(seed, "collage", draw.aspect, camera, clutter, tuple(actors), asked)
