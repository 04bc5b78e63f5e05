"""Stored features and exact words, drawn into training batches. Step `n` of seed `s` is always the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.embedded_model.model import IMAGE_ID, Batch, branch_rows
from benchmarks.embedded_model.sets import ASK_FACTS, FACTS_SHARE, SETS, ExactSet, questions, statements
from benchmarks.embedded_model.units import is_backdrop, places, pooled
from benchmarks.exact.facts import Fact

# pooling window (rows, columns) over the 8 x 8 units -> 64, 32, 16, 4 visual tokens a frame
WINDOWS = ((1, 1), (1, 2), (2, 2), (4, 4))
NOISE_SHARE = 0.15
#: Questions that are asked of one reading of a clip.
QUESTIONS = 8
#: Facts that are said of one reading: they are shorter.
FACTS = 24
#: Of units that show nothing but a backdrop, so many take part in the warm start.
BACKDROP_SHARE = 0.08


def pool(units: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """Average adjacent units, as merging does: `[frames, 64, dim]` -> `[frames, 64 / (rows * columns), dim]`."""
    rows, columns = window
    frames, _, dim = units.shape
    grid = units.reshape(frames, 8 // rows, rows, 8 // columns, columns, dim)
    return grid.mean(dim=(2, 4)).reshape(frames, -1, dim)


def add_noise(units: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur what single pictures have in common with themselves only: Gaussian noise of a fixed share of the spread."""
    if units.is_cuda:  # so many numbers take longer to draw here than a step takes there
        generator = torch.Generator(units.device).manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(units.shape, generator=generator, device=units.device)
    else:
        noise = torch.from_numpy(rng.standard_normal(units.shape, dtype=np.float32))
    return units + NOISE_SHARE * units.std() * noise


