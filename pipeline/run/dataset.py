"""The run as a Ray Data pipeline: pending rows -> decode tasks -> engine actors -> outcomes for the sink.

With `run.topology: split` a pool of encoder actors stands between decode tasks and engine actors.

What is set here and why:

- Blocks of input are sized by guided self-scheduling: large while there is much to do (a million units make some
  ten thousand tasks), single units at the end, so that no worker sits on a long tail. Decode tasks stream: units
  leave as soon as they are ready, so large blocks delay nobody.
- A block costs the driver tens of milliseconds on its way through the stages, whatever is in it (docs/scale.md). So,
  in a rehearsal without decoding, where frames take no room, units share blocks, a quarter of `in_flight_units` each.
  Which units share one follows from the plan, and to Ray they are bytes in one row (`outcome.packed`), which it
  neither cuts nor joins. Everywhere else a unit has its own block (`stages.group_units` says why).
- The engine stage is an actor pool whose actors are called from several threads, a block a call, with about
  `in_flight_units` units in all; the engine inside batches across calls (`engine_loop`). Ray Data's asynchronous UDFs
  were the other choice: their concurrency is fixed by an environment variable, their outputs are put back in order,
  and a full output queue blocks the event loop for all.
- Decoded frames are bounded three times: units in flight to an actor, two unread blocks a decode task, and a cap on the
  object store computed from the planned frame sizes.
- Between encoders and language models only visual tokens travel: frames leave the object store when they are encoded.
- The sink is the driver: outcomes are rows of text and counts (a few kB), a driver reads hundreds of them a
  second, and one writer makes whole files, flushing at an interrupt and stopping at a full disk simple. Frames never
  reach it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources

from pipeline.config import RunConfig
from pipeline.run.engine_stage import EngineStage
from pipeline.run.outcome import UNIT, Facts, packed, unpacked
from pipeline.run.stages import (
    AnswerStage,
    Decode,
    DecodeStage,
    EncodeStage,
    group_units,
    is_blank,
)

LARGEST_BLOCK_UNITS = 64
DECODE_CALLS = 1024
FRAME_PX = ("frame_height_px", "frame_width_px")
SMALLEST_STORE_BYTES = 128 * 1024**2
#: A visual token of 8,192 dimensions in bfloat16 (or of 4,096 in float32), for a bound that needs no model.
LARGEST_TOKEN_BYTES = 16 * 1024


def block_sizes(units: int, workers: int) -> list[int]:
    """Rows of each input block: a quarter of a fair share of what is left, at most `LARGEST_BLOCK_UNITS`."""
    sizes = []
    while units > 0:
        size = min(LARGEST_BLOCK_UNITS, max(1, units // (4 * max(1, workers))))
        sizes.append(size)
        units -= size
    return sizes


class InputBlocks(Sequence[pa.Table]):
    """Pending units (columns of `UNIT`) cut into input blocks, each packed when it is asked for.

    All of them at once would take more memory than the plan does.
    """

    def __init__(self, units: pa.Table, workers: int) -> None:
        self._units = units
        self._ends = list(accumulate(block_sizes(units.num_rows, workers)))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        start = self._ends[index - 1] if index else 0
        return packed(self._units.slice(start, self._ends[index] - start))


def calls(config: RunConfig) -> int:
    """Blocks on their way to an actor at a time, so that these hold about `in_flight_units` units."""
    return min(config.run.in_flight_units, math.ceil(config.run.in_flight_units / group_units(config)) + 1)


def largest_bytes(units: pa.Table) -> int:
    """Of the frames of one unit, as planned; 0 where planning failed."""
    columns = [pc.fill_null(units[name], 0).cast(pa.int64()) for name in ("frames", *FRAME_PX)]
    return int(pc.max(pc.multiply(3, pc.multiply(columns[0], pc.multiply(columns[1], columns[2])))).as_py() or 0)


def store_bytes(units: pa.Table, config: RunConfig, decoders: int) -> int:
    """Object store the run may fill: frames in flight to actors and in the hands of decoders, with room to pipeline."""
    if is_blank(config):
        return SMALLEST_STORE_BYTES
    largest = largest_bytes(units)
    if config.run.topology == "split":
        largest = max(largest, LARGEST_TOKEN_BYTES * int(pc.max(units["merged_tokens"]).as_py() or 0))
    in_flight = (config.run.model_actors * config.run.in_flight_units + 2 * decoders) * largest
    return max(SMALLEST_STORE_BYTES, 4 * in_flight)


def gpus_per_actor(asked: float | str, cluster_gpus: float) -> float:
    """`run.gpus_per_actor`, or that of `run.encoders`, with "auto" resolved."""
    if asked == "auto":
        return 1.0 if cluster_gpus else 0.0
    return float(asked)


def build(units: pa.Table, config: RunConfig, facts: Facts, board: Any, decode: Decode | None = None) -> Dataset:
    """The pipeline for `units` (`[UNIT]`); lazy, nothing runs yet. `decode` replaces the decoder in tests."""
    resources = ray.cluster_resources()
    decoders = max(1, int(resources.get("CPU", 1) // config.run.decode_cpus))
    quiet()
    context = DataContext.get_current()
    # Every row its own block, that is every group of units: it can leave as soon as it is ready, and budgets see its
    # real size.
    context.target_max_block_size = 1
    context.execution_options.resource_limits = ExecutionResources(
        object_store_memory=store_bytes(units, config, decoders)
    )
    # Not `from_arrow`: that runs a task for every block to look at it, minutes for a million units.
    dataset = ray.data.from_blocks(InputBlocks(units.select(UNIT.names), decoders)).map_batches(
        DecodeStage(config, facts.run_id, board, decode).__call__,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=config.run.decode_cpus,
        # A fresh process now and then bounds what this one leaks; seldom, since native decoders live in processes of
        # their own (`pipeline.decode`), and a start costs seconds of imports. A stage with its own remote arguments
        # is also one that Ray Data does not fuse into the engine's actors.
        max_calls=DECODE_CALLS,
    )
    run = config.run
    stages: list[tuple[type[EngineStage], int, float, float | str]] = []
    if run.topology == "split":
        stages.append((EncodeStage, run.encoder_actors, run.encoders.cpus_per_actor, run.encoders.gpus_per_actor))
    stages.append((AnswerStage, run.engines, run.cpus_per_actor, run.gpus_per_actor))
    for stage, actors, cpus, gpus in stages:
        dataset = dataset.map_batches(
            stage,
            fn_constructor_args=(config, facts, board),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=cpus,
            num_gpus=gpus_per_actor(gpus, resources.get("GPU", 0)),
            compute=_pool(actors, calls(config)),
        )
    return dataset


def _pool(actors: int, at_once: int) -> ActorPoolStrategy:
    return ActorPoolStrategy(
        size=actors,
        max_concurrent_calls_per_actor=at_once,
        max_tasks_in_flight_per_actor=at_once + max(1, at_once // 4),
        enable_true_multi_threading=True,
    )


def stream(dataset: Dataset) -> Generator[pa.Table, None, None]:
    """Outcomes as they come, `[OUTCOME]`."""
    # Not `iter_batches`: every few seconds that sends Ray's statistics actor what is known of all blocks so far, more
    # and more of it, until a driver does nothing else.
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            yield unpacked(ray.get(block.ref))


def quiet() -> None:
    """Turn off Ray Data's own bars and messages: the job reports progress itself."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
