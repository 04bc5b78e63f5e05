"""Actors that hold a model or a part of it, from the `run` section of a run's configuration: plain data, of any age."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def count(run: Mapping[str, Any]) -> int:
    """All of them."""
    return sum(actors for actors, _ in _pools(run))


def cpus(run: Mapping[str, Any]) -> float:
    """CPUs they reserve."""
    return sum(actors * float(pool.get("cpus_per_actor") or 1) for actors, pool in _pools(run))


def gpus(run: Mapping[str, Any]) -> float | None:
    """GPUs they reserve; None where "auto" leaves it open."""
    per_actor = [(actors, pool.get("gpus_per_actor")) for actors, pool in _pools(run)]
    numbers = [actors * float(each) for actors, each in per_actor if isinstance(each, (int, float))]
    return sum(numbers) if len(numbers) == len(per_actor) else None


def _pools(run: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    pools: list[Mapping[str, Any]] = [run]
    if run.get("topology") == "split":
        pools.append(run.get("encoders") or {})
    counts = [pool.get("actors") for pool in pools]
    return [(each if isinstance(each, int) and each else 1, pool) for each, pool in zip(counts, pools, strict=True)]
