"""Held-out figures of a trained part: caption preference, object naming, and the same at a quarter of the tokens.

    python -m benchmarks.embedded_model.evaluate --features DIR --material DIR --trained FILE --out FILE

Two held-out sets, 8 frames a clip: scenes never composed in training from cut-outs seen in training, and scenes
of cut-outs never seen. Not for tuning: run it once per training run.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.embedded_model.data import FeatureBank, Prompter, pool
from benchmarks.embedded_model.model import Batch, CaptionModel, frozen_dtype, pad_rows
from benchmarks.scenes.compose import Scene
from luvc.embedded.assembly import TRAINED_PATH, open_gguf
from luvc.embedded.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedTokenizerBase

CLIPS_AT_ONCE = 5
SAMPLES = 12
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
def answer_losses(
    model: CaptionModel, prompter: Prompter, prompt: list[int], answers: Sequence[str], cache: Cache
) -> list[float]:
    """Mean loss per token of one answer for each clip in the cache."""
    losses = model.token_losses(pad_rows([(prompt, list(prompter.encode(answer))) for answer in answers], None), cache)
    return [float(row[row > 0].mean()) for row in losses]


def names(answer: str, name: str) -> bool:
    """Whether an answer names the object: its words appear, as words."""
    words = "".join(char if char.isalnum() else " " for char in answer.lower()).split()
    wanted = name.split()
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))


def evaluate_set(
    model: CaptionModel,
    prompter: Prompter,
    tokenizer: PreTrainedTokenizerBase,
    bank: FeatureBank,
    window: tuple[int, int],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """All figures of one set at one pooling. A few clips are read together; each question is asked of all of them."""
    frames, per_frame = bank.entry.frames, 64 // (window[0] * window[1])
    hits: dict[str, list[bool]] = defaultdict(list)
    samples = []
    for first in range(0, bank.count, CLIPS_AT_ONCE):
        group = range(first, min(first + CLIPS_AT_ONCE, bank.count))
        scenes = [bank.scenes[index] for index in group]
        wrong = [bank.scenes[shuffled_partner(bank.scenes[: bank.count], index)] for index in group]
        ids = torch.tensor([prompter.visual(frames, per_frame)] * len(group))
        units = torch.stack([pool(bank.clip(index, range(frames)), window).reshape(-1, 1536) for index in group])
        cache = model.read(Batch(ids, ids, units))

        prompt = prompter.question(CAPTION_QUESTION)
        right_loss, wrong_loss = (
            answer_losses(model, prompter, prompt, [scene.caption(True) for scene in shown], cache)
            for shown in (scenes, wrong)
        )
        said: dict[str, list[str]] = {}
        for question in (CAPTION_QUESTION, OBJECT_QUESTION, MOTION_QUESTION, PLACE_QUESTION):
            asked = torch.tensor([prompter.question(question)] * len(group))
            said[question] = [tokenizer.decode(answer).strip() for answer in model.generate(asked, 24, cache)]
        for row, scene in enumerate(scenes):
            name, exact = scene.main.cutout.name, scene.answers(True)
            hits["caption_preferred"].append(right_loss[row] < wrong_loss[row])
            hits["object_named"].append(names(said[OBJECT_QUESTION][row], name))
            hits["object_in_caption"].append(names(said[CAPTION_QUESTION][row].split(" near ")[0], name))
            hits["motion_right"].append(said[MOTION_QUESTION][row] == exact[MOTION_QUESTION])
            hits["background_right"].append(said[PLACE_QUESTION][row] == exact[PLACE_QUESTION])
            samples.append({"exact": scene.caption(True), "model": said[CAPTION_QUESTION][row]})
        figures = {key: round(float(np.mean(values)), 3) for key, values in hits.items()}
        log(f"{bank.entry.name} {per_frame} tokens/frame, {len(samples)} clips: {figures}")
    return {"clips": bank.count, "tokens_per_frame": per_frame, **figures, "samples": samples[:SAMPLES]}


def table(results: dict[str, Any]) -> str:
    """The figures as a Markdown table, for the README."""
    keys = ("caption_preferred", "object_named", "object_in_caption", "motion_right", "background_right")
    lines = ["| set | tokens a frame | clips | " + " | ".join(key.replace("_", " ") for key in keys) + " |"]
    lines.append("|---" * (3 + len(keys)) + "|")
    for name, poolings in results["sets"].items():
        for row in poolings.values():
            cells = [name.replace("_", " "), str(row["tokens_per_frame"]), str(row["clips"])]
            lines.append("| " + " | ".join(cells + [f"{row[key]:.0%}" for key in keys]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Evaluate one trained part and print, or write, `results.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--material", type=Path, required=True, help="folder made by benchmarks.exact.material")
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
    model = CaptionModel(rank, frozen_dtype("cpu"))
    model.restore(trained)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(open_gguf(), Path(folder), 8192)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    prompter, started = Prompter(tokenizer), time.time()
    results: dict = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()} CPU, {args.threads} thread, bfloat16",
        "frames": 8,
        "sets": {},
    }
    for name in args.sets:
        bank = FeatureBank(name, args.features, args.material)
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
    print(table(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
