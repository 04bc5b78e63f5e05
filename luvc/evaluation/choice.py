"""Which setting a preset should be: the fastest whose loss is surely small. Pure; reads the report of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: What may be lost, as the report names it: right answers, or the probability of the right choice, which tells the same
#: with a fraction of the noise (luvc/evaluation/summary.py) where the engine measured it.
MEASURES = {"accuracy": "loss_points", "probability": "probability_points_lost"}

#: Preset -> percentage points that may have been lost, upper end of the paired 95 % interval.
ALLOWED_POINTS = {"balanced": 1.0, "fast": 3.0}


@dataclass(frozen=True)
class Choice:
    """The outcome for one limit.

    Attributes:
        allowed_points: the limit.
        name: of the fastest setting within it; None: there is none.
        nearest: the setting with the smallest upper end, whether it qualifies or not; None: nothing was measured.
    """

    allowed_points: float
    name: str | None
    nearest: str | None


def settings_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All compressed settings of a report, by name."""
    return {**report["presets"], **report["rivals"]}


def is_ours(entry: Mapping[str, Any]) -> bool:
    """Whether a setting is made of LUVC's own parts alone: OIM, SPU, or both."""
    compression = entry["compression"]
    merge, prune = compression.get("merge"), compression.get("prune")
    own = (merge is None or merge["method"] == "oim") and (prune is None or prune["method"] == "spu")
    return own and compression.get("resize", 1.0) == 1.0 and (merge is not None or prune is not None)


def choose(settings: Mapping[str, Mapping[str, Any]], allowed_points: float, measure: str = "accuracy") -> Choice:
    """The fastest of `settings` whose loss is at most `allowed_points` at the upper end of its interval.

    One that is no faster than the uncompressed run never qualifies; of equally fast ones the surer wins. A setting
    that was not measured that way (see MEASURES) takes no part.
    """
    key = f"{MEASURES[measure]}_upper95"
    settings = {name: entry for name, entry in settings.items() if key in entry}

    def upper(name: str) -> float:
        return float(settings[name][key])

    def speed(name: str) -> float:
        return float(settings[name]["speedup"])

    good = [name for name in settings if upper(name) <= allowed_points and speed(name) > 1]
    best = max(good, key=lambda name: (speed(name), -upper(name)), default=None)
    return Choice(allowed_points, best, min(settings, key=lambda name: (upper(name), -speed(name)), default=None))


def in_words(preset: str, choice: Choice, settings: Mapping[str, Mapping[str, Any]], measure: str = "accuracy") -> str:
    """One line for people."""
    lost = MEASURES[measure]

    def told(name: str) -> str:
        entry = settings[name]
        return (
            f"{name} (lost {entry[lost]:+.1f} points, at most {entry[f'{lost}_upper95']:+.1f}; "
            f"{entry['speedup']:.2f}x, {entry['keep']:.0%} of the tokens)"
        )

    limit = f"{preset}, at most {choice.allowed_points:g} points of {measure} lost"
    if choice.name is not None:
        return f"{limit}: {told(choice.name)}"
    nearest = f"nearest is {told(choice.nearest)}" if choice.nearest else "nothing was measured"
    return f"{limit}: none qualifies; {nearest}"
