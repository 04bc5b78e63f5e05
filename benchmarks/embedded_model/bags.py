"""Scenes that never were: a few things out of stored frames, put together, with what is exactly true of them. Pure.

A frame of a few units costs a tenth of a whole one, and any two things may meet in it, so lookups ("what colour is
the fox?", "where was it first, where last?") are learned from many more scenes than could be drawn. Whole scenes come
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.embedded_model.things import SIDE, Things
from benchmarks.embedded_model.units import TINT_WORDS, WORDS
from benchmarks.exact.compose import DIRECTIONS, MOST, OPTIONS, RELATIONS
from benchmarks.exact.facts import Fact
from benchmarks.exact.scene import Ask
from benchmarks.exact.words import ALIKE, plural
from benchmarks.scenes.vocabulary import PLURAL_NAMES

#: How often each kind of bag is drawn.
SHARES = {"still": 0.28, "pair": 0.1, "crowd": 0.14, "parade": 0.1, "order": 0.16, "corner": 0.22}
#: Places are said of so many things of a still: they are easy, and would crowd out the rest.
PLACED_SHARE = 0.35
#: By level: most things of a still, units of a thing, copies of one name, frames, things that move, bare units a frame.
LEVELS = ((2, 1, 2, 2, 1, 1), (3, 2, 3, 3, 2, 1), (5, 3, 5, 4, 3, 2), (8, 4, MOST, 4, 3, 4))
#: Things apart by so much of a frame's side (which is 2) are clearly apart; one that moves does so by more.
APART, FAR = 0.4, 0.62
#: In so many times the units one thing is clearly the largest.
LARGER = 1.5
_THIRDS = ((-1.0, -0.42), (-0.24, 0.24), (0.42, 1.0))


Sizes = Literal["any", "even", "own"]


class Said(NamedTuple):
    """Something true of a bag: as a fact, as a question with options, or both."""

    kind: str
    fact: Fact | None
    ask: Ask | None


class Bag(NamedTuple):
    """Indices of things, frame by frame, and what is true of them; `sizes`: `any` number of units each; `even`, as far
    as they have them, because things that are to be counted are of one size; `own`: all they have."""

    frames: tuple[tuple[int, ...], ...]
    said: tuple[Said, ...]
    sizes: Sizes = "any"


class Bags:
    """Draws bags of a level, 0 to 3: from two things of one unit each to crowds."""

    def __init__(self, things: Things) -> None:
        self.things = things
        self.names = [WORDS[word] for word in things.names]
        self.texts = [WORDS[word] for word in things.texts]
        self._dyed = set(things.dyed.tolist())

    def draw(self, level: int, rng: np.random.Generator) -> Bag:
        """A bag about which something can be said."""
        most, _, copies, frames, movers, _ = LEVELS[level]
        while True:
            kind = rng.choice(list(SHARES), p=list(SHARES.values()))
            if kind == "still":
                bag = self._still(int(rng.integers(2, most + 1)), rng)
            elif kind == "pair":
                bag = self._pair(rng)
            elif kind == "crowd":
                bag = self._crowd(copies, rng)
            elif kind == "parade":
                bag = self._parade(int(rng.integers(2, frames + 1)), int(rng.integers(1, movers + 1)), rng)
            elif kind == "order":
                bag = self._order(int(rng.integers(2, frames + 1)), rng)
            else:
                bag = self._corner(int(rng.integers(1, frames + 1)), rng)
            if bag.said:
                return bag

    def _word(self, index: int) -> str:
        return WORDS[self.things.all[index].word]

    def _different(self, among: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
        """So many things of different names, none of which looks like another; fewer if luck will have it."""
        found: list[int] = []
        taken: set[str] = set()
        for index in rng.choice(among, 8 * count):
            name = self._word(index)
            if len(found) < count and name not in taken:
                found.append(int(index))
                taken |= {name} | ALIKE.get(name, set())
        return found

    def _ask(
        self, kind: str, text: str, answer: str, first: Sequence[str], others: Sequence[str], rng: np.random.Generator
    ) -> Ask:
        """A question; of its options those come from `first` that may, the rest from `others`."""
        options = [answer]
        near = ALIKE.get(answer, set())
        drawn = [others[index] for index in rng.integers(len(others), size=12 * OPTIONS)]
        for option in (*first, *drawn):
            if len(options) < OPTIONS and option not in options and option not in near:
                options.append(option)
                near = near | ALIKE.get(option, set())
        return Ask(kind, text, answer, tuple(rng.permutation(options).tolist()))

    def _still(self, count: int, rng: np.random.Generator) -> Bag:
        found = self._different(self.things.dyed, count, rng)
        if rng.random() < 0.4:
            found[-1] = int(rng.choice(self.things.signs))
        names = [self._word(index) for index in found]
        tints = [TINT_WORDS[self.things.all[index].tint] if index in self._dyed else "" for index in found]
        said = []
        for index, name, tint in zip(found, names, tints, strict=True):
            if not tint:
                what = "number" if name.isdigit() else "word"
                alike = [text for text in self.texts if text.isdigit() == name.isdigit()]
                ask = self._ask("read", f"Which {what} is on the sign?", name, (), alike, rng)
                said.append(Said("read", Fact("read", f"The {what} on the sign is", name), ask))
                continue
            ask = self._ask("colour", f"Which color is the {name}?", tint, [t for t in tints if t], TINT_WORDS, rng)
            said.append(Said("colour", Fact("colour", f"The {name} is", tint), ask))
            if tints.count(tint) == 1:
                shown = [other for other, dyed in zip(names, tints, strict=True) if dyed]
                ask = self._ask("name", f"Which object is {tint}?", name, shown, self.names, rng)
                said.append(Said("name", Fact("name", f"The {tint} object is the", name), ask))
            said += self._placed(index, name) if rng.random() < PLACED_SHARE else []
        said += self._related([index for index, tint in zip(found, tints, strict=True) if tint], rng)
        return Bag((tuple(found),), tuple(said))

    def _pair(self, rng: np.random.Generator) -> Bag:
        """Two things that stand clearly beside or above each other: by chance they seldom do."""
        first = int(rng.choice(self.things.named))
        name = self._word(first)
        alike = {name} | ALIKE.get(name, set())
        for second in rng.choice(self.things.named, 60).tolist():
            if self._word(second) not in alike and self._way(first, second):
                said = self._related([first, second], rng, share=1.0)
                for index in (first, second):
                    if index in self._dyed:
                        name, tint = self._word(index), TINT_WORDS[self.things.all[index].tint]
                        ask = self._ask("colour", f"Which color is the {name}?", tint, (), TINT_WORDS, rng)
                        said.append(Said("colour", Fact("colour", f"The {name} is", tint), ask))
                return Bag(((first, second),), tuple(said))
        return Bag(((first,),), ())

    def _placed(self, index: int, name: str) -> list[Said]:
        ways = (("is on the", ("left", "center", "right")), ("is at the", ("top", "middle", "bottom")))
        said = []
        for at, (start, words) in zip(self.things.middles[index], ways, strict=True):
            for (low, high), word in zip(_THIRDS, words, strict=True):
                if low <= at <= high:
                    said.append(Said("place", Fact("place", f"The {name} {start}", word), None))
        return said

    def _related(self, found: list[int], rng: np.random.Generator, share: float = 0.5) -> list[Said]:
        said = []
        for first in found:
            for second in found:
                where = self._way(first, second) if first != second and rng.random() < share else None
                if where:
                    a, b = self._word(first), self._word(second)
                    text = f"Where is the {a} compared to the {b}?"
                    ask = self._ask("relation", text, where, (), tuple(RELATIONS), rng)
                    said.append(Said("relation", Fact("relation", f"Compared to the {b}, the {a} is", where), ask))
        return said

    def _way(self, first: int, second: int) -> str | None:
        across, down = self.things.middles[first] - self.things.middles[second]
        longer, shorter = max(abs(across), abs(down)), min(abs(across), abs(down))
        if longer < APART or shorter > 0.35 * longer:
            return None
        if abs(across) > abs(down):
            return "right" if across > 0 else "left"
        return "below" if down > 0 else "above"

    def _crowd(self, copies: int, rng: np.random.Generator) -> Bag:
        """Of two names so many each, well apart."""
        frame: list[int] = []
        said = []
        for word in rng.choice(self.things.names, 2, replace=False):
            name = WORDS[word]
            if name in PLURAL_NAMES:
                continue
            wanted = int(rng.integers(1, copies + 1))
            apart: list[int] = []
            for index in rng.permutation(self.things.of_word[int(word)]):
                middle = self.things.middles[index]
                if len(apart) < wanted and all(abs(middle - self.things.middles[o]).max() >= APART for o in frame):
                    apart.append(int(index))
                    frame.append(int(index))
            count = str(len(apart))
            numbers = tuple(str(number) for number in range(1, MOST + 1))
            ask = self._ask("count", f"How many {plural(name)} are there?", count, (), numbers, rng)
            if apart:
                said.append(Said("count", Fact("count", f"The number of {plural(name)} is", count), ask))
        return Bag((tuple(frame),), tuple(said), "even")

    def _parade(self, frames: int, movers: int, rng: np.random.Generator) -> Bag:
        """Things that cross: in each frame one of their name that stands where it should be by then."""
        shown: list[list[int]] = [[] for _ in range(frames)]
        said = []
        for word in rng.choice(self.things.names, movers, replace=False):
            seen = np.array(self.things.of_word[int(word)])
            axis, lane = int(rng.integers(2)), rng.uniform(-0.75, 0.75)
            way = np.linspace(-0.87, 0.75, frames) + rng.uniform(-0.15, 0.15)
            along, across = self.things.middles[seen][:, axis], self.things.middles[seen][:, 1 - axis]
            cost = np.abs(along - way[:: 1 if rng.random() < 0.5 else -1, None]) + 0.5 * np.abs(across - lane)
            path = seen[(cost + 0.08 * rng.random(cost.shape)).argmin(1)]
            steps = np.diff(self.things.middles[path][:, axis])
            if abs(steps.sum()) < FAR or not (np.all(steps > 0) or np.all(steps < 0)):
                continue
            for frame, index in enumerate(path):
                shown[frame].append(int(index))
            name, heading = WORDS[word], (("left", "right"), ("up", "down"))[axis][int(steps[0] > 0)]
            text = f"Which way does the {name} move?"
            ask = self._ask("motion", text, heading, (), tuple(DIRECTIONS), rng)
            said.append(Said("motion", Fact("motion", f"The {name} moves", heading), ask))
        return Bag(tuple(map(tuple, shown)), tuple(said))

    def _order(self, frames: int, rng: np.random.Generator) -> Bag:
        """Two or three things in turns, and perhaps one that stays."""
        found = self._different(self.things.named, min(frames, 3) + 1, rng)
        turns, stays = (found[:-1], found[-1:]) if len(found) > 2 and rng.random() < 0.5 else (found[:3], [])
        turns = turns[:frames]
        cuts = np.sort(rng.choice(np.arange(1, frames), len(turns) - 1, replace=False))
        shown = tuple((turns[int(np.searchsorted(cuts, frame, side="right"))], *stays) for frame in range(frames))
        names = [self._word(index) for index in found]
        said = []
        starts = [("The first object is the", "Which object appears first?", turns[0])]
        starts += [("The last object is the", "Which object appears last?", turns[-1])]
        for before, after in pairwise(turns):
            name = self._word(before)
            starts.append((f"Right after the {name} comes the", f"Which object appears right after the {name}?", after))
        for start, text, index in starts:
            answer = self._word(index)
            ask = self._ask("order", text, answer, names, self.names, rng)
            said.append(Said("order", Fact("order", start, answer), ask))
        return Bag(shown, tuple(said))

    def _corner(self, frames: int, rng: np.random.Generator) -> Bag:
        """Something small near a corner of every frame, and one or two large things beside it or in turns."""
        small = int(rng.choice(self.things.cornered))
        name = self._word(small)
        alike = {name} | ALIKE.get(name, set())
        found = self._different(self.things.large, 3, rng)
        found = [index for index in found if self._word(index) not in alike][: int(rng.integers(1, 3))]
        names = [self._word(index) for index in found]
        ask = self._ask("small", "Which object is the small one near the corner?", name, names, self.names, rng)
        said = [Said("small", Fact("small", "The small object near the corner is the", name), ask)]
        sizes = [len(self.things.all[index].at) for index in found]
        if found and (len(found) == 1 or max(sizes) >= LARGER * min(sizes)):
            largest = names[int(np.argmax(sizes))]
            ask = self._ask("name", "Which object is the largest?", largest, [name, *names], self.names, rng)
            said.append(Said("name", Fact("name", "The largest object is the", largest), ask))
        turns = len(found) > 1 and frames > 1 and rng.random() < 0.5
        cut = int(rng.integers(1, frames)) if turns else 0
        shown = tuple((small, found[frame >= cut]) if turns else (small, *found) for frame in range(frames))
        return Bag(shown, tuple(said), "own")


def picked(
    things: Things, frame: Sequence[int], level: int, rng: np.random.Generator, sizes: Sizes = "any"
) -> tuple[np.ndarray, ...]:
    """One frame of a bag in reading order: units `[n, 1536]`, words, tints, unit numbers (rows first) and whether each
    unit is the first of its thing `[n]`."""
    _, most, _, _, _, bare = LEVELS[level]
    alike = 1 + int(rng.integers(most)) if sizes == "even" else SIDE * SIDE if sizes == "own" else 0
    chosen = [things.all[index] for index in frame]
    chosen += [things.bare[index] for index in rng.integers(len(things.bare), size=bare)]
    units, words, tints, numbers, starts = [], [], [], [], []
    for thing in chosen:
        wanted = 1 if thing.bare else alike or 1 + int(rng.integers(most))
        at = np.sort(rng.permutation(thing.at)[:wanted])
        units.append(things.units(thing, at))
        words += [thing.word] * len(at)
        tints += [thing.tint] * len(at)
        numbers += at.tolist()
        starts += [not thing.bare, *[False] * (len(at) - 1)]
    order = np.lexsort((rng.random(len(numbers)), numbers))
    arrays = (np.concatenate(units), np.array(words), np.array(tints), np.array(numbers), np.array(starts))
    return tuple(array[order] for array in arrays)
