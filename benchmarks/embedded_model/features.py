"""Compose the data sets and store what the frozen vision tower sees in them, so that training never runs it.

    python -m benchmarks.embedded_model.features --stamps DIR --emoji DIR --textures DIR --out DIR [--sets NAME ...]

Writes `OUT/<set>.npy`, `[scenes, frames, 64, 1536]` float16: the units before the projector (2 x 2 patches of
384, pixel-shuffled), and `OUT/<set>.coverage.npy`, `[scenes, frames, 2, 8, 8]` uint8. The words are not stored:
`compose` gives them back from the seed. A set that is only half done goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.scenes.compose import Scene, compose
from benchmarks.scenes.render import Textures, load_textures, render
from benchmarks.scenes.stamps import Cutout, find_cutouts, split_cutouts
from luvc.embedded import config_path
from luvc.embedded.assembly import PREPROCESSING, VISION_FILE
from luvc.embedded.towers import VISION_PREFIX, read_vision_tower

SIDE = 224
CHUNK = 16


@dataclass(frozen=True)
class SceneSet:
    """Scenes `first_seed ... first_seed + count - 1`, each seen in `frames` frames."""

    name: str
    first_seed: int
    count: int
    frames: int
    held_out_cutouts: bool = False

    def times(self, seed: int) -> np.ndarray:
        """When the scene is looked at: evenly, or anywhere if only once."""
        if self.frames == 1:
            return np.random.default_rng([1, seed]).random(1)
        return (np.arange(self.frames) + 0.5) / self.frames


SETS = {
    entry.name: entry
    for entry in (
        SceneSet("train_stills", 0, 4000, 1),
        SceneSet("train_clips", 100_000, 700, 4),
        SceneSet("train_long", 200_000, 150, 8),
        SceneSet("held_out_scenes", 900_000, 120, 8),
        SceneSet("held_out_cutouts", 950_000, 100, 8, held_out_cutouts=True),
        SceneSet("train_more", 300_000, 5000, 1),
    )
}


def pixel_shuffle(patches: torch.Tensor) -> torch.Tensor:
    """`[frames, 16 * 16, dim]` -> units `[frames, 8 * 8, 4 * dim]`, in the order InternVL's projector expects."""
    frames, count, dim = patches.shape
    side = round(count**0.5)
    grid = patches.reshape(frames, side, side // 2, 2 * dim).permute(0, 2, 1, 3)
    units = grid.reshape(frames, side // 2, side // 2, 4 * dim).permute(0, 2, 1, 3)
    return units.reshape(frames, count // 4, 4 * dim)


class FrozenTower:
    """The vision tower up to the layer that the model reads."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        from transformers import InternVLVisionConfig, InternVLVisionModel

        config = json.loads(config_path().read_text())
        self.depth = config["vision_config"]["num_hidden_layers"] + 1 + config["vision_feature_layer"]
        self.model = InternVLVisionModel(InternVLVisionConfig(**config["vision_config"])).eval().to(dtype)
        weights = read_vision_tower(VISION_FILE.locate(), grid=SIDE // 14)
        self.model.load_state_dict({name.removeprefix(VISION_PREFIX): value for name, value in weights.items()})
        self.mean = torch.tensor(PREPROCESSING["image_mean"]).view(3, 1, 1)
        self.std = torch.tensor(PREPROCESSING["image_std"]).view(3, 1, 1)
        self.dtype = dtype

    @torch.no_grad()
    def units(self, frames: np.ndarray) -> torch.Tensor:
        """uint8 frames `[frames, 224, 224, 3]` -> units `[frames, 64, 1536]` float32."""
        pixels = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        hidden = self.model.embeddings(pixels.to(self.dtype))
        for layer in self.model.encoder.layer[: self.depth]:
            hidden = layer(hidden)
        return pixel_shuffle(hidden[:, 1:].float())


def scenes_of(entry: SceneSet, cutouts: tuple[Cutout, ...]) -> list[Scene]:
    """The set's scenes in order. Training and held-out cut-outs never meet in one set."""
    train, held_out = split_cutouts(cutouts)
    chosen = held_out if entry.held_out_cutouts else train
    return [compose(seed, chosen) for seed in range(entry.first_seed, entry.first_seed + entry.count)]


def write_set(entry: SceneSet, cutouts: tuple[Cutout, ...], textures: Textures, tower: FrozenTower, out: Path) -> None:
    """Compute one set into its two files."""
    progress = out / f"{entry.name}.done"
    done = int(progress.read_text()) if progress.is_file() else 0
    mode = "r+" if done else "w+"
    units = np.lib.format.open_memmap(
        out / f"{entry.name}.npy", mode=mode, dtype=np.float16, shape=(entry.count, entry.frames, 64, 1536)
    )
    coverage = np.lib.format.open_memmap(
        out / f"{entry.name}.coverage.npy", mode=mode, dtype=np.uint8, shape=(entry.count, entry.frames, 2, 8, 8)
    )
    scenes, step, started = scenes_of(entry, cutouts), max(1, CHUNK // entry.frames), time.perf_counter()
    for first in range(done, entry.count, step):
        drawn = [render(scene, entry.times(scene.seed), SIDE, textures) for scene in scenes[first : first + step]]
        seen = tower.units(np.concatenate([frames for frames, _ in drawn]))
        units[first : first + len(drawn)] = seen.reshape(len(drawn), entry.frames, 64, 1536).half().numpy()
        coverage[first : first + len(drawn)] = np.stack([np.round(cover * 255) for _, cover in drawn]).astype(np.uint8)
        progress.write_text(str(first + len(drawn)))
        if first // step % 25 == 0:
            print(f"{entry.name} {first + len(drawn)}/{entry.count} {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Compute the sets that are asked for, going on where they stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stamps", type=Path, required=True, help="folder of the Tux Paint stamps")
    parser.add_argument("--emoji", type=Path, required=True, help="folder made by benchmarks.scenes.rasterise")
    parser.add_argument("--textures", type=Path, required=True, help="folder of photographic backgrounds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    cutouts, textures, tower = find_cutouts(args.stamps, args.emoji), load_textures(args.textures), FrozenTower()
    for name in args.sets:
        write_set(SETS[name], cutouts, textures, tower, args.out)


if __name__ == "__main__":
    main()
