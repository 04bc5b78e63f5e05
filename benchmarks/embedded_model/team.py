"""Several processes that train one model: each draws its own batches, gradients are averaged. `torchrun` starts them.

    torchrun --standalone --nproc-per-node 2 -m -- benchmarks.embedded_model.train ...

Steps are those of one process with all their batches. `--` keeps torchrun from taking options for its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class Team:
    """One of `size` processes; the first one leads: it writes files, and its clock counts."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Team:
        """The team that torchrun made, or a team of one."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """What the leader writes in here, the others find."""
        if self.size > 1 and not self.leads:
            distributed.barrier()
        yield
        if self.size > 1 and self.leads:
            distributed.barrier()

    def agree(self, value: float) -> float:
        """The leader's value."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Means of all gradients; a parameter that a process had no use for counts as zero there."""
        if self.size == 1:
            return
        wanted = list(parameters)
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in wanted]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(together)
        for value, mean in zip(wanted, (together / self.size).split([value.numel() for value in wanted]), strict=True):
            value.grad = mean.view_as(value)

    def leave(self) -> None:
        """After the last step."""
        if self.size > 1:
            distributed.destroy_process_group()


ALONE = Team()
