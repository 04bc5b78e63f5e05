"""Decode steps on fixed buffers, captured as CUDA graphs.

A decode step launches hundreds of small kernels; captured once for every power-of-two number of slots, it is one
launch. Everything that changes from step to step lies in buffers: last tokens, positions, and how much of each slot is
alive in each layer. The same step runs uncaptured on a CPU, where it is tested against the ordinary one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luvc.decoder import Decoder
from luvc.kv_cache import KVCache

log = logging.getLogger(__name__)


@dataclass
class _Step:
    ids: Tensor
    positions: Tensor
    lengths: Tensor
    logits: Tensor
    graph: Any


class DecodeGraphs:
    """Runs the decode steps of one engine. A capture that fails is logged once, and steps then run uncaptured.

    Args:
        decoder, cache: of the engine; the cache must be static.
        capture: record CUDA graphs.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, capture: bool) -> None:
        self.decoder, self.cache, self.capture = decoder, cache, capture
        self.captured = 0
        self._steps: dict[int, _Step] = {}
        self._generation = -1
        self._pool: Any = None

    def bucket(self) -> int:
        """Slots of the next step: the active ones, rounded up to a power of two."""
        return self.cache.slots_for(self.cache.active)

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """One token for every active sequence.

        Args:
            ids: `[bucket]` last tokens, anything behind the active ones.
            positions: `[..., bucket, 1]`.

        Returns:
            Logits `[active, vocabulary]`, valid until the next step.
        """
        if self._generation != self.cache.generation:
            self._steps.clear()  # their memory has moved
            self._generation = self.cache.generation
        bucket = len(ids)
        lengths = self.cache.fixed_lengths(bucket)
        if not self.capture:
            logits = self._compute(ids, positions, lengths)
        else:
            if bucket not in self._steps:
                self._record(ids, positions, lengths)
            if bucket in self._steps:
                step = self._steps[bucket]
                step.ids.copy_(ids)
                step.positions.copy_(positions)
                step.lengths.copy_(lengths)
                step.graph.replay()
                logits = step.logits
            else:
                logits = self._compute(ids, positions, lengths)
        self.cache.advance()
        return logits[: self.cache.active]

    def _compute(self, ids: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        return self.decoder.decode_fixed(ids, positions, lengths, self.cache)

    def _record(self, ids: Tensor, positions: Tensor, lengths: Tensor) -> None:
        """Capture the step of this size.

        The warm-up and the capture write this step's keys and values, which the replay writes again: no harm.
        """
        step = _Step(ids.clone(), positions.clone(), lengths.clone(), ids, None)
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._compute(step.ids, step.positions, step.lengths)
            torch.cuda.current_stream().wait_stream(stream)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            step.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(step.graph, pool=self._pool, capture_error_mode="thread_local"):
                step.logits = self._compute(step.ids, step.positions, step.lengths)
        except RuntimeError as error:
            log.warning("decode steps run uncaptured: %s", error)
            self.capture = False
            return
        self._steps[len(ids)] = step
        self.captured += 1
