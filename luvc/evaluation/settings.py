"""Names of what is compared: presets, a method at a keep ratio, or a whole mapping. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luvc.compression import MERGE_METHODS, PRESETS, PRUNE_METHODS, Compression, suggest
from luvc.errors import ConfigError

OFF = "off"
METHODS = ("resize", *MERGE_METHODS, *PRUNE_METHODS)


@dataclass(frozen=True)
class Setting:
    """A compression and its name in the tables."""

    name: str
    compression: Compression


def parse_setting(value: Any) -> Setting:
    """`balanced`, `oim@0.25`, or a mapping as in the YAML (with a `name`).

    `METHOD@KEEP` leaves that share of visual tokens in *all* layers of the language model, so that methods are
    compared at equal tokens: `resize` scales frames down, `oim` and `tome` merge inside the encoder, pruners drop
    behind it.

    Raises:
        ConfigError: an unknown name or an impossible ratio.
    """
    if isinstance(value, Setting):
        return value
    if isinstance(value, str) and "@" in value:
        method, _, ratio = value.partition("@")
        return Setting(value, replace(_at(method, ratio, value), name=value))
    compression = Compression.from_any(value)
    if isinstance(value, Mapping) and "name" not in value:
        raise ConfigError(f"settings: {dict(value)!r} has no name", "add `name: ...`; tables and resumption go by it")
    return Setting(compression.name, compression)


def parse_settings(values: Sequence[Any]) -> list[Setting]:
    """All settings, each name once, the uncompressed run first whether named or not."""
    settings = [parse_setting(value) for value in values]
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"settings: {name!r} stands there twice")
    off = Setting(OFF, PRESETS[OFF])
    return [off, *(setting for setting in settings if setting.name != OFF)]


def _at(method: str, ratio: str, value: str) -> Compression:
    if method not in METHODS:
        raise ConfigError(f"settings: unknown method {method!r} in {value!r}", suggest(method, METHODS))
    try:
        keep = float(ratio)
    except ValueError:
        raise ConfigError(f"settings: {ratio!r} in {value!r} is not a share", "e.g. oim@0.25") from None
    if method == "resize":
        return Compression.from_any({"resize": keep})
    if method in MERGE_METHODS:
        return Compression.from_any({"merge": {"method": method, "keep": keep}})
    return Compression.from_any({"prune": {"method": method, "schedule": "stages", "stages": [[0.0, keep]]}})
