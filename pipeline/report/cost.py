"""What a run costs at the configured prices. Pure arithmetic; no prices, no cost."""

from __future__ import annotations

from dataclasses import dataclass

HOUR_S = 3600.0


@dataclass(frozen=True)
class Prices:
    """US dollars per hour of one GPU and of one CPU core, and per thousand requests to a store; None = not set."""

    gpu_hour_usd: float | None = None
    cpu_hour_usd: float | None = None
    storage_writes_1000_usd: float | None = None
    storage_reads_1000_usd: float | None = None

    @property
    def known(self) -> bool:
        return self.gpu_hour_usd is not None or self.cpu_hour_usd is not None


@dataclass(frozen=True)
class Rented:
    """Devices held for `wall_s` seconds, busy or not: that is what is paid for; `gpus` None = not recorded.

    Beside them, requests to object stores: writes are PUT and LIST, reads are GET and HEAD.
    """

    wall_s: float
    gpus: float | None
    cpus: float
    storage_writes: int = 0
    storage_reads: int = 0


@dataclass(frozen=True)
class Cost:
    """US dollars; None where prices are not set, or nothing was made that could be divided by.

    Attributes:
        usd: in all.
        per_video_hour_usd: per hour of video that was finished.
        per_1000_captions_usd: per thousand answers.
        gpu_hours, cpu_hours: device hours that were paid for; None when the number of GPUs was not recorded.
        storage_usd: the part of it for requests to object stores.
        storage_writes, storage_reads: these requests, PUT and LIST, and GET and HEAD.
    """

    usd: float | None
    per_video_hour_usd: float | None
    per_1000_captions_usd: float | None
    gpu_hours: float | None
    cpu_hours: float
    storage_usd: float
    storage_writes: int
    storage_reads: int


def price(rented: Rented, prices: Prices) -> float | None:
    """Dollars for `rented`, or None when it cannot be known.

    A price that is not set counts as zero, unless both are missing; a price for an unknown number of GPUs is none.
    """
    if not prices.known or (rented.gpus is None and prices.gpu_hour_usd):
        return None
    hourly = (rented.gpus or 0.0) * (prices.gpu_hour_usd or 0.0) + rented.cpus * (prices.cpu_hour_usd or 0.0)
    return rented.wall_s / HOUR_S * hourly + storage_price(rented, prices)


def storage_price(rented: Rented, prices: Prices) -> float:
    """Dollars for requests; a price that is not set counts as zero."""
    return (
        rented.storage_writes * (prices.storage_writes_1000_usd or 0.0)
        + rented.storage_reads * (prices.storage_reads_1000_usd or 0.0)
    ) / 1000


def cost(bills: list[tuple[Rented, Prices]], video_s: float, answers: int) -> Cost:
    """Cost of one or more runs that together finished `video_s` seconds of video and `answers` answers.

    Runs without prices make the sum unknown: a partial sum would look like a low price.
    """
    amounts = [price(rented, prices) for rented, prices in bills]
    usd = _total(amounts)
    return Cost(
        usd=usd,
        per_video_hour_usd=_per(usd, video_s / HOUR_S),
        per_1000_captions_usd=_per(usd, answers / 1000),
        gpu_hours=_total(
            [None if rented.gpus is None else rented.wall_s / HOUR_S * rented.gpus for rented, _ in bills]
        ),
        cpu_hours=sum(rented.wall_s * rented.cpus for rented, _ in bills) / HOUR_S,
        storage_usd=sum(storage_price(rented, prices) for rented, prices in bills),
        storage_writes=sum(rented.storage_writes for rented, _ in bills),
        storage_reads=sum(rented.storage_reads for rented, _ in bills),
    )


def _per(usd: float | None, amount: float) -> float | None:
    return usd / amount if usd is not None and amount > 0 else None


def _total(amounts: list[float | None]) -> float | None:
    """The sum, or None if a part of it is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known and len(known) == len(amounts) else None
