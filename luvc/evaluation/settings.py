"""Names of what is compared: presets, a method at a share of tokens, or a whole mapping. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luvc.compression import PRESETS, Compression, suggest
from luvc.errors import ConfigError
from luvc.evaluation.levels import METHODS, at_share
from luvc.shapes import Grid

OFF = "off"


@dataclass(frozen=True)
class Setting:
    """A compression and its name in the tables.

    Attributes:
        questions: it is asked only the first so many of a study's, by whole videos; None: all.
    """

    name: str
    compression: Compression
    questions: int | None = None


@dataclass(frozen=True)
class Place:
    """What `METHOD@SHARE` is solved for: layers of the language model, and a clip's visual tokens uncompressed."""

    layers: int
    grid: Grid


#: Serves to check names before a model is loaded.
ANYWHERE = Place(24, Grid(8, 16, 16))


def parse_setting(value: Any, place: Place = ANYWHERE) -> Setting:
    """`balanced`, `oim@0.25`, a mapping as in the YAML (with a `name`), or `{setting: one of these, questions: 230}`.

    `METHOD@SHARE` leaves that share of visual tokens in the mean of the language model's layers
    (`luvc.evaluation.levels`), so that methods are compared at equal tokens.

    Raises:
        ConfigError: an unknown name or an impossible share.
    """
    if isinstance(value, Mapping) and "setting" in value:
        few = value.get("questions")
        if value.keys() != {"setting", "questions"} or type(few) is not int or few < 1:
            raise ConfigError(f"settings: {dict(value)!r}", "expected {setting: NAME, questions: at least 1}")
        return replace(parse_setting(value["setting"], place), questions=few)
    if isinstance(value, str) and "@" in value:
        method, _, share = value.partition("@")
        if method not in METHODS:
            raise ConfigError(f"settings: unknown method {method!r} in {value!r}", suggest(method, METHODS))
        try:
            return Setting(value, at_share(method, float(share), place.layers, place.grid))
        except ValueError:
            raise ConfigError(f"settings: {share!r} in {value!r} is not a share", "e.g. oim@0.25") from None
    compression = Compression.from_any(value)
    if isinstance(value, Mapping) and "name" not in value:
        raise ConfigError(f"settings: {dict(value)!r} has no name", "add `name: ...`; tables and resumption go by it")
    return Setting(compression.name, compression)


def parse_settings(values: Sequence[Any], place: Place = ANYWHERE) -> list[Setting]:
    """All settings, each name once, the uncompressed run first whether named or not."""
    settings = [parse_setting(value, place) for value in values]
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"settings: {name!r} stands there twice")
    off = Setting(OFF, PRESETS[OFF])
    return [off, *(setting for setting in settings if setting.name != OFF)]


def listed(values: Any, where: str) -> list[Any]:
    """The settings of a YAML file: `settings`, a list; `grid`, methods by shares; `fewer`, settings by `questions`.

    Raises:
        ConfigError: something else stands there.
    """
    sections: Mapping[str, Any] = values if isinstance(values, Mapping) else {"": None}
    grid, fewer = sections.get("grid", {}), sections.get("fewer", {})
    keys = [(sections, {"settings", "grid", "fewer"}), (grid, {"methods", "shares"})]
    keys.append((fewer, {"questions", "settings"}))
    if not all(isinstance(part, Mapping) and part.keys() <= known for part, known in keys):
        raise ConfigError(
            f"{where}: expected the keys `settings` (a list), `grid` (methods, shares), `fewer` (questions, settings)"
        )
    lists = [sections.get("settings", []), grid.get("methods", []), grid.get("shares", []), fewer.get("settings", [])]
    if not all(isinstance(one, list) for one in lists):
        raise ConfigError(f"{where}: `settings`, `grid.methods`, `grid.shares` and `fewer.settings` are lists")
    named, methods, shares, few = lists
    return [
        *named,
        *(f"{method}@{share}" for method in methods for share in shares),
        *({"setting": value, "questions": fewer.get("questions")} for value in few),
    ]