@dataclass(frozen=True)
class Prompter:
    """Token ids of the prompts; the same string that the chat template and InternVL's processor give."""

    tokenizer: object

    @lru_cache(maxsize=65536)  # noqa: B019 - one instance lives as long as the process
    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text; special tokens are recognised, none is added."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))  # type: ignore[attr-defined]

    def visual(self, frames: int, tokens_per_frame: int, image: bool = False) -> list[int]:
        """The prompt up to and with the last frame; `image` for a still, `frames=0` for text alone."""
        shown = f"<img>{'<IMG_CONTEXT>' * tokens_per_frame}</img>"
        numbered = "\n".join(f"Frame{index + 1}: {shown}" for index in range(frames))
        return list(self.encode("<|im_start|>user\n" + (shown if image else numbered)))

    def question(self, question: str, after_frames: bool = True) -> list[int]:
        """The rest of the prompt. Frames end in a special token, so the two parts may be encoded apart."""
        start = "\n" if after_frames else ""
        return list(self.encode(f"{start}{question}<|im_end|>\n<|im_start|>assistant\n"))

    def asked(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Questions after the frames, and their answers."""
        return [(self.question(text), list(self.encode(answer))) for text, answer in pairs]

    def said(self, facts: Sequence[Fact]) -> list[tuple[list[int], list[int]]]:
        """Sentences that answer `sets.ASK_FACTS`, and how they end."""
        return [(list(self.encode(start)), list(self.encode(f" {end}"))) for _, start, end in facts]

    def ids(self, question: str, frames: int, tokens_per_frame: int, image: bool = False) -> list[int]:
        """The whole prompt."""
        return self.visual(frames, tokens_per_frame, image) + self.question(question, frames > 0)


class FeatureBank:
    """One set's stored units, labels and scenes; on a GPU all of it lies in its memory."""

    def __init__(self, name: str, folder: Path, material: Path, device: str = "cpu") -> None:
        self.entry = SETS[name]
        done = folder / f"{name}.done"
        self.count = int(done.read_text()) if done.is_file() else 0
        units, labels = (np.load(folder / f"{name}{kind}.npy", mmap_mode="r")[: self.count] for kind in ("", ".labels"))
        self.units: Any = units if device == "cpu" else torch.from_numpy(units).to(device)
        self.labels = torch.from_numpy(np.array(labels)).long().to(device)
        self._material = material
        self._shown: dict[tuple[int, bool], Any] = {}

    @property
    def scenes(self) -> list[Any]:
        """All of them, forwards."""
        return [self.shown(index) for index in range(self.count)]

    def clip(self, index: int, frames: Sequence[int]) -> torch.Tensor:
        """Units of some frames of one scene: `[frames, 64, 1536]` float32."""
        return self.clips([index], [frames])[0]

    def clips(self, indices: Any, frames: Any) -> torch.Tensor:
        """Units of `frames` `[scenes, n]` of the scenes `indices` `[scenes]`: `[scenes, n, 64, 1536]` float32."""
        at = np.asarray(indices)[:, None], np.asarray(frames)
        if torch.is_tensor(self.units):
            return self.units[tuple(map(torch.from_numpy, at))].float()
        return torch.from_numpy(self.units[at]).float()

    def shown(self, index: int, backwards: bool = False) -> Any:
        """A scene, or its twin, None where it has none; composed when it is first asked for."""
        if (index, backwards) not in self._shown:
            make = self.entry.twin if backwards else self.entry.scene
            self._shown[index, backwards] = make(self._material, self.entry.seeds[index])
        return self._shown[index, backwards]


def draw_batch(
    banks: Sequence[FeatureBank],
    shares: Sequence[float],
    prompter: Prompter,
    rng: np.random.Generator,
    token_budget: int,
    device: str = "cpu",
) -> Batch:
    """One batch of one shape: a number of frames, a pooling window, then as many scenes as the budget holds, each with
    its questions."""
    bank = banks[rng.choice(len(banks), p=np.asarray(shares) / sum(shares))]
    frames = bank.entry.frame_count(rng)
    window = WINDOWS[rng.choice(len(WINDOWS), p=bank.entry.windows)]
    per_frame = 64 // (window[0] * window[1])
    image = frames == 1 and rng.random() < 0.5
    stated = isinstance(bank.entry, ExactSet) and rng.random() < FACTS_SHARE
    rows: list[tuple[list[int], list[tuple[list[int], list[int]]]]] = []
    indices: list[int] = []
    picked: list[list[int]] = []
    longest = 0
    while True:
        index, backwards = int(rng.integers(bank.count)), bool(rng.random() < 0.5)
        twin = bank.shown(index, backwards=True) if backwards else None
        scene = bank.shown(index) if twin is None else twin
        row = prompter.visual(frames, per_frame, image), prompter.asked(questions(scene, frames, image, rng, QUESTIONS))
        if stated:
            row = row[0] + prompter.question(ASK_FACTS), prompter.said(statements(scene, rng, FACTS))
        length = len(row[0]) + sum(len(question) + len(answer) + 1 for question, answer in row[1])
        if rows and max(longest, length) * (len(rows) + 1) > token_budget:
            break
        longest = max(longest, length)
        chosen = bank.entry.picked(frames, rng).tolist()
        picked.append(chosen if twin is None else [bank.entry.frames - 1 - frame for frame in chosen])
        rows.append(row)
        indices.append(index)
    clips = bank.clips(indices, picked)
    units = pool(clips.flatten(0, 1), window).reshape(len(rows), frames * per_frame, -1)
    batch = branch_rows(rows, add_noise(units, rng)).to(device)
    if int((batch.ids == IMAGE_ID).sum()) != batch.units.shape[0] * batch.units.shape[1]:  # type: ignore[union-attr]
        raise RuntimeError("prompt and visual tokens disagree")
    return batch


def draw_units(
    banks: Sequence[FeatureBank], rng: np.random.Generator, frames: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Units of so many frames whose content is known: units `[n, 1536]`, labels `[n, 2]`, places `[n, 2]`."""
    sizes = np.array([bank.count * bank.entry.frames for bank in banks], float)
    window = ((1, 1), (2, 2))[int(rng.random() < 0.5)]
    per_bank = rng.multinomial(frames, sizes / sizes.sum())
    parts = []
    for bank, count in zip(banks, per_bank, strict=True):
        if count == 0:
            continue
        scenes, seen = rng.integers(bank.count, size=count), rng.integers(bank.entry.frames, size=count)
        units = pool(bank.clips(scenes, seen[:, None]).flatten(0, 1), window)
        found = pooled(bank.labels[torch.from_numpy(scenes), torch.from_numpy(seen)], window)
        chance = torch.from_numpy(rng.random(found.shape[:-1])).to(found.device)
        wanted = (found[..., 0] >= 0) & (~is_backdrop(found[..., 0]) | (chance < BACKDROP_SHARE))
        where = places(window).to(found.device).expand(len(units), -1, -1)
        parts.append((units[wanted], found[wanted], where[wanted]))
    units, found, where = (torch.cat(part) for part in zip(*parts, strict=True))
    return add_noise(units, rng), found, where
