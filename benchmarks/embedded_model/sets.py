"""The sets of scenes the embedded model is trained and measured on, and what each scene asks and shows.

Two kinds: captioned scenes (`benchmarks/scenes`) and scenes with exact questions (`benchmarks/exact`, training
split). A set is a range of seeds; everything follows from them, so only features are stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.exact.build import DEVELOPMENT_SEED
from benchmarks.exact.collage import SLOTS, compose_still
from benchmarks.exact.compose import compose as compose_exact
from benchmarks.exact.draw import Artist
from benchmarks.exact.facts import Fact, facts
from benchmarks.exact.material import Material, Palette
from benchmarks.exact.parade import compose_parade
from benchmarks.exact.questions import prompt
from benchmarks.exact.scene import ExactScene, Look
from benchmarks.scenes.compose import ASK_BACKGROUND, ASK_IMAGE, ASK_MOTION, ASK_OBJECT, ASK_VIDEO, Scene, compose
from benchmarks.scenes.render import Textures, load_textures, render
from benchmarks.scenes.stamps import Cutout

SIDE = 224
BACKGROUND_WORDS = {
    "blurred": "blurred", "sky": "sky", "night": "stars", "snow": "snow", "stripes": "stripes", "sea": "sea",
    "checks": "checkerboard", "grass": "grass", "brick": "brick wall", "gravel": "gravel",
}  # fmt: skip
#: What the backdrop of a scene with exact questions is called: a photograph has no one word.
PHOTOGRAPH = "background"
QUESTIONS_VIDEO = ((ASK_VIDEO, 0.45), (ASK_OBJECT, 0.3), (ASK_MOTION, 0.15), (ASK_BACKGROUND, 0.1))
QUESTIONS_IMAGE = ((ASK_IMAGE, 0.55), (ASK_OBJECT, 0.3), (ASK_BACKGROUND, 0.15))
#: How often a question with a right answer is asked without its options.
OPEN_SHARE = 0.25
#: What is asked before facts are said.
ASK_FACTS = "State a fact."


@dataclass(frozen=True)
class SceneSet:
    """Captioned scenes `first_seed ... first_seed + count - 1`, each seen in `frames` frames.

    Attributes:
        stride: seeds from one stored scene to the next.
        slots: things of different looks in one scene, at most.
        windows: how often units are averaged by each of `data.WINDOWS`.
    """

    name: str
    first_seed: int
    count: int
    frames: int
    held_out_cutouts: bool = False
    stride = 1
    slots = 2

    @property
    def seeds(self) -> range:
        """Of the stored scenes."""
        return range(self.first_seed, self.first_seed + self.count * self.stride, self.stride)

    @property
    def windows(self) -> tuple[float, ...]:
        return {1: (0.2, 0.15, 0.6, 0.05), 4: (0.08, 0.12, 0.65, 0.15), 8: (0.15, 0.1, 0.6, 0.15)}[self.frames]

    def times(self, seed: int) -> np.ndarray:
        """When the scene is looked at: evenly, or anywhere if only once."""
        if self.frames == 1:
            return np.random.default_rng([1, seed]).random(1)
        return (np.arange(self.frames) + 0.5) / self.frames

    def scene(self, material: Path, seed: int) -> Any:
        """The scene of a seed. Training and held-out cut-outs never meet in one set."""
        return compose(seed, _cutouts(material, self.held_out_cutouts))

    def twin(self, material: Path, seed: int) -> Any:
        """The same scene played backwards, if its words are known: its frames are those of `seed`, the last first."""
        return None

    def draw(self, material: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames `[frames, 224, 224, 3]` uint8 and coverage `[frames, slots, 8, 8]` float32."""
        return render(self.scene(material, seed), self.times(seed), SIDE, _textures(material))

    def frame_count(self, rng: np.random.Generator) -> int:
        """How many frames a training step looks at."""
        return self.frames if self.frames == 1 or rng.random() < 0.6 else int(rng.integers(2, self.frames + 1))

    def picked(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """So many of the stored frames: any, in order."""
        return np.sort(rng.choice(self.frames, count, replace=False))


@dataclass(frozen=True)
class ExactSet(SceneSet):
    """Scenes with exact questions, of the training split. Of twins the first is stored; the other comes for nothing."""

    stride = 2
    slots = 4

    @property
    def windows(self) -> tuple[float, ...]:
        return 0.3, 0.2, 0.5, 0.0

    def scene(self, material: Path, seed: int) -> ExactScene:
        if seed >= DEVELOPMENT_SEED:
            raise ValueError(f"{self.name}: training scenes have seeds below {DEVELOPMENT_SEED}")
        return self._composed(seed, _material(material).palette("train"))

    def twin(self, material: Path, seed: int) -> ExactScene | None:
        return self.scene(material, seed ^ 1)

    def _composed(self, seed: int, palette: Palette) -> ExactScene:
        return compose_exact(seed, palette)

    def draw(self, material: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self.scene(material, seed)
        looks = slot_looks(scene)
        frames, cover = _artist(material).frames(scene, self.times(seed), SIDE, looks)
        coverage = np.zeros((self.frames, self.slots, *cover.shape[2:]), np.float32)
        coverage[:, : len(looks)] = cover
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


@dataclass(frozen=True)
class CollageSet(ExactSet):
    """Stills full of things, with exact questions."""

    stride = 1
    slots = SLOTS

    @property
    def windows(self) -> tuple[float, ...]:
        return 0.6, 0.2, 0.2, 0.0

    def twin(self, material: Path, seed: int) -> None:
        return None

    def times(self, seed: int) -> np.ndarray:
        return np.array([0.5])

    def frame_count(self, rng: np.random.Generator) -> int:
        return 1

    def _composed(self, seed: int, palette: Palette) -> ExactScene:
        return compose_still(seed, palette)


@dataclass(frozen=True)
class ParadeSet(ExactSet):
    """Clips full of things that move or take turns."""

    @property
    def windows(self) -> tuple[float, ...]:
        return 0.2, 0.2, 0.6, 0.0

    def frame_count(self, rng: np.random.Generator) -> int:
        return self.frames

    def _composed(self, seed: int, palette: Palette) -> ExactScene:
        return compose_parade(seed, palette)


SETS: dict[str, SceneSet] = {
    entry.name: entry
    for entry in (
        SceneSet("train_stills", 0, 4000, 1),
        SceneSet("train_clips", 100_000, 700, 4),
        SceneSet("train_long", 200_000, 150, 8),
        SceneSet("held_out_scenes", 900_000, 120, 8),
        SceneSet("held_out_cutouts", 950_000, 100, 8, held_out_cutouts=True),
        SceneSet("train_more", 300_000, 5000, 1),
        # The same three kinds for a CPU (1.6, 1.2 and 0.8 GB; clips have twins beside) and for a GPU (13, 4 and 6 GB).
        ExactSet("exact_train", 10_000_000, 1000, 8),
        CollageSet("exact_stills", 15_000_000, 6000, 1),
        ParadeSet("exact_parade", 16_000_000, 1000, 4),
        ExactSet("exact_large", 20_000_000, 8000, 8),
        CollageSet("exact_stills_large", 18_000_000, 20_000, 1),
        ParadeSet("exact_parade_large", 24_000_000, 8000, 4),
    )
}


# Folders are opened once in each process.
@lru_cache(maxsize=2)
def _material(folder: Path) -> Material:
    return Material(folder)


@lru_cache(maxsize=2)
def _artist(folder: Path) -> Artist:
    return Artist(_material(folder))


@lru_cache(maxsize=2)
def _textures(folder: Path) -> Textures:
    return load_textures(folder / "textures")


@lru_cache(maxsize=4)
def _cutouts(folder: Path, held_out: bool) -> tuple[Cutout, ...]:
    return _material(folder).pictures(held_out)


def slot_looks(scene: Scene | ExactScene) -> tuple[Look, ...]:
    """What each slot of the coverage shows."""
    if isinstance(scene, Scene):
        return tuple(Look(placed.cutout.name, None, None) for placed in (scene.main, scene.other) if placed)
    return tuple(dict.fromkeys(actor.look for actor in scene.actors))


def background_word(scene: Scene | ExactScene) -> str:
    """What a unit of this scene's backdrop is called."""
    if isinstance(scene, ExactScene):
        return PHOTOGRAPH
    return scene.colour if scene.background == "plain" else BACKGROUND_WORDS[scene.background]


def questions(
    scene: Scene | ExactScene, frames: int, image: bool, rng: np.random.Generator, most: int
) -> list[tuple[str, str, str]]:
    """At most so many questions about the scene: kind, text, exact answer; options in an order of their own."""
    if isinstance(scene, ExactScene):
        drawn = [scene.asks[int(index)] for index in rng.permutation(len(scene.asks))[:most]]
        shuffled = [replace(ask, choices=tuple(rng.permutation(ask.choices).tolist())) for ask in drawn]
        return [(ask.kind, ask.text if rng.random() < OPEN_SHARE else prompt(ask), ask.answer) for ask in shuffled]
    moving = frames > 1
    shares = QUESTIONS_VIDEO if moving else QUESTIONS_IMAGE
    asked: dict[str, str] = {}
    for index in rng.choice(len(shares), size=most, p=[share for _, share in shares]):
        group = shares[index][0]
        if not image and group is ASK_IMAGE:
            group = ASK_VIDEO
        text = group[rng.integers(len(group))]
        asked[text] = scene.caption(moving) if group in (ASK_VIDEO, ASK_IMAGE) else scene.answers(moving)[text]
    return [("caption", text, answer) for text, answer in asked.items()]


def statements(scene: ExactScene, rng: np.random.Generator, most: int) -> list[Fact]:
    """At most so many facts of a scene, in turns of the kinds there are."""
    said = facts(scene, rng)
    kinds: dict[str, list[Fact]] = {}
    for index in rng.permutation(len(said)):
        kinds.setdefault(said[index].kind, []).append(said[index])
    drawn: list[Fact] = []
    while len(drawn) < most and any(kinds.values()):
        drawn += [group.pop() for group in kinds.values() if group]
    return drawn[:most]
