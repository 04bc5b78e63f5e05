"""The mean of trained parts, number by number ("model soups", Wortsman et al., arXiv 2203.05482).

    python -m benchmarks.embedded_model.soup RUN8/trained.safetensors RUN9/trained.safetensors --out PART

For parts of which one went on from the other, or both from a third: of the same rank, and near enough in weights. Costs
nothing when the model runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def mean(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Their mean, taken in float32 and kept in the type of the first.

    Raises:
        ValueError: they do not have the same tensors.
    """
    shapes = [{name: tuple(value.shape) for name, value in part.items()} for part in parts]
    for other in shapes[1:]:
        if other != shapes[0]:
            differing = sorted(name for name in {*shapes[0], *other} if shapes[0].get(name) != other.get(name))
            raise ValueError(f"parts differ in {differing[0]} and {len(differing) - 1} others: of one rank and tower?")
    return {
        name: torch.stack([part[name].float() for part in parts]).mean(0).to(value.dtype)
        for name, value in parts[0].items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", type=Path, help="trained.safetensors of several runs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    save_file(mean([load_file(path) for path in args.parts]), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
