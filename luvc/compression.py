"""What is compressed, where and how much: plain configuration, no torch.

A `Compression` is a merger inside the vision encoder (`Merge`) and a pruner inside the language model
(`Prune`); either may be absent. Every open choice of the paper is a field (see docs/method.md).
Counts that follow from a configuration are computed in `luvc.scheduling`, never here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_type_hints

from luvc.errors import ConfigError

Axis = Literal["height", "width", "time"]
MERGE_METHODS = ("oim", "tome")
PRUNE_METHODS = ("spu", "random", "uniform", "key_norm", "adjacent_frames")


def _check(good: bool, key: str, value: Any, wanted: str) -> None:
    if not good:
        raise ConfigError(f"compression.{key}: {value!r} is not allowed", f"expected {wanted}")


@dataclass(frozen=True)
class MergeStep:
    """One step of the orthogonal iterative merger.

    Attributes:
        depth: where, as a fraction of the encoder's blocks that have run before the step, in [0, 1].
        axis: the axis along which adjacent units are merged, the same number in every line. "time" goes
            beyond the paper and needs a family whose frames lie in one run of visual tokens (Qwen2-VL).
        keep: share of the axis that is left, in [0.5, 1]; pairs are disjoint, so not below one half.
    """

    depth: float
    axis: Axis
    keep: float

    def __post_init__(self) -> None:
        _check(0.0 <= self.depth <= 1.0, "merge.steps.depth", self.depth, "a fraction in [0, 1]")
        _check(self.axis in ("height", "width", "time"), "merge.steps.axis", self.axis, "height, width or time")
        _check(0.5 <= self.keep <= 1.0, "merge.steps.keep", self.keep, "in [0.5, 1]: pairs are disjoint")


@dataclass(frozen=True)
class Merge:
    """A merger inside the encoder; by default the orthogonal iterative merger (OIM).

    Attributes:
        method: "oim": axis by axis, the grid stays rectangular; "tome": any two similar units of a frame
            (the control without the axis constraint).
        keep: share of visual tokens left after all steps; ignored when `steps` is given.
        first, last: depths between which the automatic steps are spread.
        steps: explicit steps instead of the automatic ones. "tome" reads their depth and keep only.
        unit: what is merged: "fold" (the group of patches that becomes one visual token, its patches kept
            apart) or "patch" (each axis then shrinks to a multiple of the fold; oim only).
        metric: what the cosine similarity is taken of: "hidden" (the residual stream) or "key" (the
            attention keys of the block that comes next).
        positions: "original": merged tokens keep the size-weighted mean of their original positions;
            "compact": they are numbered anew.
        proportional: add log(size) to the encoder's attention scores (a bias that some fused kernels lack).
    """

    method: str = "oim"
    keep: float = 0.25
    first: float = 0.25
    last: float = 0.5
    steps: tuple[MergeStep, ...] = ()
    unit: Literal["fold", "patch"] = "fold"
    metric: Literal["hidden", "key"] = "hidden"
    positions: Literal["original", "compact"] = "original"
    proportional: bool = False

    def __post_init__(self) -> None:
        _check(self.method in MERGE_METHODS, "merge.method", self.method, "one of " + ", ".join(MERGE_METHODS))
        _check(0.0 < self.keep <= 1.0, "merge.keep", self.keep, "in (0, 1]")
        _check(
            0.0 <= self.first <= self.last <= 1.0,
            "merge.first, merge.last",
            (self.first, self.last),
            "fractions with first <= last",
        )
        _check(self.unit in ("fold", "patch"), "merge.unit", self.unit, "fold or patch")
        _check(self.metric in ("hidden", "key"), "merge.metric", self.metric, "hidden or key")
        _check(self.positions in ("original", "compact"), "merge.positions", self.positions, "original or compact")
        structured = self.unit == "fold" and all(step.axis != "time" for step in self.steps)
        _check(self.method == "oim" or structured, "merge.method", self.method, "oim for patches and for time")

    def resolved_steps(self) -> tuple[MergeStep, ...]:
        """The steps to run, in order of depth.

        Automatic steps alternate width and height. Each axis keeps sqrt(keep) in at least two steps:
        a single step to one half has only one perfect pairing, which would be plain average pooling.
        """
        if self.steps:
            return tuple(sorted(self.steps, key=lambda step: step.depth))
        if self.keep == 1.0:
            return ()
        axis_keep = math.sqrt(self.keep)
        per_axis = max(2, math.ceil(math.log(axis_keep) / math.log(0.6)))
        # Rounding must not push an exact half below the limit of disjoint pairs.
        step_keep = max(0.5, axis_keep ** (1 / per_axis))
        total = 2 * per_axis
        spread = (self.last - self.first) / max(1, total - 1)
        axes: tuple[Axis, Axis] = ("width", "height")
        return tuple(MergeStep(self.first + index * spread, axes[index % 2], step_keep) for index in range(total))


@dataclass(frozen=True)
class Stage:
    """From this depth of the language model on, `keep` of the merged visual tokens are left."""

    depth: float
    keep: float

    def __post_init__(self) -> None:
        _check(0.0 <= self.depth <= 1.0, "prune.stages.depth", self.depth, "a fraction in [0, 1]")
        _check(0.0 <= self.keep <= 1.0, "prune.stages.keep", self.keep, "in [0, 1]")


THREE_STAGES = (Stage(1 / 3, 0.45), Stage(2 / 3, 0.45**2), Stage(1.0, 0.0))


@dataclass(frozen=True)
class Prune:
    """Spectrum pruning unit (SPU) or one of its rivals on the same schedule.

    Attributes:
        method: "spu", or a control: "random", "uniform" (evenly spread), "key_norm" (small keys stay, as
            they draw attention), "adjacent_frames" (what differs most from the same place one frame
            before stays; with `stages: [[0, keep]]` it drops behind the encoder, as serving engines do).
        schedule: "ramp" (linear to zero at the last layer), "stages".
        first: depth up to which all tokens stay (ramp).
        every: layers between two prunings of a ramp.
        stages: cumulative keep ratios from a depth on (stages); depth 1.0 is the last layer.
        axis: the axis the spectrum is taken along: "sequence" (over visual tokens) or "channel".
        filter: ideal low-pass by "dct", or "fir" (a binomial kernel; no transform).
        cutoff: share of the spectrum that counts as low, in (0, 1].
        taps: length of the FIR kernel, odd.
        residual: score what the low-pass filter takes away instead of what it lets pass.
        sign: keep the tokens whose score is largest ("high") or smallest ("low").
        seed: for "random".
    """

    method: str = "spu"
    schedule: Literal["ramp", "stages"] = "stages"
    first: float = 0.0
    every: int = 1
    stages: tuple[Stage, ...] = THREE_STAGES
    axis: Literal["sequence", "channel"] = "sequence"
    filter: Literal["dct", "fir"] = "dct"
    cutoff: float = 0.02
    taps: int = 5
    sign: Literal["high", "low"] = "high"
    residual: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.method in PRUNE_METHODS, "prune.method", self.method, "one of " + ", ".join(PRUNE_METHODS))
        _check(self.schedule in ("ramp", "stages"), "prune.schedule", self.schedule, "ramp or stages")
        _check(0.0 <= self.first < 1.0, "prune.first", self.first, "a fraction in [0, 1)")
        _check(self.every >= 1, "prune.every", self.every, "at least 1")
        _check(self.axis in ("sequence", "channel"), "prune.axis", self.axis, "sequence or channel")
        _check(self.filter in ("dct", "fir"), "prune.filter", self.filter, "dct or fir")
        _check(0.0 < self.cutoff <= 1.0, "prune.cutoff", self.cutoff, "in (0, 1]")
        _check(self.taps % 2 == 1 and self.taps > 0, "prune.taps", self.taps, "odd and positive")
        _check(self.sign in ("high", "low"), "prune.sign", self.sign, "high or low")
        keeps = [stage.keep for stage in sorted(self.stages, key=lambda stage: stage.depth)]
        _check(keeps == sorted(keeps, reverse=True), "prune.stages", keeps, "keep ratios that never rise")

    def keep_at(self, layer: int, layers: int) -> float:
        """Share of the merged visual tokens alive in decoder layer `layer` of `layers`."""
        last = layers - 1
        if self.schedule == "stages":
            keep = 1.0
            for stage in sorted(self.stages, key=lambda stage: stage.depth):
                # Depth 1.0 means the last layer itself: no layer comes after all of them.
                if layer >= min(math.ceil(stage.depth * layers), last):
                    keep = stage.keep
            return keep
        if layer >= last:
            return 0.0
        start = math.floor(self.first * layers)
        if layer <= start:
            return 1.0
        stepped = start + (layer - start) // self.every * self.every
        return 1.0 - (stepped - start) / (last - start)


@dataclass(frozen=True)
class Compression:
    """What is compressed; with nothing of it, off.

    Attributes:
        name: for reports.
        merge: merger inside the encoder.
        prune: pruner inside the language model.
        resize: share of visual tokens left by plainly scaling the frames down: the honest rival.
    """

    name: str = "custom"
    merge: Merge | None = None
    prune: Prune | None = None
    resize: float = 1.0

    def __post_init__(self) -> None:
        good = isinstance(self.resize, (int, float)) and 0.0 < self.resize <= 1.0
        _check(good, "resize", self.resize, "a share in (0, 1]")

    @property
    def is_off(self) -> bool:
        return self.merge is None and self.prune is None and self.resize == 1.0

    def as_mapping(self) -> dict[str, Any]:
        """Plain data for YAML, hashing and Parquet metadata; `from_any` reads it back."""
        return asdict(self)

    @staticmethod
    def from_any(value: Any) -> Compression:
        """A preset name, a mapping as in the YAML, or a `Compression`.

        A mapping may start from a preset: `{preset: balanced, merge: {keep: 0.5}}`.

        Raises:
            ConfigError: an unknown preset, key or an impossible value, naming the full key.
        """
        if isinstance(value, Compression):
            return value
        if value is None or value is False:  # YAML reads a bare `off` as false
            return PRESETS["off"]
        if isinstance(value, str):
            return _preset(value)
        if not isinstance(value, Mapping):
            raise ConfigError(f"compression: {value!r} is neither a preset name nor a mapping")
        given = dict(value)
        base_name = given.pop("preset", None)
        base = _preset(base_name) if base_name is not None else Compression()
        _known(given, ("name", "resize", "merge", "prune"), "compression")
        name = given.get("name", f"{base_name}*" if base_name and given else base_name or "custom")
        return Compression(
            name=str(name),
            resize=given.get("resize", base.resize),
            merge=_part(Merge, base.merge, given.get("merge", base.merge), "merge"),
            prune=_part(Prune, base.prune, given.get("prune", base.prune), "prune"),
        )


def held(keep: float, until: float = 0.75) -> tuple[Stage, ...]:
    """Stages that leave `keep` behind the encoder, hold it up to the depth `until`, and then fall in equal steps to
    nothing at the last layer.

    No worse than a ramp that falls all the way and keeps more tokens in the mean (docs/results.md): late layers read
    visual tokens, too, and few of them suffice.
    """
    # Depths are rounded down: a hair above a whole layer would be the layer after it.
    depths = [math.floor(1e4 * (until + (1 - until) * step / 3)) / 1e4 for step in range(4)]
    falling = [Stage(depth, round(keep * (3 - step) / 4, 6)) for step, depth in enumerate(depths)]
    return (Stage(0.0, keep), *falling)


#: The nearest reading of the paper's words; the defaults of `Prune` are what measurement made of it (docs/method.md).
_MAGNITUDE = Prune(schedule="ramp", axis="channel", cutoff=0.25, residual=False)

#: What `balanced` and `fast` leave and lose: docs/results.md.
PRESETS: dict[str, Compression] = {
    "off": Compression("off"),
    "paper": Compression("paper", merge=Merge(keep=0.5), prune=_MAGNITUDE),
    "balanced": Compression("balanced", prune=Prune(stages=held(0.5))),
    "fast": Compression("fast", Merge(keep=0.75), Prune(stages=held(0.25))),
}


def suggest(key: str, known: Any) -> str:
    """A hint for a misspelt `key`: the nearest known one, else all of them."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(sorted(known))


