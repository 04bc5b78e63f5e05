"""Things in stored frames: which units show each, and where it stands. What bags of units are made of.

Composed scenes know what covers every unit (`units.labels`), so a thing is a patch of units with one label that touch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.embedded_model.units import BACKDROPS, WORDS
from benchmarks.exact.words import all_names

if TYPE_CHECKING:
    from benchmarks.embedded_model.data import FeatureBank

SIDE = 8
#: A name takes part if it was seen so often.
SEEN = 8
#: Names, and dyed things, that make up bags.
ENOUGH = 16
#: In so many units a thing is small; in so many, one of the scene's large ones.
SMALL, LARGE = 2, (4, 16)
#: From here on a place is near an edge, on both axes near a corner; large things keep this far inside.
NEAR_EDGE, INSIDE = 0.55, 0.7


class Thing(NamedTuple):
    """Units `at` (0..63, rows first) of one stored frame that show the same: rows of WORDS and TINT_WORDS (-1: none).

    `bare`: nothing but a backdrop.
    """

    bank: int
    scene: int
    frame: int
    at: np.ndarray
    word: int
    tint: int
    bare: bool = False


def _cells(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in zip(*np.nonzero(mask), strict=True)}


def patches(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Cells `[rows, columns]` bool that touch at an edge, as flat indices in order, a patch at a time."""
    columns, left = mask.shape[1], _cells(mask)
    while left:
        todo, patch = [min(left)], []
        left.remove(todo[0])
        while todo:
            row, column = todo.pop()
            patch.append(row * columns + column)
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            todo += near
        yield np.sort(patch)


def starts(found: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Whether a unit is the first of its thing, in reading order: labels of frames averaged by `window`,
    `[frames, units, 2]` -> bool `[frames * units]`."""
    first = np.zeros(found.shape[:2], bool)
    for flags, labels in zip(first, found, strict=True):
        for word, tint in np.unique(labels, axis=0):
            if word >= 0 and WORDS[word] not in BACKDROPS:
                same = (labels == (word, tint)).all(-1).reshape(SIDE // window[0], SIDE // window[1])
                flags[[patch[0] for patch in patches(same)]] = True
    return first.ravel()


def centres(at: np.ndarray) -> np.ndarray:
    """Centres of units `[n]`, x then y in -1..1: `[n, 2]` float32."""
    return np.stack([(at % SIDE + 0.5) * 2 / SIDE - 1, (at // SIDE + 0.5) * 2 / SIDE - 1], -1).astype(np.float32)


class Things:
    """All of some banks, by what they show.

    Attributes:
        all: the things; `middles` `[things, 2]`: where each stands, x then y in -1..1.
        named, dyed, signs: indices of those with a name, with a name and a colour, with a text.
        cornered, large: small ones near a corner, and large ones elsewhere, all named.
        of_word: indices by row of WORDS; `names`: rows of names seen often enough, `texts`: rows of texts.
        bare: patches of units that show nothing but a backdrop.
    """

    def __init__(self, banks: Sequence[FeatureBank]) -> None:
        self.banks = banks
        self.all: list[Thing] = []
        self.bare: list[Thing] = []
        self.of_word: dict[int, list[int]] = defaultdict(list)
        for number, bank in enumerate(banks):
            found = bank.labels.cpu().numpy()
            for scene, frame in np.ndindex(*found.shape[:2]):
                self._read(number, scene, frame, found[scene, frame].reshape(SIDE, SIDE, 2))
        names = set(all_names())
        is_name = {word: WORDS[word] in names for word in self.of_word}
        self.names = [word for word, seen in self.of_word.items() if is_name[word] and len(seen) >= SEEN]
        self.texts = [word for word in self.of_word if not is_name[word]]
        self.middles = np.array([centres(thing.at).mean(0) for thing in self.all], np.float32).reshape(-1, 2)
        words, tints = (np.array([getattr(thing, what) for thing in self.all]) for what in ("word", "tint"))
        self.named = np.flatnonzero(np.isin(words, self.names))
        self.dyed = self.named[tints[self.named] >= 0]
        self.signs = np.flatnonzero(np.isin(words, self.texts))
        sizes = np.array([len(self.all[index].at) for index in self.named], int)
        aside = np.abs(self.middles[self.named])
        self.cornered = self.named[(sizes <= SMALL) & (aside >= NEAR_EDGE).all(1)]
        self.large = self.named[(sizes >= LARGE[0]) & (sizes <= LARGE[1]) & (aside <= INSIDE).all(1)]

    @property
    def enough(self) -> bool:
        """Whether all kinds of bags can be made of them."""
        few = min(len(self.names), len(self.dyed), len(self.cornered), len(self.large))
        return few >= ENOUGH and len(self.signs) > 0 and len(self.bare) > 0

    def _read(self, bank: int, scene: int, frame: int, found: np.ndarray) -> None:
        for word, tint in np.unique(found.reshape(-1, 2), axis=0):
            if word < 0:
                continue
            mask = (found == (word, tint)).all(-1)
            if WORDS[word] in BACKDROPS:
                self.bare.append(Thing(bank, scene, frame, np.flatnonzero(mask.ravel()), int(word), -1, bare=True))
                continue
            for at in patches(mask):
                self.of_word[int(word)].append(len(self.all))
                self.all.append(Thing(bank, scene, frame, at, int(word), int(tint)))

    def units(self, thing: Thing, at: np.ndarray) -> np.ndarray:
        """Some of a thing's units, `[n, 1536]` float32."""
        stored = self.banks[thing.bank].units[thing.scene, thing.frame]
        return np.asarray(stored[at].cpu() if hasattr(stored, "cpu") else stored[at], np.float32)
