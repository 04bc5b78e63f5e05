"""Readings, one after another in rows: every token a reading's own, every question apart from the others. Pure.

A row holds several readings, so nothing is lost to padding, and positions are free: units of a bag may stand where they
would among all 64 of their frame, so that short rows teach distances of whole clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.embedded_model.data import Prompter
from benchmarks.embedded_model.guide import Look, Mention, Shown, answer_mention, look_back, looks, role
from benchmarks.embedded_model.model import EOS_ID, IGNORE, IMAGE_ID, Batch
from benchmarks.embedded_model.readings import Reading
from benchmarks.embedded_model.sets import ASK_FACTS
from benchmarks.embedded_model.things import SIDE

#: Sentences or questions about one reading, at most.
MOST = 8
#: A row so full takes no other reading.
FULL = 0.9
UNITS = SIDE * SIDE


@dataclass
class Row:
    """Readings in one row.

    Attributes:
        owners, branches: whose token it is, and 0 for what a reading's questions share, else the question's number.
        kinds: of the answers, in order.
        found: of each reading what is mentioned, what answers name, and where its visual tokens are.
        backward: where an answer begins that names nothing, and the words that its question is about.
    """

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    found: list[tuple[list[Mention], list[Mention], list[int]]] = field(default_factory=list)
    backward: list[tuple[int, list[int]]] = field(default_factory=list)

    def _add(self, ids: Sequence[int], labels: Sequence[int], positions: Sequence[int], branch: int) -> None:
        self.ids += ids
        self.labels += labels
        self.positions += positions
        self.branches += [branch] * len(ids)
        self.owners += [len(self.readings)] * len(ids)

    def mask(self) -> torch.Tensor:
        """Who sees whom: `[length, length]` bool."""
        owners, branches = torch.tensor(self.owners), torch.tensor(self.branches)
        own = (branches[:, None] == branches) | (branches == 0)
        return (own & (owners[:, None] == owners)).tril()

    def looks(self, length: int) -> tuple[list[Look], list[Look]]:
        """Of words that are mentioned, and of answers, in a row that is padded to so many tokens."""
        mentioned: list[Look] = []
        answered = [look_back(at, words, length) for at, words in self.backward]
        for reading, (mentions, answers, at) in zip(self.readings, self.found, strict=True):
            mentioned += looks(mentions, reading.shown, torch.tensor(at), length)
            answered += looks(answers, reading.shown, torch.tensor(at), length)
        return mentioned, answered


def steps(ids: Sequence[int], reading: Reading) -> np.ndarray:
    """How far each token of a prompt's visual part is from the one before it: 1, or with room for missing units."""
    found = np.ones(len(ids), int)
    if reading.numbers is None:
        return found
    at = np.flatnonzero(np.array(ids) == IMAGE_ID)
    frames = reading.shown.frames.numpy()
    first = np.diff(frames, prepend=-1) > 0
    before = np.where(first, -1, np.roll(reading.numbers, 1))
    # Two things of a bag may stand in one place.
    found[at] = np.maximum(reading.numbers - before, 0)
    last = np.diff(frames, append=frames[-1] + 1) > 0
    found[at[last] + 1] = UNITS - reading.numbers[last]
    return found


def pack(
    draw: Callable[[], Reading], prompter: Prompter, mentions: Callable[[str], tuple[Mention, ...]], budget: int
) -> Row:
    """A row of at most so many tokens, unless its first reading alone is longer; what is left over is dropped."""
    row = Row()
    while True:
        reading = draw()
        per_frame = torch.bincount(reading.shown.frames, minlength=reading.frames).tolist()
        shared = prompter.shown(per_frame, reading.image)
        far = steps(shared, reading)
        if reading.facts:
            asking = prompter.question(ASK_FACTS)
            shared, far = shared + asking, np.append(far, np.ones(len(asking), int))
            asks = [(fact.kind, fact.start, f" {fact.end}") for fact in reading.facts]
        else:
            asks = [(kind, prompter.question_text(text), answer) for kind, text, answer in reading.asked]
        parts: list[tuple[str, str, list[int], list[int], str]] = []
        length = len(shared)
        for kind, text, answer in asks[:MOST]:
            asked, answered = list(prompter.encode(text)), [*prompter.encode(answer), EOS_ID]
            if parts and len(row.ids) + length + len(asked) + len(answered) > budget:
                break
            parts.append((kind, text, asked, answered, answer.strip()))
            length += len(asked) + len(answered)
        if row.ids and len(row.ids) + length > budget:
            return row
        start, positions = len(row.ids), (np.cumsum(far) - 1).tolist()
        found: tuple[list[Mention], list[Mention], list[int]] = ([], [], [])
        found[2].extend(start + at for at, token in enumerate(shared) if token == IMAGE_ID)
        row._add(shared, [IGNORE] * len(shared), positions, 0)
        for number, (kind, text, asked, answered, answer) in enumerate(parts, 1):
            here = len(row.ids)
            found[0].extend(mention._replace(at=here + mention.at) for mention in mentions(text))
            names = answer_mention(here + len(asked) - 1, kind, answer)
            # What a question is about comes before its options.
            about = [here + mention.at for mention in mentions(text.split("?")[0])]
            if names:
                found[1].append(names)
                by = role(prompter.tokenizer, text)
                if by is not None:
                    found[0].append(names._replace(at=here + by))
            elif about:
                row.backward.append((here + len(asked) - 1, about))
            after = range(positions[-1] + 1, positions[-1] + 1 + len(asked) + len(answered))
            row._add(asked + answered, [IGNORE] * len(asked) + answered, list(after), number)
            row.kinds.append(kind)
        row.readings.append(reading)
        row.found.append(found)
        if len(row.ids) >= FULL * budget:
            return row


def join(rows: Sequence[Row]) -> Batch:
    """Rows as one batch, padded on the right; padding sees nothing but itself."""
    length = max(len(row.ids) for row in rows)
    shape = (len(rows), length)
    ids, labels, positions = torch.full(shape, EOS_ID), torch.full(shape, IGNORE), torch.zeros(shape, dtype=torch.long)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
    for number, row in enumerate(rows):
        span = slice(0, len(row.ids))
        for into, values in ((ids, row.ids), (labels, row.labels), (positions, row.positions)):
            into[number, span] = torch.tensor(values)
        mask[number, span, span] = row.mask()
    readings = [reading for row in rows for reading in row.readings]
    shown = Shown(*(torch.cat(parts) for parts in zip(*(reading.shown for reading in readings), strict=True)))
    units = torch.cat([reading.units for reading in readings])
    kinds = [kind for row in rows for kind in row.kinds]
    return Batch(ids, labels, units, positions, mask[:, None], shown, [row.looks(length) for row in rows], kinds)
