"""What a training run reads when: bags first, whole scenes later. Steps follow from the seed and how far the run is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.embedded_model.bags import LEVELS, Bags
from benchmarks.embedded_model.data import FeatureBank, Prompter
from benchmarks.embedded_model.guide import Mention
from benchmarks.embedded_model.model import Batch, pad_rows
from benchmarks.embedded_model.packing import join, pack
from benchmarks.embedded_model.readings import Reading, bag_reading, scene_reading

#: Batches of the language model's own short answers, so that it still talks.
TEXT_SHARE, TEXT_ROWS = 0.03, 8
#: Longer rows cost more in masks than they save in padding.
ROW_TOKENS = 1000
#: A clip of eight whole frames takes 560: a shorter row would hold one question about it.
SCENE_TOKENS = 800


class Mix(NamedTuple):
    """Share of steps that read bags, share of these whose units are imagined, the level of bags, and how often facts
    are said in place of questions."""

    bags: float
    imagined: float
    level: float
    facts: float


def _ramp(progress: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def mix(progress: float) -> Mix:
    """At `progress` 0 to 1: lookups among a few imagined units, then among what the projector makes of real ones, then
    whole scenes. Facts are short, so they come first; a test asks questions with options, so these come last."""
    return Mix(
        bags=1.0 - 0.85 * _ramp(progress, 0.35, 0.75),
        imagined=1.0 - 0.9 * _ramp(progress, 0.25, 0.6),
        level=(len(LEVELS) - 1) * _ramp(progress, 0.0, 0.5),
        facts=0.5 - 0.3 * _ramp(progress, 0.5, 0.8),
    )


class Course:
    """Draws the batch of a step.

    Args:
        banks, shares: what scenes are drawn from, how often.
        bags: of the things of all; None if there are too few, then all is scenes.
        texts: `(prompt ids, answer ids)` without anything to see.
        tokens: in a batch, about; scenes take SCENE_TOKENS at least.
    """

    def __init__(
        self,
        banks: Sequence[FeatureBank],
        shares: Sequence[float],
        bags: Bags | None,
        prompter: Prompter,
        mentions: Callable[[str], tuple[Mention, ...]],
        texts: Sequence[tuple[list[int], list[int]]],
        tokens: int,
    ) -> None:
        self.banks, self.bags, self.texts = banks, bags, texts
        self.shares = np.asarray(shares) / sum(shares)
        self.prompter, self.mentions, self.tokens = prompter, mentions, tokens

    def batch(self, rng: np.random.Generator, progress: float) -> tuple[Batch, bool]:
        """A batch, and whether its units are to be imagined."""
        now = mix(progress)
        if rng.random() < TEXT_SHARE and len(self.texts) >= TEXT_ROWS:
            chosen = rng.choice(len(self.texts), TEXT_ROWS, replace=False)
            return pad_rows([self.texts[index] for index in chosen], None), False
        stated = bool(rng.random() < now.facts)
        if self.bags is not None and rng.random() < now.bags:
            bags = self.bags
            level = min(len(LEVELS) - 1, int(now.level + rng.random()))
            imagined = bool(rng.random() < now.imagined)
            return self._rows(lambda: bag_reading(bags, level, stated, rng), self.tokens), imagined
        bank = self.banks[rng.choice(len(self.banks), p=self.shares)]
        return self._rows(lambda: scene_reading(bank, stated, rng), max(self.tokens, SCENE_TOKENS)), False

    def _rows(self, draw: Callable[[], Reading], tokens: int) -> Batch:
        count = max(1, tokens // ROW_TOKENS)
        budget = min(tokens, ROW_TOKENS)
        return join([pack(draw, self.prompter, self.mentions, budget) for _ in range(count)])
