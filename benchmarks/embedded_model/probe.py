"""What the frozen tower's units know before anything is trained for it: ridge regressions on stored features.

    python -m benchmarks.embedded_model.probe --features DIR [--scenes 3000]

Four fifths of the stills of `exact_stills` fit, the others test. Place from every unit; word and colour from the units
that show a thing or a sign. Prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.embedded_model.data import pool
from benchmarks.embedded_model.units import TINT_WORDS, UNCLEAR, WORDS, is_backdrop, places, pooled
from benchmarks.exact.words import all_names

RIDGE = 300.0


def fit(units: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Ridge weights `[dim + 1, outputs]` from `[n, dim]` to `[n, outputs]`."""
    rows = functional.pad(units, (0, 1), value=1.0)
    gram = rows.T @ rows + RIDGE * torch.eye(rows.shape[1])
    return torch.linalg.solve(gram, rows.T @ wanted)


def told(units: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """What the weights make of `[n, dim]`."""
    return units @ weights[:-1] + weights[-1]


def place_r2(train: torch.Tensor, test: torch.Tensor, window: tuple[int, int]) -> float:
    """Share of the places' variance that is explained, of units `[scenes, 64, dim]` averaged by `window`."""
    fitted, tested = pool(train, window), pool(test, window)
    at = places(window)
    weights = fit(fitted.flatten(0, 1), at.repeat(len(train), 1))
    error = told(tested.flatten(0, 1), weights) - at.repeat(len(test), 1)
    return float(1 - error.square().mean() / at.var(0, correction=0).mean())


def accuracy(train: torch.Tensor, test: torch.Tensor, rows: tuple[torch.Tensor, torch.Tensor], count: int) -> float:
    """How often the largest of `count` outputs is the right one."""
    weights = fit(train, functional.one_hot(rows[0], count).float())
    return float((told(test, weights).argmax(-1) == rows[1]).float().mean())


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    count = min(args.scenes, int((args.features / "exact_stills.done").read_text()))
    stored = np.load(args.features / "exact_stills.npy", mmap_mode="r")[:count, 0]
    units = torch.from_numpy(np.array(stored)).float()
    units = (units - units.mean((0, 1))) / (units.std((0, 1)) + 1e-6)
    found = torch.from_numpy(np.load(args.features / "exact_stills.labels.npy", mmap_mode="r")[:count, 0].copy()).long()
    cut = count * 4 // 5
    print(f"{cut} stills to fit, {count - cut} to test")
    for window in ((1, 1), (2, 2)):
        print(f"place, units averaged {window[0]} x {window[1]}: R2 {place_r2(units[:cut], units[cut:], window):.3f}")
    names = torch.tensor([word in set(all_names()) for word in WORDS])
    for window in ((1, 1), (2, 2)):
        seen, labels = pool(units, window), pooled(found, window)
        words, tints = labels[..., 0], labels[..., 1]
        thing = (words >= 0) & ~is_backdrop(words)
        name = thing & names[words.clamp(min=0)]
        for what, wanted, rows, size in (
            ("name", name, words, len(WORDS)),
            ("sign", thing & ~name, words, len(WORDS)),
            ("colour", name & (tints != UNCLEAR), tints, len(TINT_WORDS)),
        ):
            parts = (wanted[:cut], wanted[cut:])
            right = accuracy(
                seen[:cut][parts[0]], seen[cut:][parts[1]], (rows[:cut][parts[0]], rows[cut:][parts[1]]), size
            )
            kinds = len(rows[wanted].unique())
            print(f"{what}, averaged {window}: {right:.1%} of {int(parts[1].sum())} units, {kinds} kinds, "
                  f"{int(parts[0].sum())} units to fit")  # fmt: skip


if __name__ == "__main__":
    main()
