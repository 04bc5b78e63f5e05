"""Stored features, prompts, and units drawn for the warm start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.embedded_model.sets import SETS
from benchmarks.embedded_model.units import is_backdrop, places, pooled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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

    tokenizer: PreTrainedTokenizerBase

    @lru_cache(maxsize=65536)  # noqa: B019 - one instance lives as long as the process
    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text; special tokens are recognised, none is added."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def shown(self, per_frame: Sequence[int], image: bool = False) -> list[int]:
        """The prompt up to and with the last frame, of so many tokens each; `image`: a still; no frame: text alone."""
        frames = [f"<img>{'<IMG_CONTEXT>' * count}</img>" for count in per_frame]
        numbered = "\n".join(f"Frame{index}: {frame}" for index, frame in enumerate(frames, 1))
        return list(self.encode("<|im_start|>user\n" + (frames[0] if image else numbered)))

    def visual(self, frames: int, tokens_per_frame: int, image: bool = False) -> list[int]:
        """The same for frames of equal size."""
        return self.shown([tokens_per_frame] * frames, image)

    def question_text(self, question: str, after_frames: bool = True) -> str:
        """The rest of the prompt as a string."""
        start = "\n" if after_frames else ""
        return f"{start}{question}<|im_end|>\n<|im_start|>assistant\n"

    def question(self, question: str, after_frames: bool = True) -> list[int]:
        """The rest of the prompt. Frames end in a special token, so the two parts may be encoded apart."""
        return list(self.encode(self.question_text(question, after_frames)))

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
