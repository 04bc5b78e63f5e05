"""Does bfloat16 change answers? This engine and transformers in bfloat16, against transformers in float32.

    python -m benchmarks.precision --clips examples/videos

The embedded model (`luvc-demo`) on real clips, compression off, greedy. Rounding differs between any two programs in
bfloat16, so the question is whether this engine's answers stray further from float32 than transformers' own do.
Agreement is the share of tokens up to the first difference, over the longer of both answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import luvc
from luvc.checkpoints import resolve
from luvc.engine import Budgets
from luvc.preprocess import normalise, read_normalisation

PROMPTS = ("Describe this video.", "What is the main object?")
Ids = tuple[int, ...]


def agreement(one: Ids, other: Ids) -> float:
    """Share of tokens that two answers have in common from the start."""
    common = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    shorter, longer = sorted((len(one), len(other)))
    return (shorter if common is None else common) / longer if longer else 1.0


def ours(items: Sequence[luvc.Request], dtype: str, new_tokens: int) -> list[Ids]:
    """Answers of this engine, requests and prompts in order."""
    engine = luvc.load("luvc-demo", "off", dtype=dtype, device="cpu", budgets=Budgets(max_new_tokens=new_tokens))
    done = {completion.id: completion for completion in engine.generate(items)}
    return [answer.token_ids for item in items for answer in done[item.id].answers]


def transformers(items: Sequence[luvc.Request], dtype: torch.dtype, new_tokens: int) -> list[Ids]:
    """Answers of transformers' `generate`, one prompt at a time."""
    from transformers import AutoModelForImageTextToText

    folder = resolve("luvc-demo")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
    engine = luvc.load("luvc-demo", "off", dtype="float32", device="cpu")  # its prompts, as token ids
    norm = read_normalisation(folder)
    image, eos = engine.runtime.image_token_id, set(engine.eos_ids)  # type: ignore[attr-defined]
    answers = []
    for item in items:
        pixels = normalise(torch.from_numpy(item.video), (224, 224), norm, dtype)
        clip = engine._plan_clip(item.id, item.media[0])
        for prompt in item.prompts:
            pieces = engine.runtime.layout(prompt, [clip]).pieces
            frame = [image] * (clip.schedule.grid.units // clip.schedule.grid.frames)
            ids = [token for piece in pieces[:-1] for token in (*piece, *frame)] + list(pieces[-1])
            with torch.inference_mode():
                out = model.generate(
                    input_ids=torch.tensor([ids]),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    pixel_values=pixels,
                    do_sample=False,
                    max_new_tokens=new_tokens,
                )
            answers.append(tuple(token for token in out[0, len(ids) :].tolist() if token not in eos))
    return answers


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("examples/videos"))
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    items = [luvc.Request(path.stem, PROMPTS, _frames(path, args.frames)) for path in sorted(args.clips.glob("*.mp4"))]
    exact = transformers(items, torch.float32, args.new_tokens)
    runs = {
        "transformers bfloat16": transformers(items, torch.bfloat16, args.new_tokens),
        "luvc bfloat16": ours(items, "bfloat16", args.new_tokens),
        "luvc float32": ours(items, "float32", args.new_tokens),
    }
    report = {
        name: {
            "same_answers": sum(a == b for a, b in zip(exact, got, strict=True)) / len(exact),
            "token_agreement": sum(agreement(a, b) for a, b in zip(exact, got, strict=True)) / len(exact),
        }
        for name, got in runs.items()
    }
    both = list(zip(runs["transformers bfloat16"], runs["luvc bfloat16"], strict=True))
    report["luvc bfloat16 against transformers bfloat16"] = {
        "same_answers": sum(a == b for a, b in both) / len(both),
        "token_agreement": sum(agreement(a, b) for a, b in both) / len(both),
    }
    print(f"{len(exact)} answers about {len(items)} clips, against transformers in float32")
    for name, row in report.items():
        print(f"{name}: {row['same_answers']:.0%} the same, {row['token_agreement']:.0%} of the tokens")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _frames(path: Path, count: int) -> object:
    import av
    import numpy as np
    from PIL import Image

    with av.open(str(path)) as file:
        every = [frame.to_image() for frame in file.decode(video=0)]
    chosen = [every[int(place)] for place in np.linspace(0, len(every) - 1, count)]
    return np.stack([np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in chosen])


if __name__ == "__main__":
    sys.exit(main())
