"""A seed becomes a scene: what is shown, where, how it moves, and the exact words for it.

Pure: no files, no pixels. `render` draws what is decided here. Lengths are fractions of the frame's side,
time runs from 0 to 1 over the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scenes.stamps import Cutout
from benchmarks.scenes.vocabulary import PLURAL_NAMES, with_article

COLOURS = {
    "red": (200, 40, 40), "green": (50, 150, 60), "blue": (50, 80, 190), "yellow": (225, 200, 60),
    "purple": (130, 60, 160), "pink": (235, 150, 185), "orange": (235, 140, 50), "brown": (120, 80, 50),
    "black": (18, 18, 18), "white": (240, 240, 240), "gray": (128, 128, 128),
}  # fmt: skip

# kind -> how a caption names it, and the answer to a question about it
BACKGROUNDS = {
    "plain": ("on a plain {colour} background", "A plain {colour} background."),
    "blurred": ("in front of a blurred background", "A blurred background."),
    "sky": ("in a blue sky", "A blue sky."),
    "night": ("under the stars at night", "A starry night sky."),
    "snow": ("in the snow", "Snow."),
    "stripes": ("in front of colorful stripes", "Colorful stripes."),
    "checks": ("on a checkerboard", "A checkerboard."),
    "sea": ("at the sea", "The sea."),
    "grass": ("on green grass", "Green grass."),
    "brick": ("in front of a brick wall", "A brick wall."),
    "gravel": ("on gravel", "Gravel."),
}
TEXTURED = ("sea", "grass", "brick", "gravel")

# kind -> (verb for one, verb for several, answer to "Which way does it move?")
MOTIONS = {
    "right": ("moves to the right", "move to the right", "To the right."),
    "left": ("moves to the left", "move to the left", "To the left."),
    "up": ("moves up", "move up", "Up."),
    "down": ("moves down", "move down", "Down."),
    "closer": ("comes closer", "come closer", "Closer."),
    "away": ("moves away", "move away", "Away."),
    "still": ("stays still", "stay still", "It stays still."),
}

ASK_VIDEO = (
    "Describe this video.",
    "Describe the video.",
    "What happens in this video?",
    "Write a caption for this clip.",
)
ASK_IMAGE = (
    "Describe this image.",
    "Describe the image.",
    "What is in this picture?",
    "Write a caption for this image.",
)
ASK_OBJECT = ("What is the main object?", "What is shown here?", "Name the main object.")
ASK_MOTION = ("Which way does it move?", "How does it move?")
ASK_BACKGROUND = ("What is in the background?", "Where is it?")


@dataclass(frozen=True)
class Placed:
    """One cut-out on the canvas: `size` is its longer side, `squash` its width over its natural width."""

    cutout: Cutout
    x: float
    y: float
    size: float
    angle_deg: float
    flip: bool
    squash: float


@dataclass(frozen=True)
class Scene:
    """Everything `render` needs, and everything a caption may say."""

    seed: int
    main: Placed
    other: Placed | None
    background: str
    colour: str
    motion: str
    travel: float
    pan: tuple[float, float]
    brightness: float
    contrast: float
    blur: float

    def at(self, time: float) -> Placed:
        """Where the main object is at `time` in 0..1."""
        step = (time - 0.5) * self.travel
        moved = {"right": (step, 0.0), "left": (-step, 0.0), "down": (0.0, step), "up": (0.0, -step)}
        dx, dy = moved.get(self.motion, (0.0, 0.0))
        growth = {"closer": 1.0 + 1.3 * step, "away": 1.0 - 1.3 * step}.get(self.motion, 1.0)
        main = self.main
        return Placed(main.cutout, main.x + dx, main.y + dy, main.size * growth, main.angle_deg, main.flip, main.squash)

    @property
    def place(self) -> str:
        """The end of every caption: where it is."""
        return BACKGROUNDS[self.background][0].format(colour=self.colour)

    def caption(self, moving: bool) -> str:
        """One exact sentence; `moving` says whether more than one frame is shown."""
        name = self.main.cutout.name
        subject = with_article(name).capitalize()
        other = with_article(self.other.cutout.name) if self.other else ""
        if not moving:
            return f"{subject}{f' and {other}' if other else ''} {self.place}."
        verb = MOTIONS[self.motion][1 if name in PLURAL_NAMES else 0]
        return f"{subject} {verb}{f' near {other}' if other else ''} {self.place}."

    def answers(self, moving: bool) -> dict[str, str]:
        """Every question that has an exact answer here."""
        caption = self.caption(moving)
        answers = dict.fromkeys(ASK_VIDEO if moving else ASK_IMAGE, caption)
        answers |= dict.fromkeys(ASK_OBJECT, f"{with_article(self.main.cutout.name).capitalize()}.")
        answers |= dict.fromkeys(ASK_BACKGROUND, BACKGROUNDS[self.background][1].format(colour=self.colour))
        if moving:
            answers |= dict.fromkeys(ASK_MOTION, MOTIONS[self.motion][2])
        return answers


def compose(
    seed: int,
    cutouts: Sequence[Cutout],
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
) -> Scene:
    """The scene of this seed. Names are drawn evenly, then a picture of the name."""
    rng = np.random.default_rng([20260, seed])
    by_name: dict[str, list[Cutout]] = {}
    for cutout in cutouts:
        by_name.setdefault(cutout.name, []).append(cutout)
    names = sorted(by_name)

    def draw(exclude: str = "") -> Cutout:
        choices = [name for name in names if name != exclude]
        group = by_name[choices[rng.integers(len(choices))]]
        return group[rng.integers(len(group))]

    main_cutout = draw()
    motion = list(MOTIONS)[rng.integers(len(MOTIONS))]
    size = float(rng.uniform(0.45, 0.95))
    squash = float(rng.uniform(0.65, 1.2))
    x, y = (float(value) for value in rng.uniform(0.38, 0.62, 2))
    other = None
    if rng.random() < 0.25 and len(names) > 1:
        size = float(rng.uniform(0.5, 0.7))
        side = -1 if rng.random() < 0.5 else 1
        x = 0.5 - 0.1 * side
        place = (0.5 + 0.34 * side, float(rng.uniform(0.2, 0.8)))
        other = Placed(
            draw(main_cutout.name), *place, float(rng.uniform(0.25, 0.33)), 0.0, bool(rng.random() < 0.5), squash
        )
    placed = Placed(main_cutout, x, y, size, float(rng.normal(0, 7)), bool(rng.random() < 0.5), squash)
    return Scene(
        seed=seed,
        main=placed,
        other=other,
        background=list(backgrounds)[rng.integers(len(backgrounds))],
        colour=list(COLOURS)[rng.integers(len(COLOURS))],
        motion=motion,
        travel=float(rng.uniform(0.4, 0.7)),
        pan=(float(rng.normal(0, 0.06)), float(rng.normal(0, 0.02))),
        brightness=float(rng.uniform(0.75, 1.2)),
        contrast=float(rng.uniform(0.75, 1.15)),
        blur=float(max(0.0, rng.normal(0, 0.7))),
    )
