"""Readings: something seen, whole or in part, and what is said or asked of it. Real scenes, or bags of things."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from benchmarks.embedded_model.bags import Bags, picked
from benchmarks.embedded_model.data import FACTS, QUESTIONS, WINDOWS, FeatureBank, pool
from benchmarks.embedded_model.guide import Shown, sizes
from benchmarks.embedded_model.sets import OPEN_SHARE, ExactSet, questions, statements
from benchmarks.embedded_model.things import centres, starts
from benchmarks.embedded_model.units import is_backdrop, places, pooled
from benchmarks.exact.facts import Fact
from benchmarks.exact.questions import prompt

#: Clips are read at full resolution without most of their bare units so often, which keeps so many of these.
SPARSE_SHARE, BARE_KEPT = 0.5, (0.03, 0.1, 0.2)
#: Bags stand where their units would stand among all 64 of a frame so often; else close together, as after merging.
SPREAD_SHARE = 0.7
_FULL = (1, 1)


class Reading(NamedTuple):
    """Visual tokens in reading order, and sentences or questions about them.

    Attributes:
        units: `[n, 1536]` float32; shown: what each shows.
        numbers: of units among the 64 of their frame `[n]`, if positions leave room for those that are missing.
        frames: how many; image: a still that is shown as an image, not as a frame of a video.
        facts, asked: what is said, or asked (kind, text, answer), of it; one of the two is empty.
    """

    units: torch.Tensor
    shown: Shown
    numbers: np.ndarray | None
    frames: int
    image: bool
    facts: tuple[Fact, ...]
    asked: tuple[tuple[str, str, str], ...]


def bag_reading(bags: Bags, level: int, stated: bool, rng: np.random.Generator) -> Reading:
    """A bag of this level."""
    while True:
        bag = bags.draw(level, rng)
        order = rng.permutation(len(bag.said))
        said = [bag.said[int(index)] for index in order]
        facts = tuple(one.fact for one in said if one.fact) if stated else ()
        asks = [one.ask for one in said if one.ask] if not stated else []
        if facts or asks:
            break
    parts = [picked(bags.things, frame, level, rng, bag.sizes) for frame in bag.frames]
    units, words, tints, numbers, first = (np.concatenate(part) for part in zip(*parts, strict=True))
    frames = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    where = torch.from_numpy(centres(numbers))
    said_of, tinted, framed = (torch.from_numpy(part).long() for part in (words, tints, frames))
    begun = torch.from_numpy(first)
    shown = Shown(said_of, tinted, framed, where, begun, sizes(said_of, tinted, framed, begun))
    asked = tuple((ask.kind, ask.text if rng.random() < OPEN_SHARE else prompt(ask), ask.answer) for ask in asks)
    image = len(parts) == 1 and rng.random() < 0.5
    spread = numbers if rng.random() < SPREAD_SHARE else None
    return Reading(torch.from_numpy(units), shown, spread, len(parts), image, facts, asked)


def scene_reading(bank: FeatureBank, stated: bool, rng: np.random.Generator) -> Reading:
    """A scene or its twin in some of its frames; whole, averaged, or without most bare units. `stated`: facts are said
    of it in place of questions, if it has any."""
    entry = bank.entry
    frames = entry.frame_count(rng)
    index, backwards = int(rng.integers(bank.count)), bool(rng.random() < 0.5)
    twin = bank.shown(index, backwards=True) if backwards else None
    scene = bank.shown(index) if twin is None else twin
    chosen = entry.picked(frames, rng).tolist()
    chosen = chosen if twin is None else [entry.frames - 1 - frame for frame in chosen]
    image = frames == 1 and rng.random() < 0.5
    exact = isinstance(entry, ExactSet)
    facts = tuple(statements(scene, rng, FACTS)) if stated and exact else ()
    asked = () if facts else tuple(questions(scene, frames, image, rng, QUESTIONS))
    sparse = exact and frames > 1 and rng.random() < SPARSE_SHARE
    window = _FULL if sparse else WINDOWS[rng.choice(len(WINDOWS), p=entry.windows)]
    units = pool(bank.clip(index, chosen).cpu(), window)
    found = pooled(bank.labels[index, chosen].cpu(), window)
    count = units.shape[1]
    words, tints = found.reshape(-1, 2).unbind(-1)
    framed, where = torch.arange(frames).repeat_interleave(count), places(window).repeat(frames, 1)
    begun = torch.from_numpy(starts(found.numpy(), window))
    shown = Shown(words, tints, framed, where, begun, sizes(words, tints, framed, begun))
    units = units.flatten(0, 1)
    if not sparse:
        return Reading(units, shown, None, frames, image, facts, asked)
    keep = (words >= 0) & ~is_backdrop(words) | torch.from_numpy(rng.random(len(words)) < rng.choice(BARE_KEPT))
    keep[torch.arange(frames) * count + int(rng.integers(count))] = True
    numbers = np.tile(np.arange(count), frames)[keep.numpy()]
    return Reading(units[keep], Shown(*(part[keep] for part in shown)), numbers, frames, image, facts, asked)
