"""A seed becomes a scene with exact questions. Four templates; pure: no files, no pixels.

Seeds come in twins, `2n` and `2n + 1`: the same scene, played forwards and backwards. Where a question is about
time (motion, order), the twins' frames are the same and their answers are not, so no single frame helps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from benchmarks.exact.material import Palette
from benchmarks.exact.scene import Actor, Ask, Camera, ExactScene, Patch, Picture, Point, Sign
from benchmarks.exact.words import ALIKE, SIGN_NUMBERS, TINTS, all_names, plural
from benchmarks.scenes.stamps import STAMP_STYLE
from benchmarks.scenes.vocabulary import PLURAL_NAMES, with_article

KINDS = ("name", "colour", "count", "relation", "motion", "order", "small", "read")
ASPECTS = (1.0, 4 / 3, 16 / 9)
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
RELATIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
MOST = 6
OPTIONS = 4
T = TypeVar("T")


class Draw:
    """Random choices for one scene: names that do not look alike, pictures, places."""

    def __init__(self, seed: int, palette: Palette) -> None:
        self.rng = np.random.default_rng([20261, seed])
        self.palette = palette
        self.aspect = ASPECTS[self.rng.integers(len(ASPECTS))]
        self.taken: set[str] = set()

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.integers(len(choices)))]

    def sample(self, choices: Sequence[Any], count: int) -> list[Any]:
        return [choices[int(index)] for index in self.rng.permutation(len(choices))[:count]]

    def picture(self, countable: bool = False) -> Picture:
        """A picture of a name that is not in the scene yet, nor looks like one that is."""
        free = [
            name for name in self.palette.cutouts if name not in self.taken and not (countable and name in PLURAL_NAMES)
        ]
        name = str(self.pick(free))
        self.taken |= {name} | ALIKE.get(name, set())
        keys = self.palette.cutouts[name]
        photographs = tuple(key for key in keys if key.startswith(STAMP_STYLE))
        # A name has at most a few photographs beside its drawings; without help they would be rare.
        return Picture(name, str(self.pick(photographs if photographs and self.chance(0.6) else keys)))

    def actor(self, shows: Picture | Sign, start: Point, end: Point, size: float, **more: Any) -> Actor:
        turned = isinstance(shows, Picture)
        return Actor(
            shows, start, end, size,
            angle_deg=float(self.rng.normal(0, 6 if turned else 3)), flip=turned and self.chance(0.5), **more,
        )  # fmt: skip

    def still(self, shows: Picture | Sign, place: Point, size: float, drift: float = 0.015, **more: Any) -> Actor:
        """An actor that all but stays where it is."""
        dx, dy = self.rng.normal(0, drift, 2).clip(-2 * drift, 2 * drift)
        return self.actor(
            shows, (place[0] - dx, place[1] - dy), (place[0] + dx, place[1] + dy), size,
            growth=self.uniform(0.93, 1.07), **more,
        )  # fmt: skip

    def sign(self, place: Point) -> tuple[Actor, Ask]:
        """A sign somewhere, and what it says. Models squash frames to a square, so letters are larger on wide ones."""
        text = str(self.pick(self.palette.texts))
        alike = [other for other in self.palette.texts if other != text and other.isdigit() == text.isdigit()]
        near = [other for other in alike if len(other) == len(text)]
        wrong = self.sample(near if len(near) >= OPTIONS - 1 else alike, OPTIONS - 1)
        shows = Sign(text, str(self.pick(self.palette.fonts)), self.chance(0.5))
        what = "number" if text in SIGN_NUMBERS else "word"
        ask = self.ask("read", f"Which {what} is on the sign?", text, wrong)
        height = self.uniform(0.19, 0.24) * self.aspect**0.5
        # A plate is about as wide as this many times its height; `size` is the longer side.
        longer = max(1.0, 0.33 + 0.3 * len(text))
        return self.still(shows, place, min(height * longer, 0.36 * self.aspect)), ask

    def ask(self, kind: str, text: str, answer: str, wrong: Sequence[str]) -> Ask:
        """A question whose options stand in random order."""
        return Ask(kind, text, answer, tuple(self.sample([answer, *wrong], len(wrong) + 1)))

    def ask_name(self, kind: str, text: str, answer: str, present: Sequence[str]) -> Ask:
        """A question for a name; other things of the scene stand among the options first."""
        wrong = [name for name in present if name != answer][: OPTIONS - 1]
        near = set().union(*(ALIKE.get(name, {name}) for name in (answer, *wrong)))
        others = [name for name in all_names() if name not in near and name not in self.taken]
        while len(wrong) < OPTIONS - 1:
            name = str(self.pick(others))
            wrong.append(name)
            others = [other for other in others if other != name and other not in ALIKE.get(name, {name})]
        return self.ask(kind, text, answer, wrong)

    def camera(self) -> Camera:
        crop = self.uniform(0.45, 0.95)
        light = self.uniform(0.8, 1.15)
        return Camera(
            background=str(self.pick(self.palette.backgrounds)),
            crop=(self.uniform(0, 1), self.uniform(0, 1), crop),
            pan=(self.uniform(-1, 1), self.uniform(-1, 1)),
            mirror=self.chance(0.5),
            light=(light, light * self.uniform(0.8, 1.25)),
            contrast=self.uniform(0.8, 1.15),
            blur=max(0.0, self.uniform(-1.0, 1.0)),
            noise=self.uniform(0, 7),
        )

    def clutter(self) -> tuple[Patch, ...]:
        return tuple(
            Patch(
                str(self.pick(self.palette.backgrounds)),
                (self.uniform(0, 1), self.uniform(0, 1)),
                (self.uniform(0, self.aspect), self.uniform(0, 1)),
                self.uniform(0.06, 0.2),
                self.chance(0.5),
            )
            for _ in range(int(self.rng.integers(0, 6)))
        )


def mover(draw: Draw, backwards: bool) -> tuple[list[Actor], list[Ask]]:
    """One large thing crosses the scene, perhaps another the opposite way; something small stands in a corner."""
    wide = draw.aspect
    sideways = draw.chance(0.5)
    heading = str(draw.pick(("left", "right") if sideways else ("up", "down")))
    dx, dy = DIRECTIONS[heading]
    span = (0.45 * wide if sideways else 0.45) * draw.uniform(0.75, 1.15)
    second = draw.chance(0.4)
    size = draw.uniform(0.32, 0.4) if second else draw.uniform(0.34, 0.46)
    lane = (0.24 if sideways else 0.24 * wide) * draw.pick((-1, 1)) if second else 0.0
    began = draw.uniform(0.0, 0.15)
    moves = (began, draw.uniform(0.85, 1.0))

    def crossing(shows: Picture, sign: int, offset: float, large: float, tint: str | None) -> Actor:
        middle = (wide / 2 + (0 if sideways else offset), 0.5 + (offset if sideways else 0))
        wobble = draw.uniform(-0.03, 0.03)
        half = (dx * span / 2 * sign + (0 if sideways else wobble), dy * span / 2 * sign + (wobble if sideways else 0))
        start, end = ((middle[0] + way * half[0], middle[1] + way * half[1]) for way in (-1, 1))
        return draw.actor(shows, start, end, large, growth=draw.uniform(0.85, 1.18), moves=moves, tint=tint)

    tint = str(draw.pick(tuple(TINTS))) if draw.chance(0.5) else None
    main = crossing(draw.picture(), 1, lane, size, tint)
    actors = [main]
    if second:
        actors.append(crossing(draw.picture(), -1, -lane, size * draw.uniform(0.6, 0.68), None))
    corner = (draw.pick((0.09, 0.91)), draw.pick((0.1, 0.9)))
    small = draw.still(draw.picture(), (corner[0] * wide, corner[1]), draw.uniform(0.12, 0.16), 0.005)
    actors.append(small)
    names = [actor.name for actor in actors]
    asks = [draw.ask_name("name", "Which object is the largest?", main.name, names)]
    asks.append(draw.ask_name("small", "Which object is the small one near the corner?", small.name, names))
    if tint:
        wrong = draw.sample([colour for colour in TINTS if colour != tint], OPTIONS - 1)
        asks.append(draw.ask("colour", f"Which color is the {main.name}?", tint, wrong))
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for actor, way in ((main, heading), *(((actors[1], opposite[heading]),) if second else ())):
        seen = opposite[way] if backwards else way
        text = f"Which way does the {actor.name} move?"
        asks.append(draw.ask("motion", text, seen, [other for other in DIRECTIONS if other != seen]))
    return actors, asks


def pair(draw: Draw, backwards: bool) -> tuple[list[Actor], list[Ask]]:
    """Two things beside or above each other, and a sign; all drift together."""
    wide = draw.aspect
    relation = str(draw.pick(tuple(RELATIONS)))
    dx, dy = RELATIONS[relation]
    gap = (0.25 * wide if dx else 0.25) * draw.uniform(0.95, 1.1)
    skew = draw.uniform(-0.05, 0.05)
    drift = draw.rng.uniform(-0.05, 0.05, 2)
    side = draw.pick((-1, 1))
    # The sign's strip lies across the line of the two, so they make room for it.
    aside = 0.13 * side
    centre = (wide / 2 - (0 if dx else aside * wide), 0.5 - (aside if dx else 0))
    sign_at = (centre[0] + (0 if dx else side * 0.36 * wide), centre[1] + (side * 0.36 if dx else 0))
    colours = draw.sample(tuple(TINTS), OPTIONS)
    dyed = draw.chance(0.8)
    actors = []
    for order, way in ((0, 1), (1, -1)):
        place = (centre[0] + way * dx * gap + (0 if dx else way * skew), centre[1] + way * dy * gap)
        place = (place[0], place[1] + (way * skew if dx else 0))
        size = draw.uniform(0.27, 0.36) if dx else draw.uniform(0.27, 0.34)
        start, end = ((place[0] + sense * drift[0], place[1] + sense * drift[1]) for sense in (-1, 1))
        tint = colours[order] if dyed else None
        actors.append(draw.actor(draw.picture(), start, end, size, growth=draw.uniform(0.93, 1.07), tint=tint))
    first, second = actors
    sign, read = draw.sign(sign_at)
    text = f"Where is the {first.name} compared to the {second.name}?"
    asks = [draw.ask("relation", text, relation, [other for other in RELATIONS if other != relation]), read]
    if dyed:
        asks.append(draw.ask("colour", f"Which color is the {first.name}?", colours[0], colours[1:]))
    return [*actors, sign], asks


def crowd(draw: Draw, backwards: bool) -> tuple[list[Actor], list[Ask]]:
    """Several of one thing and a few of another, each in a cell of its own."""
    wide = draw.aspect
    many, few = int(draw.rng.integers(1, MOST + 1)), int(draw.rng.integers(1, 4))
    columns, rows = (3, 3) if wide == 1.0 else (4, 3)
    cells = [(column, row) for column in range(columns) for row in range(rows)]
    places = [cells[int(index)] for index in draw.rng.permutation(len(cells))[: many + few]]
    actors, asks = [], []
    start = 0
    for count in (many, few):
        picture = draw.picture(countable=True)
        size = draw.uniform(0.19, 0.24)
        for column, row in places[start : start + count]:
            x = (column + 0.5 + draw.uniform(-0.08, 0.08)) * wide / columns
            y = (row + 0.5 + draw.uniform(-0.08, 0.08)) / rows
            actors.append(draw.still(picture, (x, y), size * draw.uniform(0.88, 1.1), 0.012))
        start += count
        wrong = draw.sample([str(n) for n in range(1, MOST + 1) if n != count], OPTIONS - 1)
        asks.append(draw.ask("count", f"How many {plural(picture.name)} are there?", str(count), wrong))
    return actors, asks


def sequence(draw: Draw, backwards: bool) -> tuple[list[Actor], list[Ask]]:
    """Three things come one after another; something small, or a sign, stays all the time."""
    wide = draw.aspect
    ends = [0.34 + draw.uniform(0, 0.1), 0.66 + draw.uniform(0, 0.1), 1.0]
    starts = [0.0, 0.34 - draw.uniform(0, 0.06), 0.66 - draw.uniform(0, 0.06)]
    columns = draw.sample(("0", "1", "2"), 3)
    actors = []
    for index in range(3):
        place = ((int(columns[index]) + 0.5) * wide / 3, 0.5 + draw.uniform(-0.12, 0.12))
        size = draw.uniform(0.26, 0.33)
        actors.append(draw.still(draw.picture(), place, size, 0.02, visible=(starts[index], ends[index])))
    names = [actor.name for actor in actors]
    first, last = (names[2], names[0]) if backwards else (names[0], names[2])
    asks = []
    for text, answer in (("Which object appears first?", first), ("Which object appears last?", last)):
        asks.append(draw.ask_name("order", text, answer, names))
    place = (draw.pick((0.1, 0.9)) * wide, draw.pick((0.12, 0.88)))
    if draw.chance(0.6):
        small = draw.still(draw.picture(), place, draw.uniform(0.12, 0.16), 0.005)
        actors.append(small)
        text = "Which object is the small one near the corner?"
        asks.append(draw.ask_name("small", text, small.name, [small.name, *names[:2]]))
    else:
        sign, read = draw.sign((wide / 2, float(place[1])))
        actors.append(sign)
        asks.append(read)
    return actors, asks


TEMPLATES: dict[str, Callable[[Draw, bool], tuple[list[Actor], list[Ask]]]] = {
    "mover": mover,
    "pair": pair,
    "crowd": crowd,
    "sequence": sequence,
}
#: How often each template is drawn: about as many questions of each kind.
SHARES = {"mover": 0.3, "pair": 0.32, "crowd": 0.19, "sequence": 0.19}


def caption(scene: ExactScene) -> str:
    """One exact sentence about a scene."""
    things = [actor for actor in scene.actors if isinstance(actor.shows, Picture)]
    dyed = [f"{with_article(actor.tint)} {actor.name}" if actor.tint else with_article(actor.name) for actor in things]
    if scene.template == "mover":
        (way,) = (ask.answer for ask in scene.asks if ask.kind == "motion" and f" {things[0].name} " in ask.text)
        to = way if way in ("up", "down") else f"to the {way}"
        return f"{dyed[0].capitalize()} moves {to}."
    if scene.template == "pair":
        where = next(ask.answer for ask in scene.asks if ask.kind == "relation")
        to = where if where in ("above", "below") else f"to the {where} of"
        return f"{dyed[0].capitalize()} is {to} {dyed[1]}."
    if scene.template == "crowd":
        counts = {name: len(scene.named(name)) for name in dict.fromkeys(actor.name for actor in things)}
        parts = [f"{count} {plural(name)}" if count > 1 else with_article(name) for name, count in counts.items()]
        return f"{' and '.join(parts)}.".capitalize()
    order = sorted((actor for actor in things if actor.visible != (0.0, 1.0)), key=lambda actor: actor.visible)
    return f"{', then '.join(with_article(actor.name) for actor in order)}.".capitalize()


def compose(seed: int, palette: Palette) -> ExactScene:
    """The scene of this seed; `seed` and `seed ^ 1` are twins."""
    backwards = bool(seed % 2)
    draw = Draw(seed // 2, palette)
    template = list(SHARES)[int(draw.rng.choice(len(SHARES), p=list(SHARES.values())))]
    camera, clutter = draw.camera(), draw.clutter()
    actors, asks = TEMPLATES[template](draw, backwards)
    scene = ExactScene(seed, template, draw.aspect, camera, clutter, tuple(actors))
    if backwards:
        scene = scene.reverse()
    scene = replace(scene, asks=tuple(asks))
    return replace(scene, asks=(*asks, Ask("caption", "Describe this video.", caption(scene))))
