"""Plans a run: lists inputs, probes headers, cuts clips, samples timestamps, sizes and names units.

Knows fsspec, PyAV and `luvc.scheduling`; nothing of torch or Ray. All fan-out happens here, none in the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.plan.planner import Plan

__all__ = ["plan"]


def plan(config: RunConfig, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Plan all units of a run; see `pipeline.plan.planner.plan`."""
    # Imported late: the configuration imports its sections from this package and must not load PyAV for that.
    from pipeline.plan.planner import plan as make

    return make(config, progress)
