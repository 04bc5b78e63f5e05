"""Stored features and exact words, drawn into training batches. Step `n` of seed `s` is always the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.embedded_model.model import IMAGE_ID, Batch, pad_rows
from benchmarks.embedded_model.sets import SETS, Assets, question

# pooling window (rows, columns) over the 8 x 8 units -> 64, 32, 16, 4 visual tokens a frame
WINDOWS = ((1, 1), (1, 2), (2, 2), (4, 4))
NOISE_SHARE = 0.15
WINDOW_SHARES = {1: (0.2, 0.15, 0.6, 0.05), 4: (0.08, 0.12, 0.65, 0.15), 8: (0.15, 0.1, 0.6, 0.15)}


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

    def ids(self, question: str, frames: int, tokens_per_frame: int, image: bool = False) -> list[int]:
        """The whole prompt."""
        return self.visual(frames, tokens_per_frame, image) + self.question(question, frames > 0)


class FeatureBank:
    """One set's stored units, coverage and scenes."""

    def __init__(self, name: str, folder: Path, assets: Assets) -> None:
        self.entry = SETS[name]
        self.units = np.load(folder / f"{name}.npy", mmap_mode="r")
        self.coverage = np.load(folder / f"{name}.coverage.npy", mmap_mode="r")
        seeds = range(self.entry.first_seed, self.entry.first_seed + self.entry.count)
        self.scenes: list[Any] = [self.entry.scene(assets, seed) for seed in seeds]
        done = folder / f"{name}.done"
        self.count = int(done.read_text()) if done.is_file() else 0

    def clip(self, index: int, frames: Sequence[int]) -> torch.Tensor:
        """Units of some frames of one scene: `[frames, 64, 1536]` float32."""
        return self.stored(index, frames).float()

    def stored(self, index: int, frames: Sequence[int]) -> torch.Tensor:
        """The same as they are stored, float16."""
        return torch.from_numpy(np.array(self.units[index, list(frames)]))


def draw_batch(
    banks: Sequence[FeatureBank],
    shares: Sequence[float],
    prompter: Prompter,
    rng: np.random.Generator,
    token_budget: int,
    device: str = "cpu",
) -> Batch:
    """One batch of one shape: a number of frames, a pooling window, then as many scenes as the budget holds."""
    bank = banks[rng.choice(len(banks), p=np.asarray(shares) / sum(shares))]
    frames = bank.entry.frame_count(rng)
    window = WINDOWS[rng.choice(len(WINDOWS), p=WINDOW_SHARES[bank.entry.frames])]
    per_frame = 64 // (window[0] * window[1])
    image = frames == 1 and rng.random() < 0.5
    length = frames * (per_frame + 8) + 30
    rows: list[tuple[list[int], list[int]]] = []
    stored: list[torch.Tensor] = []
    for _ in range(max(1, token_budget // length)):
        index = int(rng.integers(bank.count))
        picked = bank.entry.picked(frames, rng)
        text, answer = question(bank.scenes[index], frames, image, rng)
        rows.append((prompter.ids(text, frames, per_frame, image), list(prompter.encode(answer))))
        stored.append(bank.stored(index, [int(frame) for frame in picked]))
    clips = torch.stack(stored).to(device).float()
    units = pool(clips.flatten(0, 1), window).reshape(len(rows), frames * per_frame, -1)
    batch = pad_rows(rows, add_noise(units, rng)).to(device)
    if int((batch.ids == IMAGE_ID).sum()) != batch.units.shape[0] * batch.units.shape[1]:  # type: ignore[union-attr]
        raise RuntimeError("prompt and visual tokens disagree")
    return batch
