"""The sets of scenes the embedded model is trained and measured on, and what each scene asks and shows.

Two kinds: captioned scenes (`benchmarks/scenes`) and scenes with exact questions (`benchmarks/exact`, training
split). A set is a range of seeds; everything follows from them, so only features are stored.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.exact.build import TEST_SEED
from benchmarks.exact.compose import compose as compose_exact
from benchmarks.exact.draw import Artist
from benchmarks.exact.material import Material
from benchmarks.exact.questions import prompt
from benchmarks.exact.scene import ExactScene, Picture
from benchmarks.scenes.compose import ASK_BACKGROUND, ASK_IMAGE, ASK_MOTION, ASK_OBJECT, ASK_VIDEO, Scene, compose
from benchmarks.scenes.render import Textures, load_textures, render
from benchmarks.scenes.stamps import Cutout, find_cutouts, split_cutouts

SIDE = 224
BACKGROUND_WORDS = {
    "blurred": "blurred", "sky": "sky", "night": "stars", "snow": "snow", "stripes": "stripes", "sea": "sea",
    "checks": "checkerboard", "grass": "grass", "brick": "brick wall", "gravel": "gravel",
}  # fmt: skip
QUESTIONS_VIDEO = ((ASK_VIDEO, 0.45), (ASK_OBJECT, 0.3), (ASK_MOTION, 0.15), (ASK_BACKGROUND, 0.1))
QUESTIONS_IMAGE = ((ASK_IMAGE, 0.55), (ASK_OBJECT, 0.3), (ASK_BACKGROUND, 0.15))
#: How often a question with a right answer is asked without its options.
OPEN_SHARE = 0.25


@dataclass(frozen=True)
class Assets:
    """Where the pictures lie; None where a kind of set is not wanted."""

    stamps: Path | None = None
    emoji: Path | None = None
    textures: Path | None = None
    material: Path | None = None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """The options that name the folders."""
        parser.add_argument("--stamps", type=Path, help="folder of the Tux Paint stamps")
        parser.add_argument("--emoji", type=Path, help="folder made by benchmarks.scenes.rasterise")
        parser.add_argument("--textures", type=Path, help="folder of photographic backgrounds")
        parser.add_argument("--material", type=Path, help="folder made by benchmarks.exact.material")

    @staticmethod
    def of(args: argparse.Namespace) -> Assets:
        """From the parsed options."""
        return Assets(args.stamps, args.emoji, args.textures, args.material)


@dataclass(frozen=True)
class SceneSet:
    """Captioned scenes `first_seed ... first_seed + count - 1`, each seen in `frames` frames."""

    name: str
    first_seed: int
    count: int
    frames: int
    held_out_cutouts: bool = False
    slots = 2

    def times(self, seed: int) -> np.ndarray:
        """When the scene is looked at: evenly, or anywhere if only once."""
        if self.frames == 1:
            return np.random.default_rng([1, seed]).random(1)
        return (np.arange(self.frames) + 0.5) / self.frames

    def possible(self, assets: Assets) -> bool:
        """Whether these folders are enough to draw the set."""
        return bool(assets.stamps and assets.emoji and assets.textures)

    def scene(self, assets: Assets, seed: int) -> Any:
        """The scene of a seed. Training and held-out cut-outs never meet in one set."""
        return compose(seed, _cutouts(assets.stamps, assets.emoji)[self.held_out_cutouts])

    def draw(self, assets: Assets, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames `[frames, 224, 224, 3]` uint8 and coverage `[frames, slots, 8, 8]` float32."""
        return render(self.scene(assets, seed), self.times(seed), SIDE, _textures(assets.textures))

    def frame_count(self, rng: np.random.Generator) -> int:
        """How many frames a training step looks at."""
        return self.frames if self.frames == 1 or rng.random() < 0.6 else int(rng.integers(2, self.frames + 1))

    def picked(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """So many of the stored frames: any, in order."""
        return np.sort(rng.choice(self.frames, count, replace=False))


@dataclass(frozen=True)
class ExactSet(SceneSet):
    """Scenes with exact questions, of the training split. Seeds come in twins, so counts are even."""

    slots = 4

    def possible(self, assets: Assets) -> bool:
        return assets.material is not None

    def scene(self, assets: Assets, seed: int) -> ExactScene:
        if not assets.material or seed >= TEST_SEED:
            raise ValueError(f"{self.name}: needs --material, and seeds below {TEST_SEED}")
        return compose_exact(seed, _material(assets.material).palette("train"))

    def draw(self, assets: Assets, seed: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self.scene(assets, seed)
        names = slot_words(scene)
        frames, cover = _artist(assets.material).frames(scene, self.times(seed), SIDE, names)
        coverage = np.zeros((self.frames, self.slots, *cover.shape[2:]), np.float32)
        coverage[:, : len(names)] = cover
        # Squashed to the model's square, as the processor does.
        square = [np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for frame in frames]
        return np.stack(square), coverage

    def frame_count(self, rng: np.random.Generator) -> int:
        """All frames, or every second one: what comes first and what comes last must be among them."""
        return self.frames if rng.random() < 0.75 else self.frames // 2

    def picked(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Evenly spread."""
        step = self.frames // count
        return np.arange(int(rng.integers(step)), self.frames, step)


SETS: dict[str, SceneSet] = {
    entry.name: entry
    for entry in (
        SceneSet("train_stills", 0, 4000, 1),
        SceneSet("train_clips", 100_000, 700, 4),
        SceneSet("train_long", 200_000, 150, 8),
        SceneSet("held_out_scenes", 900_000, 120, 8),
        SceneSet("held_out_cutouts", 950_000, 100, 8, held_out_cutouts=True),
        SceneSet("train_more", 300_000, 5000, 1),
        ExactSet("exact_train", 10_000_000, 2000, 8),  # one core: about 50 minutes, 3.1 GB
        ExactSet("exact_large", 20_000_000, 24_000, 8),  # a GPU machine: 38 GB
    )
}


# Folders are opened once in each process.
@lru_cache(maxsize=2)
def _material(folder: Path) -> Material:
    return Material(folder)


@lru_cache(maxsize=2)
def _artist(folder: Path | None) -> Artist:
    if folder is None:
        raise ValueError("--material is needed to draw this set")
    return Artist(_material(folder))


@lru_cache(maxsize=2)
def _textures(folder: Path | None) -> Textures:
    if folder is None:
        raise ValueError("--textures is needed to draw this set")
    return load_textures(folder)


@lru_cache(maxsize=2)
def _cutouts(stamps: Path | None, emoji: Path | None) -> tuple[tuple[Cutout, ...], tuple[Cutout, ...]]:
    return split_cutouts(find_cutouts(stamps, emoji))


def slot_words(scene: Scene | ExactScene) -> tuple[str, ...]:
    """What each slot of the coverage shows, by name."""
    if isinstance(scene, Scene):
        return tuple(placed.cutout.name for placed in (scene.main, scene.other) if placed)
    return tuple(dict.fromkeys(actor.name for actor in scene.actors if isinstance(actor.shows, Picture)))


def background_word(scene: Scene | ExactScene) -> str | None:
    """What a unit of this scene's backdrop is called in the warm start; a photograph has no one word."""
    if isinstance(scene, ExactScene):
        return None
    return scene.colour if scene.background == "plain" else BACKGROUND_WORDS[scene.background]


def question(scene: Scene | ExactScene, frames: int, image: bool, rng: np.random.Generator) -> tuple[str, str]:
    """A question about the scene and its exact answer."""
    if isinstance(scene, ExactScene):
        kinds = sorted({ask.kind for ask in scene.asks})
        kind = kinds[rng.integers(len(kinds))]
        asks = [ask for ask in scene.asks if ask.kind == kind]
        ask = asks[rng.integers(len(asks))]
        return (ask.text if rng.random() < OPEN_SHARE else prompt(ask)), ask.answer
    moving = frames > 1
    shares = QUESTIONS_VIDEO if moving else QUESTIONS_IMAGE
    group = shares[rng.choice(len(shares), p=[share for _, share in shares])][0]
    if not image and group is ASK_IMAGE:
        group = ASK_VIDEO
    text = group[rng.integers(len(group))]
    return text, scene.caption(moving) if group in (ASK_VIDEO, ASK_IMAGE) else scene.answers(moving)[text]
