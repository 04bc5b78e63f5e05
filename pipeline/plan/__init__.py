"""Plans a run: lists inputs, probes headers, cuts clips, samples timestamps, sizes and names units.

Knows fsspec, PyAV and `luvc.scheduling`; nothing of torch or Ray. All fan-out happens here, none in the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.plan.planning import Plan

__all__ = ["add", "plan"]


# Imported late: the configuration imports its sections from this package and must not load PyAV for that.
def plan(*args: Any, **options: Any) -> Plan:
    """Plan all units of a run; see `pipeline.plan.planning.plan`."""
    from pipeline.plan import planning

    return planning.plan(*args, **options)


def add(*args: Any, **options: Any) -> Plan:
    """Add videos to a manifest; see `pipeline.plan.planning.add`."""
    from pipeline.plan import planning

    return planning.add(*args, **options)
