"""Linear layers whose weights lie in memory as the CPU's matrix kernel wants them.

`torch.nn.Linear` has its weights reordered at every call; on a CPU with bfloat16 instructions that is a tenth of a
large product and more than half of a small one (benchmarks/notes.md). Prepared once, the same kernel gives the same
values. The operators are those that torch's own compiler emits, but are not public: they are tried first, and without
them nothing changes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn


class PreparedLinear(nn.Module):
    """`torch.nn.Linear` in bfloat16 on a CPU, for inference; its weights cannot be read or saved any more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        # Not a buffer: nothing may cast, move or save it.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return out


@torch.no_grad()
def prepare(model: nn.Module) -> int:
    """Replace the linear layers of a model that will only be used for inference here.

    Returns:
        How many were replaced: those in bfloat16 on a CPU whose kernel takes them, once.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # Exactly Linear: what others have made of it is theirs.
            if type(child) is not nn.Linear or child.weight.dtype != torch.bfloat16 or child.weight.is_cuda:
                continue
            if not works():
                return 0
            setattr(parent, name, PreparedLinear(child))
            replaced += 1
    return replaced


@cache
@torch.no_grad()
def works() -> bool:
    """Whether the operators exist and give the values of `torch.nn.Linear`."""
    try:
        if not torch.backends.mkldnn.is_available():
            return False
        linear = nn.Linear(96, 80, dtype=torch.bfloat16)
        prepared = PreparedLinear(linear)
        inputs = [torch.linspace(-1, 1, rows * 96).view(rows, 96).bfloat16() for rows in (1, 5, 40)]
        return all(torch.allclose(prepared(x), linear(x), atol=0.02, rtol=0.02) for x in inputs)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False
