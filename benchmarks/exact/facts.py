"""Everything that is true of a scene and that its test's templates could ask for, as sentences without their last word.

For training only: a fact is a third as long as a question with options and has the same answer. Pure.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from benchmarks.exact.compose import MOST, RELATIONS
from benchmarks.exact.scene import Actor, Ask, ExactScene, Sign
from benchmarks.exact.words import plural
from benchmarks.scenes.vocabulary import PLURAL_NAMES


class Fact(NamedTuple):
    """A sentence in two parts, and what it is about."""

    kind: str
    start: str
    end: str


#: How a question is said as a sentence; `{}` is what the question names.
_SAID = {
    "Which object is the largest?": "The largest object is the",
    "Which object is the small one near the corner?": "The small object near the corner is the",
    "Which object appears first?": "The first object is the",
    "Which object appears last?": "The last object is the",
    "Which word is on the sign?": "The word on the sign is",
    "Which number is on the sign?": "The number on the sign is",
}
#: A place is said where it is clear: thirds of the frame, with a margin.
_THIRDS = ((0.0, 0.29), (0.38, 0.62), (0.71, 1.0))
_ACROSS, _DOWN = ("left", "center", "right"), ("top", "middle", "bottom")


def _said(ask: Ask) -> Fact | None:
    if ask.kind == "motion":
        start = ask.text.replace("Which way does the", "The").replace("move?", "moves")
    elif ask.text.startswith("Which object appears right"):
        start = ask.text.replace("Which object appears right", "Right").replace("?", " comes the")
    elif ask.text in _SAID:
        start = _SAID[ask.text]
    else:
        return None
    return Fact(ask.kind, start, ask.answer)


def way(first: Actor, second: Actor, time: float = 0.5) -> str | None:
    """Where the first is compared to the second, None where it is not clear."""
    across, down = (first.at(time)[axis] - second.at(time)[axis] for axis in (0, 1))
    longer, shorter = max(abs(across), abs(down)), min(abs(across), abs(down))
    if longer < 0.15 or shorter > 0.35 * longer:
        return None
    wanted = (1 if across > 0 else -1, 0) if abs(across) > abs(down) else (0, 1 if down > 0 else -1)
    return next(name for name, direction in RELATIONS.items() if direction == wanted)


def _place(actor: Actor, aspect: float) -> list[Fact]:
    x, y, _ = actor.at(0.5)
    found = []
    for share, words, start in ((x / aspect, _ACROSS, "is on the"), (y, _DOWN, "is at the")):
        for (low, high), word in zip(_THIRDS, words, strict=True):
            if low <= share <= high:
                found.append(Fact("place", f"The {actor.name} {start}", word))
    return found


def facts(scene: ExactScene, rng: np.random.Generator) -> list[Fact]:
    """All facts of a scene; `rng` says which of two things is compared to which."""
    said = [fact for fact in map(_said, scene.asks) if fact]
    things = [actor for actor in scene.actors if not isinstance(actor.shows, Sign)]
    names = [actor.name for actor in things]
    once = [actor for actor in things if names.count(actor.name) == 1]
    tints = [actor.tint for actor in things if actor.tint]
    for actor in once:
        if actor.tint:
            said.append(Fact("colour", f"The {actor.name} is", actor.tint))
            if tints.count(actor.tint) == 1:
                said.append(Fact("name", f"The {actor.tint} object is the", actor.name))
    if scene.template in ("collage", "pair"):
        for pair in combinations(once, 2):
            first, second = pair if rng.random() < 0.5 else pair[::-1]
            where = way(first, second)
            if where:
                said.append(Fact("relation", f"Compared to the {second.name}, the {first.name} is", where))
    if scene.template in ("collage", "crowd"):
        for name in dict.fromkeys(names):
            if names.count(name) <= MOST and name not in PLURAL_NAMES:
                said.append(Fact("count", f"The number of {plural(name)} is", str(names.count(name))))
    if scene.template == "collage":
        for actor in once:
            said += _place(actor, scene.aspect)
    return said
