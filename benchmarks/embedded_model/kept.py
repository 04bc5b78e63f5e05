"""Which visual tokens a score ranks first: those of things, or bare backdrop?

    python -m benchmarks.embedded_model.kept --material DIR --features DIR --tower FILE [--trained FILE] [--clips 24]

Clips of training scenes go through the language model uncompressed; before some layers their visual tokens are scored
by each rule, and the best quarter and half are looked at. What a unit shows is known from the composition
(`units.labels`). Prints the share of things' tokens that would stay; a choice by chance keeps a quarter and a half.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.embedded_model.data import FeatureBank, Prompter
from benchmarks.embedded_model.features import check_tower
from benchmarks.embedded_model.model import IGNORE, IMAGE_ID, Batch, CaptionModel
from benchmarks.embedded_model.run_files import load_tokenizer
from benchmarks.embedded_model.units import is_backdrop
from luvc.compression import PRESETS, Prune
from luvc.embedded.assembly import TRAINED_PATH
from luvc.methods.candidates import Candidates
from luvc.methods.spu import spectral_scores

_PAPER = PRESETS["paper"].prune or Prune()
RULES = {
    "as in `paper`": _PAPER,
    "as in `paper`, inverted": Prune(axis="channel", cutoff=0.25, residual=False, sign="low"),
    "whole norm": Prune(axis="channel", cutoff=1.0, residual=False),
    "channels, what is taken away": Prune(axis="channel", cutoff=0.25),
    "tokens, what passes": Prune(cutoff=0.25, residual=False),
    "tokens, what is taken away": Prune(cutoff=0.25),
    "the same, cut-off 0.1": Prune(cutoff=0.1),
    "the same, cut-off 0.02: the default": Prune(),
    "the same, FIR 5": Prune(filter="fir"),
    "the same, FIR 33": Prune(filter="fir", taps=33),
}
LAYERS, SHARES = (0, 2, 5, 10, 15, 20, 25), (0.25, 0.5)
#: A clip with fewer tokens of things says little.
LEAST = 8

#: (rule, share, layer) -> share of things' tokens kept, clip by clip.
Kept = dict[tuple[str, float, int], list[float]]


@torch.no_grad()
def measure(
    model: CaptionModel, prompter: Prompter, bank: FeatureBank, clips: int, layers: Sequence[int] = LAYERS
) -> tuple[Kept, float]:
    """What stays, and the share of tokens that show things, over so many clips of a set, evenly spread."""
    kept: Kept = {}
    shares = []
    frames = list(range(bank.entry.frames))
    for index in np.linspace(0, bank.count - 1, min(clips, bank.count)).astype(int).tolist():
        units = bank.clip(index, frames)
        words = bank.labels[index, frames][..., 0].flatten()
        thing = (words >= 0) & ~is_backdrop(words)
        if int(thing.sum()) < LEAST:
            continue
        shares.append(float(thing.float().mean()))
        ids = torch.tensor([prompter.visual(len(units), units.shape[1])])
        batch = Batch(ids, torch.full_like(ids, IGNORE), units.flatten(0, 1))
        states = model.lm.model(inputs_embeds=model.embed(batch), output_hidden_states=True).hidden_states
        for layer in layers:
            hidden = states[layer][0][ids[0] == IMAGE_ID]
            count = len(hidden)
            seen = Candidates(hidden, torch.arange(count), (count,), (count,), (units.shape[1],))
            for name, rule in RULES.items():
                order = spectral_scores(seen, rule)[0].argsort(descending=True)
                for share in SHARES:
                    stay = thing[order[: round(share * count)]].sum() / thing.sum()
                    kept.setdefault((name, share, layer), []).append(float(stay))
    return kept, float(np.mean(shares)) if shares else 0.0


def table(kept: Kept, share: float) -> str:
    """Rules by layers, for one share."""
    layers = sorted({layer for _, _, layer in kept})
    head = [f"{share:.0%} stay; before layer", *map(str, layers)]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for rule in dict.fromkeys(name for name, _, _ in kept):
        cells = [f"{np.mean(kept[rule, share, layer]):.0%}" for layer in layers]
        lines.append("| " + " | ".join([rule, *cells]) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=Path, required=True, help="folder made by benchmarks.exact.material")
    parser.add_argument("--features", type=Path, required=True, help="made by benchmarks.embedded_model.features")
    parser.add_argument("--tower", type=Path, help="that the features were made with")
    parser.add_argument("--trained", type=Path, default=TRAINED_PATH, help="the packaged part unless given")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--set", default="exact_train")
    parser.add_argument("--clips", type=int, default=24)
    args = parser.parse_args(argv)
    check_tower(args.features, args.tower)
    model = CaptionModel(args.rank, torch.float32)
    model.restore(load_file(args.trained))
    with tempfile.TemporaryDirectory() as folder:
        prompter = Prompter(load_tokenizer(Path(folder)))
    kept, things = measure(model, prompter, FeatureBank(args.set, args.features, args.material), args.clips)
    clips = max((len(values) for values in kept.values()), default=0)
    print(f"{clips} clips; {things:.0%} of their tokens show things\n")
    print("\n\n".join(table(kept, share) for share in SHARES))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
