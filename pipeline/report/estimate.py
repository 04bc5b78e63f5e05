"""What a run needed, what the next one will need, and what this one would have needed without compression.

Work is measured in planned FLOPs and seconds of video, so a longer night, other prompts or another number of actors
are accounted for; a machine, model or compression that was never run is not guessed. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pipeline.report.cost import HOUR_S, Prices, Rented, price


@dataclass(frozen=True)
class Amount:
    """Work to do or done.

    Attributes:
        units: how many.
        video_s: seconds of video.
        vision_tflop, text_tflop: planned, for the encoder and for the language model (prefill and decode).
        full_vision_tflop, full_text_tflop: the same without compression; null where the plan does not say.
    """

    units: int
    video_s: float
    vision_tflop: float
    text_tflop: float
    full_vision_tflop: float | None = None
    full_text_tflop: float | None = None


@dataclass(frozen=True)
class Rates:
    """What a run needed for what it did: the calibration of the next one's estimate.

    Attributes:
        done: the work it finished.
        video_decode_s: seconds in which decode workers worked.
        vision_s, text_s: seconds in which engines worked: in the encoder, and in prefill and decode.
        starved_s: seconds in which engines waited for frames.
        reference_s: seconds in which engines worked for the quality slice.
        start_up_s: seconds until engines were ready, and at the end.
        active_s: the other seconds.
        actors, decoders: engines, and decode tasks that could run at once.
        gpus, cpus: devices that were held; null when not recorded.
    """

    done: Amount
    video_decode_s: float
    vision_s: float
    text_s: float
    starved_s: float
    start_up_s: float
    active_s: float
    actors: int
    decoders: float
    gpus: float | None
    cpus: float
    reference_s: float = 0.0

    @property
    def engine_s(self) -> float:
        return self.vision_s + self.text_s


@dataclass(frozen=True)
class Estimate:
    """What was expected of a run before it began.

    Attributes:
        based_on: the run whose rates were used.
        based_on_units: units it had finished.
        units: units to do.
        wall_s: expected seconds.
        usd: expected cost; null without prices.
        per_video_hour_usd: per hour of video.
        wall_error, usd_error: what came of it over what was expected, minus one; null unless the run did all its work.
    """

    based_on: str
    based_on_units: int
    units: int
    wall_s: float
    usd: float | None
    per_video_hour_usd: float | None
    wall_error: float | None = None
    usd_error: float | None = None

    @staticmethod
    def of(values: Mapping[str, Any]) -> Estimate | None:
        """From an event; None if it holds none."""
        try:
            return Estimate(**{field.name: values[field.name] for field in fields(Estimate) if field.name in values})
        except TypeError:
            return None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Uncompressed:
    """What this run's work would have taken without compression, on the same machines.

    Attributes:
        method: slice (each stage's seconds scaled by what the quality slice took longer), measured (rates of a run
            without compression) or flops (seconds scaled by planned FLOPs).
        measured_in: the run without compression, or null.
        slice_units: units of the slice that were measured, or null.
        engine_s, uncompressed_engine_s: seconds of work for engines, with and without compression.
        ratio: the second over the first.
        ratio_interval: its 95 % interval, from the slice; null for other methods and very small slices.
        wall_s: the run's seconds without compression; engines that waited for frames make up for some of the work.
        usd: its cost; null without prices.
        per_video_hour_usd: per hour of video.
        saved_usd: that cost less the run's.
    """

    method: str
    measured_in: str | None
    engine_s: float
    uncompressed_engine_s: float
    ratio: float
    wall_s: float
    usd: float | None
    per_video_hour_usd: float | None
    saved_usd: float | None
    slice_units: int | None = None
    ratio_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Stretched:
    """Engine seconds of a run without compression as its quality slice tells them, from so many units."""

    units: int
    engine_s: float
    interval: tuple[float, float] | None


def rates_of(values: Mapping[str, Any] | None) -> Rates | None:
    """`rates` of a metrics.json; None if there are none, or of an unknown version."""
    if not values:
        return None
    try:
        return Rates(**{**values, "done": Amount(**values["done"])})
    except (KeyError, TypeError):
        return None


def estimate(work: Amount, rates: Rates, based_on: str, actors: int, prices: Prices) -> Estimate | None:
    """Time and cost of `work` on machines like those of `rates`, with as many per actor.

    Engines and decoders work at the same time, so the slower of the two counts; how well the two overlapped is taken
    from the calibration. None if the calibration measured nothing.
    """
    scale = actors / rates.actors
    ideal_then_s = max(rates.engine_s / rates.actors, rates.video_decode_s / rates.decoders)
    if rates.active_s <= 0 or ideal_then_s <= 0 or not rates.done.units:
        return None
    if rates.done.vision_tflop + rates.done.text_tflop > 0:
        engine_s = _scaled(rates.vision_s, work.vision_tflop, rates.done.vision_tflop) + _scaled(
            rates.text_s, work.text_tflop, rates.done.text_tflop
        )
    else:  # a model that was not sized
        engine_s = _scaled(rates.engine_s, work.units, rates.done.units)
    video_decode_s = _scaled(rates.video_decode_s, work.video_s, rates.done.video_s)
    ideal_s = max(engine_s / actors, video_decode_s / (rates.decoders * scale))
    wall_s = rates.start_up_s + rates.reference_s / actors + ideal_s * rates.active_s / ideal_then_s
    gpus = None if rates.gpus is None else rates.gpus * scale
    usd = price(Rented(wall_s, gpus, rates.cpus * scale), prices)
    return Estimate(based_on, rates.done.units, work.units, wall_s, usd, _per_hour(usd, work.video_s))


def compared(before: Estimate, wall_s: float, usd: float | None, complete: bool) -> Estimate:
    """The estimate with its errors, once the run has ended."""
    if not complete:
        return before
    return Estimate(
        **{
            **asdict(before),
            "wall_error": wall_s / before.wall_s - 1 if before.wall_s else None,
            "usd_error": usd / before.usd - 1 if usd is not None and before.usd else None,
        }
    )


def uncompressed(
    rates: Rates,
    rented: Rented,
    prices: Prices,
    measured: tuple[str, Rates] | None = None,
    stretched: Stretched | None = None,
) -> Uncompressed | None:
    """The run without compression.

    Args:
        rates: of the run.
        rented: devices it held, and for how long.
        prices: of these.
        measured: name and rates of a run of the same model without compression, if there was one.
        stretched: what the run's own quality slice says, if it had one; goes first.

    Returns:
        None where FLOPs were not planned or nothing was measured.
    """
    done = rates.done
    if rates.engine_s <= 0:
        return None
    if stretched is not None:
        found = _without_compression(rates, rented, prices, "slice", stretched.engine_s)
        interval = stretched.interval and (
            stretched.interval[0] / rates.engine_s,
            stretched.interval[1] / rates.engine_s,
        )
        return replace(found, slice_units=stretched.units, ratio_interval=interval)
    if done.full_vision_tflop is None or done.full_text_tflop is None:
        return None
    if measured is None:
        full_s = _scaled(rates.vision_s, done.full_vision_tflop, done.vision_tflop) + _scaled(
            rates.text_s, done.full_text_tflop, done.text_tflop
        )
    else:
        base = measured[1]
        full_s = _scaled(base.vision_s, done.full_vision_tflop, base.done.vision_tflop) + _scaled(
            base.text_s, done.full_text_tflop, base.done.text_tflop
        )
    found = _without_compression(rates, rented, prices, "flops" if measured is None else "measured", full_s)
    return replace(found, measured_in=None if measured is None else measured[0])


def _without_compression(rates: Rates, rented: Rented, prices: Prices, method: str, full_s: float) -> Uncompressed:
    """A run whose engines work `full_s` seconds, and that has no quality slice."""
    longer_s = max(0.0, full_s - rates.engine_s - rates.starved_s)
    wall_s = rented.wall_s + (longer_s - rates.reference_s) / rates.actors
    usd, own_usd = price(replace(rented, wall_s=wall_s), prices), price(rented, prices)
    return Uncompressed(
        method=method,
        measured_in=None,
        engine_s=rates.engine_s,
        uncompressed_engine_s=full_s,
        ratio=full_s / rates.engine_s,
        wall_s=wall_s,
        usd=usd,
        per_video_hour_usd=_per_hour(usd, rates.done.video_s),
        saved_usd=usd - own_usd if usd is not None and own_usd is not None else None,
    )


def _scaled(seconds: float, amount: float, per: float) -> float:
    return seconds * amount / per if per > 0 else 0.0


def _per_hour(usd: float | None, video_s: float) -> float | None:
    return usd / (video_s / HOUR_S) if usd is not None and video_s > 0 else None
