"""The words of the questions: names that may be confused, plurals, colours, what signs say, and who sees which.

Plain data and hashes; reads no file.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from benchmarks.scenes.vocabulary import PLURAL_NAMES, read_table

Split = Literal["train", "test"]

#: Colours that dyed cut-outs can be told apart by.
TINTS = {
    "red": (225, 45, 40), "green": (50, 170, 65), "blue": (50, 90, 220), "yellow": (245, 215, 50),
    "purple": (150, 60, 190), "orange": (245, 140, 30),
}  # fmt: skip

#: No two names of a group stand in one scene or one list of choices: their pictures are too much alike.
_ALIKE = """
dog wolf fox | cow bull | sheep goat ram | deer donkey horse zebra unicorn | camel giraffe | lion tiger leopard cat
bear polar_bear panda koala teddy_bear | monkey gorilla | raccoon badger beaver otter hedgehog squirrel
mouse rat hedgehog | hippo rhino elephant | snake lizard crocodile dinosaur dragon
whale dolphin seal shark fish | crab lobster shrimp scorpion | bird crow eagle pigeon parrot owl
chicken rooster chick turkey duck swan goose peacock flamingo | bee butterfly ladybug ant fly grasshopper spider
apple pear orange lemon peach mango tomato cherries kiwi coconut strawberry | grapes cherries
eggplant potato avocado carrot corn pepper | broccoli lettuce | garlic onion | bread cheese hamburger pizza cookie cake
cup teapot bottle | car taxi police_car truck bus fire_engine ambulance tractor train | bicycle motorcycle cyclist
airplane helicopter rocket | boat ship | house castle tent | tree palm_tree cactus leaf broccoli
flower rose sunflower tulip | moon sun planet globe star soccer_ball basketball tennis_ball
man woman child baby runner astronaut cyclist | guitar violin | trumpet drum | television computer camera
book gift | hammer saw wrench scissors pencil key | hat crown | shirt glove sock shoe bag | clock watch
ghost skull alien robot snowman | candle light_bulb fire | chair bed toilet | ring watch crown | bell lock
kite balloon umbrella | egg potato pumpkin | hand glove | eye planet
"""


def _groups() -> dict[str, set[str]]:
    alike: dict[str, set[str]] = {}
    for group in _ALIKE.replace("\n", "|").split("|"):
        names = [name.replace("_", " ") for name in group.split()]
        for name in names:
            alike.setdefault(name, set()).update(names)
    return alike


ALIKE = _groups()

_IRREGULAR = {
    "mouse": "mice", "fish": "fish", "sheep": "sheep", "deer": "deer", "goose": "geese", "child": "children",
    "man": "men", "woman": "women", "leaf": "leaves", "wolf": "wolves", "tomato": "tomatoes", "potato": "potatoes",
    "mango": "mangoes", "shrimp": "shrimp",
}  # fmt: skip

#: Short, common, no two easily misread for each other in every font.
_SIGN_WORDS = """
    stop exit open sale taxi bank park shop cafe hotel music pizza water north south east west zoo farm lake hill
    king gold iron wood jazz rock film news book tea milk cake soup fish rice bread salt lunch
    home door gate wall road path bus train boat ship port beach sand snow rain wind fire heat cold hot sun
    east side city club desk farm glass gym hall inn jury kids lamp mint navy oven pump quiz ramp taxi unit vote zone
    yes win lost fast slow main next zero half free cash boss dance space train
"""
SIGN_WORDS = tuple(dict.fromkeys(_SIGN_WORDS.split()))
SIGN_NUMBERS = tuple(str(number) for number in range(10))

_HELD_OUT_WORDS, _HELD_OUT_BACKGROUNDS = 0.3, 0.25
#: Families of fonts that no training sign is written in.
HELD_OUT_FONTS = ("OpenSans", "LiberationSerif")


def share(text: str) -> float:
    """A text's own number in 0..1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def sign_texts(held_out: bool) -> tuple[str, ...]:
    """What signs say that training sees, or words that it never sees; digits are too few to hold any out."""
    words = tuple(word for word in SIGN_WORDS if (share(f"sign {word}") < _HELD_OUT_WORDS) == held_out)
    return words + SIGN_NUMBERS


def split_of_background(name: str) -> Split:
    """Which split sees a photograph."""
    return "test" if share(f"background {name}") < _HELD_OUT_BACKGROUNDS else "train"


def split_of_font(name: str) -> Split:
    """Which split sees a font, by its family."""
    return "test" if name.startswith(HELD_OUT_FONTS) else "train"


def plural(name: str) -> str:
    """`dog` -> `dogs`; names that are plural already stay."""
    head, _, last = name.rpartition(" ")
    if name in PLURAL_NAMES:
        return name
    if last in _IRREGULAR:
        many = _IRREGULAR[last]
    elif last.endswith("y") and last[-2] not in "aeiou":
        many = last[:-1] + "ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        many = last + "es"
    else:
        many = last + "s"
    return f"{head} {many}".strip()


def all_names() -> tuple[str, ...]:
    """Every object name."""
    return tuple(entry.name for entry in read_table())
