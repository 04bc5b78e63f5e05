"""Compose the data sets and store what the vision tower sees in them, so that training on them never runs it.

    python -m benchmarks.embedded_model.features --material DIR --out DIR --sets exact_train ... [--tower FILE]

Writes `OUT/<set>.npy`, `[scenes, frames, 64, 1536]` float16: the units before the projector (2 x 2 patches of
384, pixel-shuffled), and `OUT/<set>.labels.npy`, `[scenes, frames, 64, 2]` int16: what each shows (`units.labels`).
Questions are not stored: `compose` gives them back from the seed. A set that is half done goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.embedded_model.model import LoraLinear, frozen_dtype
from benchmarks.embedded_model.sets import SETS, SIDE, SceneSet
from benchmarks.embedded_model.units import labels
from luvc.embedded import config_path
from luvc.embedded.assembly import PREPROCESSING, VISION_FILE, VISION_LORA_PREFIX
from luvc.embedded.towers import VISION_PREFIX, read_vision_tower

#: Linear maps of a layer, by the part they belong to.
ADAPTED = {"attention": ("q_proj", "k_proj", "v_proj", "projection_layer"), "mlp": ("fc1", "fc2")}
FROZEN = "frozen"
CHUNK_FRAMES = {"cpu": 16, "cuda": 512}


def pixel_shuffle(patches: torch.Tensor) -> torch.Tensor:
    """`[frames, 16 * 16, dim]` -> units `[frames, 8 * 8, 4 * dim]`, in the order InternVL's projector expects."""
    frames, count, dim = patches.shape
    side = round(count**0.5)
    grid = patches.reshape(frames, side, side // 2, 2 * dim).permute(0, 2, 1, 3)
    units = grid.reshape(frames, side // 2, side // 2, 4 * dim).permute(0, 2, 1, 3)
    return units.reshape(frames, count // 4, 4 * dim)


class Tower:
    """The vision tower up to the layer that the model reads, frozen but for what `adapt` adds."""

    def __init__(self, dtype: torch.dtype | None = None, device: str = "cpu") -> None:
        from transformers import InternVLVisionConfig, InternVLVisionModel

        dtype = dtype or frozen_dtype(device)
        config = json.loads(config_path().read_text())
        self.depth = config["vision_config"]["num_hidden_layers"] + 1 + config["vision_feature_layer"]
        self.model = InternVLVisionModel(InternVLVisionConfig(**config["vision_config"])).eval().to(dtype)
        weights = read_vision_tower(VISION_FILE.locate(), grid=SIDE // 14)
        self.model.load_state_dict({name.removeprefix(VISION_PREFIX): value for name, value in weights.items()})
        self.model.requires_grad_(False).to(device)
        self.start = self.depth
        self.adapters: dict[str, nn.Parameter] = {}
        self.mean = torch.tensor(PREPROCESSING["image_mean"], device=device).view(3, 1, 1)
        self.std = torch.tensor(PREPROCESSING["image_std"], device=device).view(3, 1, 1)
        self.dtype, self.device = dtype, device

    def adapt(self, layers: int, rank: int) -> None:
        """Give the last so many of the layers that are read a low-rank term each on every linear map."""
        self.start = self.depth - layers
        for index in range(self.start, self.depth):
            layer = self.model.encoder.layer[index]
            for part, names in ADAPTED.items():
                owner = getattr(layer, part)
                for name in names:
                    lora = LoraLinear(getattr(owner, name), rank).to(self.device)
                    setattr(owner, name, lora)
                    self.adapters |= {f"{index}.{part}.{name}.A": lora.A, f"{index}.{part}.{name}.B": lora.B}

    def export(self, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
        """What was added, as `luvc.embedded.assembly.apply_trained` reads it."""
        return {
            VISION_LORA_PREFIX + name: value.detach().to("cpu", dtype, copy=True)
            for name, value in self.adapters.items()
        }

    def restore(self, part: Mapping[str, torch.Tensor]) -> None:
        """Take over the adapters among what `export` wrote; nothing, if there are none.

        Raises:
            ValueError: they are not those of the tower's last layers.
        """
        own = {
            name.removeprefix(VISION_LORA_PREFIX): value
            for name, value in part.items()
            if name.startswith(VISION_LORA_PREFIX)
        }
        if not own:
            return
        first = min(int(name.split(".")[0]) for name in own)
        if not self.adapters:
            rank = next(len(value) for name, value in own.items() if name.endswith(".A"))
            self.adapt(self.depth - first, rank)
        if self.adapters.keys() != own.keys():
            raise ValueError(f"adapters of another tower: {sorted(self.adapters.keys() ^ own.keys())[:4]}")
        with torch.no_grad():
            for name, value in own.items():
                self.adapters[name].copy_(value)

    def units(self, frames: np.ndarray) -> torch.Tensor:
        """uint8 frames `[frames, 224, 224, 3]` -> units `[frames, 64, 1536]` float32, differentiable where adapted."""
        pixels = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float()
        pixels = (pixels / 255 - self.mean) / self.std
        hidden = self.model.embeddings(pixels.to(self.dtype))
        for layer in self.model.encoder.layer[: self.depth]:
            hidden = layer(hidden)
        return pixel_shuffle(hidden[:, 1:].float())


def labelled(entry: SceneSet, material: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of one scene `[frames, 224, 224, 3]` uint8, and what their units show `[frames, 64, 2]` int16."""
    frames, coverage = entry.draw(material, seed)
    return frames, labels(entry.scene(material, seed), coverage)


def drawn(entry: SceneSet, material: Path, first: int, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and labels of the set's scenes from `first` on, in order; drawn by so many processes, 0 for this one."""
    seeds = entry.seeds[first:]
    if not workers:
        yield from (labelled(entry, material, seed) for seed in seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        # Not all at once: what is drawn ahead waits in memory.
        ahead = 32 * workers
        for start in range(0, len(seeds), ahead):
            part = seeds[start : start + ahead]
            yield from pool.map(labelled, [entry] * len(part), [material] * len(part), part, chunksize=4)


def write_set(
    entry: SceneSet, material: Path, tower: Tower, out: Path, workers: int = 0, limit: int | None = None
) -> None:
    """Compute one set into its two files; with a limit, its first scenes for now."""
    progress = out / f"{entry.name}.done"
    done = int(progress.read_text()) if progress.is_file() else 0
    mode = "r+" if done else "w+"
    units = np.lib.format.open_memmap(
        out / f"{entry.name}.npy", mode=mode, dtype=np.float16, shape=(entry.count, entry.frames, 64, 1536)
    )
    found = np.lib.format.open_memmap(
        out / f"{entry.name}.labels.npy", mode=mode, dtype=np.int16, shape=(entry.count, entry.frames, 64, 2)
    )
    step, started = max(1, CHUNK_FRAMES[tower.device] // entry.frames), time.perf_counter()
    scenes = drawn(entry, material, done, workers)
    count = min(entry.count, limit or entry.count)
    for first in range(done, count, step):
        group = [next(scenes) for _ in range(min(step, count - first))]
        with torch.no_grad():
            seen = tower.units(np.concatenate([frames for frames, _ in group]))
        last = first + len(group)
        units[first:last] = seen.reshape(len(group), entry.frames, 64, 1536).half().cpu().numpy()
        found[first:last] = np.stack([shown for _, shown in group])
        progress.write_text(str(last))
        if first // step % 25 == 0:
            print(f"{entry.name} {last}/{entry.count} {time.perf_counter() - started:.0f} s", flush=True)


def label_again(entry: SceneSet, material: Path, out: Path, workers: int = 0) -> None:
    """Labels of a set's stored units by the rules of today; no tower runs."""
    done = int((out / f"{entry.name}.done").read_text())
    found = np.load(out / f"{entry.name}.labels.npy", mmap_mode="r+")
    for index, (_, shown) in zip(range(done), drawn(entry, material, 0, workers), strict=False):
        found[index] = shown


def tower_key(tower: Path | None) -> str:
    """What tells towers apart: "frozen", or the hash of what `perceive` wrote."""
    return hashlib.sha256(tower.read_bytes()).hexdigest()[:16] if tower else FROZEN


def check_tower(folder: Path, tower: Path | None) -> None:
    """That a folder's features, if it has any, were made with this tower; units of two towers must never be mixed.

    Raises:
        ValueError: they were made with another.
    """
    record = folder / "tower.txt"
    made = record.read_text() if record.is_file() else FROZEN if any(folder.glob("*.done")) else tower_key(tower)
    if made != tower_key(tower):
        raise ValueError(f"{folder}: features of tower {made}, not {tower_key(tower)}: take another folder or --tower")


def main() -> None:
    """Compute the sets that are asked for, going on where they stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--material", type=Path, required=True, help="folder made by benchmarks.exact.material")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), required=True)
    parser.add_argument("--tower", type=Path, help="what `perceive` trained")
    parser.add_argument("--limit", type=int, help="only the first so many scenes of each set for now")
    parser.add_argument("--relabel", action="store_true", help="only the labels of what is there, again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=sorted(CHUNK_FRAMES), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw; 0: none beside this one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in args.sets if args.relabel and not (args.out / f"{name}.done").is_file()]
    if missing:
        parser.error(f"--relabel: {args.out} has no features of {', '.join(missing)}; compute them first")
    check_tower(args.out, args.tower)
    (args.out / "tower.txt").write_text(tower_key(args.tower))
    if args.relabel:
        for name in args.sets:
            label_again(SETS[name], args.material, args.out, args.workers)
        return
    tower = Tower(device=args.device)
    if args.tower:
        tower.restore(load_file(args.tower))
    for name in args.sets:
        write_set(SETS[name], args.material, tower, args.out, args.workers, args.limit)


if __name__ == "__main__":
    main()