def _preset(name: str) -> Compression:
    if name not in PRESETS:
        raise ConfigError(f"compression: unknown preset {name!r}", suggest(name, PRESETS))
    return PRESETS[name]


def _part(kind: Any, base: Any, value: Any, key: str) -> Any:
    if value is None or value is False or isinstance(value, kind):
        return value or None
    if value is True:
        return base or kind()
    if not isinstance(value, Mapping):
        raise ConfigError(f"compression.{key}: expected a mapping, got {value!r}")
    names = {item.name for item in fields(kind)}
    _known(value, names, f"compression.{key}")
    merged = {item.name: getattr(base, item.name) for item in fields(kind)} if base else {}
    merged.update(value)
    nested = {"steps": MergeStep, "stages": Stage}
    for name, item_kind in nested.items():
        if name in merged:
            items = merged[name] or ()
            if not isinstance(items, (list, tuple)):
                raise ConfigError(f"compression.{key}.{name}: expected a list, got {items!r}")
            merged[name] = tuple(_item(item_kind, item, f"compression.{key}.{name}") for item in items)
    for name, default in vars(kind()).items():
        value = merged.get(name, default)
        if not _is_a(value, type(default)):
            raise ConfigError(f"compression.{key}.{name}: {value!r} should be a {type(default).__name__}")
    return kind(**merged)


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value from YAML may stand for a field: whole numbers for floats, nothing infinite, no `true` for 1."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _item(kind: Any, value: Any, key: str) -> Any:
    if isinstance(value, kind):
        return value
    names = [item.name for item in fields(kind)]
    if isinstance(value, Mapping):
        _known(value, names, key)
        value = [value.get(name) for name in names]
    if not isinstance(value, (list, tuple)) or len(value) != len(names) or None in value:
        raise ConfigError(f"{key}: {value!r} needs the fields {', '.join(names)}")
    for name, field_kind, given in zip(names, get_type_hints(kind).values(), value, strict=True):
        if field_kind is float and not _is_a(given, float):
            raise ConfigError(f"{key}: {name} is {given!r} in {value!r}", "a number is needed")
    return kind(*value)


def _known(given: Mapping[str, Any], known: Any, where: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}", suggest(str(key), known))
