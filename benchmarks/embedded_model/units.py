"""What every unit of a frame shows, and the loss that teaches the projector to say so. No language model runs.

Composed scenes know what stands where, so a frame labels its 64 units at once: the word for what is there (a name, a
backdrop, what a sign says), the colour it is dyed with, and its place. The projected unit is pulled to the sum of these
in the language model's own embeddings: a thing is then named by copying, and where it is can be read off linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from benchmarks.embedded_model.sets import BACKGROUND_WORDS, PHOTOGRAPH, background_word, slot_looks
from benchmarks.exact.scene import ExactScene
from benchmarks.exact.words import TINTS, all_names, sign_texts
from benchmarks.scenes.compose import COLOURS, Scene

BACKDROPS = frozenset({*BACKGROUND_WORDS.values(), *COLOURS, PHOTOGRAPH})
#: Rows of the table of words: the same in every run, so labels can be stored.
WORDS = tuple(sorted({*all_names(), *sign_texts(held_out=False), *BACKDROPS}))
TINT_WORDS = tuple(TINTS)
UNCLEAR = -1
_ROWS = {word: row for row, word in enumerate(WORDS)}
BACKDROP_ROWS = torch.tensor(sorted(_ROWS[word] for word in BACKDROPS))
#: A unit shows what covers it most, if that is so much of it; a backdrop, if nothing else covers more than that.
COVERED, BARE = 0.3, 0.03
#: Something small may cover no unit so far: then the unit it covers most shows it, if that is so much.
LEAST = 0.1
#: Embeddings that say which way something lies: from, to.
AXES = ((" left", " right"), (" top", " bottom"))
TINT_WEIGHT, TEMPERATURE = 0.5, 0.07


def is_backdrop(words: torch.Tensor) -> torch.Tensor:
    """Whether each row of WORDS names a backdrop; the shape of `words`."""
    return torch.isin(words, BACKDROP_ROWS.to(words.device))


def labels(scene: Scene | ExactScene, coverage: np.ndarray) -> np.ndarray:
    """coverage `[frames, slots, rows, columns]` in 0..1 -> int16 `[frames, rows * columns, 2]`: row of WORDS, and of
    TINT_WORDS; UNCLEAR where it cannot be told."""
    frames = len(coverage)
    flat = coverage.reshape(frames, coverage.shape[1], -1)
    looks = slot_looks(scene)
    words = np.array([_ROWS[look.text or look.name or ""] for look in looks] + [UNCLEAR], np.int16)
    tints = np.array([TINT_WORDS.index(look.tint) if look.tint else UNCLEAR for look in looks] + [UNCLEAR], np.int16)
    flat = flat[:, : len(looks)]
    slot = flat.argmax(1) if looks else np.zeros((frames, flat.shape[2]), int)
    slot = np.where(flat.max(1, initial=0) > COVERED, slot, len(looks))
    for frame, look in np.ndindex(frames, len(looks)):
        best = flat[frame, look].argmax()
        if flat[frame, look, best] > LEAST and slot[frame, best] == len(looks) and look not in slot[frame]:
            slot[frame, best] = look
    found = np.stack([words[slot], tints[slot]], -1)
    found[flat.sum(1) < BARE, 0] = _ROWS[background_word(scene)]
    return found


def pooled(found: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """Labels of averaged units: what at least half of them show. `[n, 64, 2]` -> `[n, 64 / (rows * columns), 2]`."""
    rows, columns = window
    count = rows * columns
    if count == 1:
        return found
    grid = (
        found.reshape(-1, 8 // rows, rows, 8 // columns, columns, 2).transpose(2, 3).reshape(-1, 64 // count, count, 2)
    )
    word, tint = grid[..., 0], grid[..., 1]
    votes = (word[..., :, None] == word[..., None, :]).sum(-1) * (word >= 0)
    most, at = votes.max(-1)
    chosen = torch.stack([part.gather(-1, at[..., None])[..., 0] for part in (word, tint)], -1)
    return torch.where((2 * most >= count)[..., None], chosen, UNCLEAR)


def places(window: tuple[int, int]) -> torch.Tensor:
    """Centres of the units of a frame, x then y, in -1..1: `[64 / (rows * columns), 2]`."""
    across, down = ((torch.arange(8 // size) + 0.5) * size / 4 - 1 for size in reversed(window))
    return torch.stack([across.repeat(len(down)), down.repeat_interleave(len(across))], -1)


class UnitTargets:
    """The table of words, tints and directions, in a language model's embeddings.

    Args:
        embeddings: `[vocabulary, dim]`.
        encode: a text's token ids.
    """

    def __init__(self, embeddings: torch.Tensor, encode: Callable[[str], Sequence[int]]) -> None:
        table = embeddings.detach().float()

        def vector(text: str) -> torch.Tensor:
            """Of several tokens the first weighs most, so that 47 is not 74."""
            tokens = table[list(encode(text))]
            weights = 0.6 ** torch.arange(len(tokens), device=table.device, dtype=torch.float32)
            return (weights[:, None] * tokens).sum(0) / weights.sum()

        self.words = torch.stack([vector(f" {word}") for word in WORDS])
        self.tints = torch.stack([vector(f" {tint}") for tint in TINT_WORDS])
        ways = torch.stack([vector(after) - vector(before) for before, after in AXES])
        # As long as half a word, so that a place never hides what is there.
        self.axes = functional.normalize(ways, dim=-1) * 0.5 * self.words.norm(dim=-1).mean()

    def of(self, found: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Where units should land: labels `[n, 2]` with known words, places `[n, 2]` -> `[n, dim]`."""
        tint = torch.where((found[:, 1] >= 0)[:, None], self.tints[found[:, 1].clamp(min=0)], 0.0)
        return self.words[found[:, 0]] + TINT_WEIGHT * tint + at @ self.axes

    def loss(self, projected: torch.Tensor, found: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, float, float]:
        """Nearest word, nearest tint, and distance to the target.

        Args:
            projected: `[n, dim]`; found: labels `[n, 2]` with known words; at: places `[n, 2]`.

        Returns:
            The loss, and the shares of nearest words and nearest tints that are right.
        """
        wanted = self.of(found, at)
        distance = ((projected - wanted) ** 2).sum(-1).mean() / (wanted**2).sum(-1).mean()
        # What a unit says of its place is taken away before its word is looked for, and the word before the tint.
        shown = projected - at @ self.axes
        word_loss, word_right = _nearest(shown, self.words, found[:, 0])
        dyed = found[:, 1] >= 0
        rest = (shown[dyed] - self.words[found[dyed, 0]]) / TINT_WEIGHT
        tint_loss, tint_right = (
            _nearest(rest, self.tints, found[dyed, 1]) if dyed.any() else (distance.new_zeros(()), 1.0)
        )
        return word_loss + 0.5 * tint_loss + distance, word_right, tint_right


def _nearest(points: torch.Tensor, table: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Cross-entropy of the nearest row by angle, and how often it is the right one."""
    middle = table.mean(0)
    cosine = functional.normalize(points - middle, dim=-1) @ functional.normalize(table - middle, dim=-1).T
    return functional.cross_entropy(cosine / TEMPERATURE, rows), float((cosine.argmax(-1) == rows).float().mean())
