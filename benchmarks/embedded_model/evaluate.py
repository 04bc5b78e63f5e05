"""Held-out figures of a trained part: caption preference, object naming, and the same at a quarter of the tokens.

    python -m benchmarks.embedded_model.evaluate --features DIR --stamps DIR --emoji DIR --trained FILE --out results.json

Two held-out sets, 8 frames a clip: scenes never composed in training from cut-outs seen in training, and scenes
of cut-outs never seen. Nothing is tuned on either: run it once per training run.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.embedded_model.data import FeatureBank, Prompter, pool
from benchmarks.embedded_model.model import Batch, CaptionModel, pad_rows
from benchmarks.scenes.compose import Scene
from benchmarks.scenes.stamps import find_cutouts
from luvc.embedded.assembly import TRAINED_PATH, open_gguf
from luvc.embedded.tokenizer import write_tokenizer

CAPTION_QUESTION = "Describe this video."
OBJECT_QUESTION = "What is the main object?"
MOTION_QUESTION = "Which way does it move?"
PLACE_QUESTION = "What is in the background?"
WINDOWS = {"all_tokens": (1, 1), "quarter_of_tokens": (2, 2)}


def shuffled_partner(scenes: Sequence[Scene], index: int) -> int:
    """The next scene with another main object: its caption is the wrong one."""
    for offset in range(1, len(scenes)):
        other = (index + offset) % len(scenes)
        if scenes[other].main.cutout.name != scenes[index].main.cutout.name:
            return other
    raise ValueError("every scene shows the same object")


@torch.no_grad()
def caption_losses(
    model: CaptionModel, prompter: Prompter, units: torch.Tensor, captions: Sequence[str], per_frame: int
) -> list[float]:
    """Mean negative log-likelihood per token of each caption, given one clip's units `[frames, tokens, 1536]`."""
    prompt = prompter.ids(CAPTION_QUESTION, len(units), per_frame)
    rows = [(prompt, list(prompter.encode(caption))) for caption in captions]
    flat = units.reshape(1, -1, units.shape[-1]).expand(len(rows), -1, -1)
    losses = model.token_losses(pad_rows(rows, flat))
    return [float(row[row > 0].mean()) for row in losses]


def ask(model: CaptionModel, prompter: Prompter, tokenizer, units: torch.Tensor, question: str, per_frame: int) -> str:
    """The greedy answer to one question about one clip."""
    ids = torch.tensor([prompter.ids(question, len(units), per_frame)])
    batch = Batch(ids, ids, units.reshape(1, -1, units.shape[-1]))
    return tokenizer.decode(model.generate(batch, 24)[0]).strip()


def names(answer: str, name: str) -> bool:
    """Whether an answer names the object: its words appear, as words."""
    words = "".join(char if char.isalnum() else " " for char in answer.lower()).split()
    wanted = name.split()
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))


def evaluate_set(
    model: CaptionModel, prompter: Prompter, tokenizer, bank: FeatureBank, window: tuple[int, int], log
) -> dict:
    """All figures of one set at one pooling."""
    per_frame = 64 // (window[0] * window[1])
    tallies: dict[str, list[bool]] = {
        key: [] for key in ("preferred", "object_in_caption", "object_answer", "motion_answer", "place_answer")
    }
    samples = []
    for index in range(bank.count):
        scene = bank.scenes[index]
        units = pool(bank.clip(index, range(bank.entry.frames)), window)
        wrong = bank.scenes[shuffled_partner(bank.scenes, index)].caption(True)
        right_loss, wrong_loss = caption_losses(model, prompter, units, [scene.caption(True), wrong], per_frame)
        said = {
            q: ask(model, prompter, tokenizer, units, q, per_frame)
            for q in (CAPTION_QUESTION, OBJECT_QUESTION, MOTION_QUESTION, PLACE_QUESTION)
        }
        exact, name = scene.answers(True), scene.main.cutout.name
        tallies["preferred"].append(right_loss < wrong_loss)
        tallies["object_in_caption"].append(names(said[CAPTION_QUESTION].split(" near ")[0], name))
        tallies["object_answer"].append(names(said[OBJECT_QUESTION], name))
        tallies["motion_answer"].append(said[MOTION_QUESTION] == exact[MOTION_QUESTION])
        tallies["place_answer"].append(said[PLACE_QUESTION] == exact[PLACE_QUESTION])
        if index < 12:
            samples.append({"exact": scene.caption(True), "model": said[CAPTION_QUESTION]})
        if index % 20 == 19:
            log(
                f"{bank.entry.name} {per_frame} tokens/frame {index + 1}: "
                + ", ".join(f"{k} {np.mean(v):.2f}" for k, v in tallies.items())
            )
    return {
        "clips": bank.count,
        "tokens_per_frame": per_frame,
        **{key: round(float(np.mean(hits)), 3) for key, hits in tallies.items()},
        "samples": samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--trained", type=Path, default=TRAINED_PATH)
    parser.add_argument("--sets", nargs="+", default=["held_out_scenes", "held_out_cutouts"])
    parser.add_argument("--clips", type=int, help="only the first so many clips of each set")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    from transformers import AutoTokenizer

    torch.set_num_threads(args.threads)
    trained = load_file(args.trained)
    rank = next((value.shape[0] for name, value in trained.items() if name.endswith(".A")), 0)
    model = CaptionModel(rank)
    model.restore(trained)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(open_gguf(), Path(folder), 8192)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    prompter, cutouts, started = Prompter(tokenizer), find_cutouts(args.stamps, args.emoji), time.time()
    results: dict = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()} CPU, {args.threads} thread, bfloat16",
        "frames": 8,
        "sets": {},
    }
    for name in args.sets:
        bank = FeatureBank(name, args.features, cutouts)
        bank.count = min(bank.count, args.clips or bank.count)
        results["sets"][name] = {
            label: evaluate_set(
                model,
                prompter,
                tokenizer,
                bank,
                window,
                lambda line: print(f"{time.time() - started:.0f} s {line}", flush=True),
            )
            for label, window in WINDOWS.items()
        }
    text = json.dumps(results, indent=2, ensure_ascii=False)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
