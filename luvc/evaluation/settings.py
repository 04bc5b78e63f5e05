"""Names of what is compared: presets, a method at a share of tokens, or a whole mapping. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luvc.compression import PRESETS, Compression, suggest
from luvc.errors import ConfigError
from luvc.evaluation.levels import METHODS, at_share
from luvc.shapes import Grid

OFF = "off"


@dataclass(frozen=True)
class Setting:
    """A compression and its name in the tables."""

    name: str
    compression: Compression


@dataclass(frozen=True)
class Place:
    """What `METHOD@SHARE` is solved for: layers of the language model, and a clip's visual tokens uncompressed."""

    layers: int
    grid: Grid


#: Serves to check names before a model is loaded.
ANYWHERE = Place(24, Grid(8, 16, 16))


def parse_setting(value: Any, place: Place = ANYWHERE) -> Setting:
    """`balanced`, `oim@0.25`, or a mapping as in the YAML (with a `name`).

    `METHOD@SHARE` leaves that share of visual tokens in the mean of the language model's layers
    (`luvc.evaluation.levels`), so that methods are compared at equal tokens.

    Raises:
        ConfigError: an unknown name or an impossible share.
    """
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
    """The settings of a YAML file: `settings`, a list, and `grid`, methods by shares.

    Raises:
        ConfigError: something else stands there.
    """
    grid = values.get("grid", {}) if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(grid, Mapping) or values.keys() - {"settings", "grid"}:
        raise ConfigError(f"{where}: expected the keys `settings` (a list) and `grid` (methods, shares)")
    parts = [values.get("settings", []), grid.get("methods", []), grid.get("shares", [])]
    if grid.keys() - {"methods", "shares"} or not all(isinstance(part, list) for part in parts):
        raise ConfigError(f"{where}: `settings`, `grid.methods` and `grid.shares` are lists")
    return [*parts[0], *(f"{method}@{share}" for method in parts[1] for share in parts[2])]
