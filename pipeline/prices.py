"""List prices of common machines, for `prices: {preset: ...}`. Plain data.

They are public on-demand prices of one region on one day, and nobody's bill: reserved, spot and negotiated prices are
lower, other regions dearer, and prices change. Check yours and set them; a report says which were used.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "AWS on-demand, Linux, us-east-1, as published by instances.vantage.sh"
AS_OF = "2026-01-21"

#: S3 Standard, us-east-1: a thousand PUT, COPY, POST or LIST requests, and a thousand GET or HEAD requests.
S3_WRITES_1000_USD = 0.005
S3_READS_1000_USD = 0.0004


@dataclass(frozen=True)
class Preset:
    """One machine.

    Attributes:
        machine: its instance type.
        gpu: what is in it; empty for a machine without.
        gpus, cpus: how many GPUs and vCPUs.
        hour_usd: price of the whole machine.
    """

    machine: str
    gpu: str
    gpus: int
    cpus: int
    hour_usd: float

    @property
    def gpu_hour_usd(self) -> float:
        """The machine's price over its GPUs: its CPUs come with them."""
        return self.hour_usd / self.gpus if self.gpus else 0.0

    @property
    def cpu_hour_usd(self) -> float:
        """Per vCPU; zero where the GPUs carry the price."""
        return 0.0 if self.gpus else self.hour_usd / self.cpus


PRESETS = {
    "aws-g4dn": Preset("g4dn.xlarge", "T4", 1, 4, 0.526),
    "aws-g5": Preset("g5.xlarge", "A10G", 1, 4, 1.006),
    "aws-g6": Preset("g6.xlarge", "L4", 1, 4, 0.8048),
    "aws-g6e": Preset("g6e.xlarge", "L40S", 1, 4, 1.861),
    "aws-p4d": Preset("p4d.24xlarge", "A100 40 GB", 8, 96, 21.957642),
    "aws-p5": Preset("p5.48xlarge", "H100", 8, 192, 55.04),
    "aws-p5en": Preset("p5en.48xlarge", "H200", 8, 192, 63.296),
    "aws-m7g": Preset("m7g.large", "", 0, 2, 0.0816),
}
