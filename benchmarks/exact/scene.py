"""What a scene of the benchmark is: actors on their ways, their questions, and where everything is at any time.

Pure: no files, no pixels, no random numbers. Lengths are in heights of the frame: y runs from 0 to 1, x from 0 to
`aspect`. Time runs from 0 to 1 over the clip. A scene played backwards is a scene (`reverse`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Point = tuple[float, float]


@dataclass(frozen=True)
class Sign:
    """A plate with a word or a number on it."""

    text: str
    font: str
    dark: bool

    @property
    def name(self) -> str:
        """What questions call it."""
        return "sign"


@dataclass(frozen=True)
class Picture:
    """A cut-out of the material: `key` is its file there."""

    name: str
    key: str


@dataclass(frozen=True)
class Look:
    """What a picture shows: a thing's name and the colour it is dyed with, or what a sign says."""

    name: str | None
    tint: str | None
    text: str | None


@dataclass(frozen=True)
class Actor:
    """Something that is seen.

    Attributes:
        shows: what.
        start, end: its centre before and after it moves.
        size: longer side when half the way is done; `growth`: size at the end over size at the start.
        moves: from when to when it moves.
        visible: from when to when it is seen; the end is not included, except at 1.
        angle_deg, flip: how the picture is turned.
        tint: the colour it is dyed with; None leaves it as it is.
    """

    shows: Picture | Sign
    start: Point
    end: Point
    size: float
    growth: float = 1.0
    moves: tuple[float, float] = (0.0, 1.0)
    visible: tuple[float, float] = (0.0, 1.0)
    angle_deg: float = 0.0
    flip: bool = False
    tint: str | None = None

    @property
    def name(self) -> str:
        """What questions call it."""
        return self.shows.name

    @property
    def look(self) -> Look:
        """All that is asked about how it looks."""
        if isinstance(self.shows, Sign):
            return Look(None, None, self.shows.text)
        return Look(self.name, self.tint, None)

    def progress(self, time: float) -> float:
        """Share of its way done at `time`."""
        first, last = self.moves
        return min(1.0, max(0.0, (time - first) / (last - first)))

    def at(self, time: float) -> tuple[float, float, float]:
        """Centre and size `(x, y, size)` at `time`."""
        done = self.progress(time)
        x, y = (a + (b - a) * done for a, b in zip(self.start, self.end, strict=True))
        return x, y, self.size * self.growth ** (done - 0.5)

    def seen(self, time: float) -> bool:
        """Whether it is on screen at `time`."""
        first, last = self.visible
        return first <= time < last or (time >= 1.0 and last >= 1.0)

    def reverse(self) -> Actor:
        """The same, played backwards."""
        return replace(
            self, start=self.end, end=self.start, growth=1 / self.growth, moves=(1 - self.moves[1], 1 - self.moves[0]),
            visible=(1 - self.visible[1], 1 - self.visible[0]),
        )  # fmt: skip


@dataclass(frozen=True)
class Patch:
    """Clutter: a soft-edged piece of another photograph; shows nothing that a question asks for."""

    background: str
    source: Point
    at: Point
    size: float
    round: bool


@dataclass(frozen=True)
class Camera:
    """Background, its crop and pan, light and optics; shares of the picture, light as a factor from start to end."""

    background: str
    crop: tuple[float, float, float]
    pan: Point
    mirror: bool
    light: tuple[float, float]
    contrast: float
    blur: float
    noise: float

    def reverse(self) -> Camera:
        """The same, played backwards."""
        return replace(self, pan=(-self.pan[0], -self.pan[1]), light=self.light[::-1])


@dataclass(frozen=True)
class Ask:
    """A question with one right answer.

    Attributes:
        kind: what it tests.
        text: the question alone.
        answer: one of `choices`.
        choices: as they are offered; empty for a free caption, whose `answer` is a reference.
    """

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExactScene:
    """A scene and what is asked about it; actors are drawn in order, the last on top."""

    seed: int
    template: str
    aspect: float
    camera: Camera
    clutter: tuple[Patch, ...]
    actors: tuple[Actor, ...]
    asks: tuple[Ask, ...] = ()

    def reverse(self) -> ExactScene:
        """Played backwards. Questions do not survive that and are left out."""
        return replace(
            self, camera=self.camera.reverse(), actors=tuple(actor.reverse() for actor in self.actors), asks=()
        )

    def named(self, name: str) -> tuple[Actor, ...]:
        """The actors of that name."""
        return tuple(actor for actor in self.actors if actor.name == name)
