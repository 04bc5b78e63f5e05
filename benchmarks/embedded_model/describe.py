"""What the assembled model says about real files, by transformers alone: no engine, no compression.

python -m benchmarks.embedded_model.describe examples/videos/*.mp4
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import luvc.embedded
from benchmarks.embedded_model.data import Prompter
from luvc.embedded.assembly import PREPROCESSING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUESTIONS = ("Describe this video.", "What is the main object?")


def read_frames(path: Path, count: int) -> np.ndarray:
    """The middles of `count` equal parts of a clip: `[count, 224, 224, 3]` uint8, squashed to the square."""
    import av

    side = PREPROCESSING["size"]["height"]
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    picked = [decoded[int((index + 0.5) * len(decoded) / count)] for index in range(count)]
    return np.stack([frame.reformat(side, side, "rgb24", interpolation="BICUBIC").to_ndarray() for frame in picked])


@torch.no_grad()
def answer(
    model: PreTrainedModel, prompter: Prompter, frames: np.ndarray, question: str, max_new_tokens: int = 32
) -> str:
    """The greedy answer of the stock model to one question about frames `[frames, 224, 224, 3]` uint8."""
    mean, std = (np.array(PREPROCESSING[key]) for key in ("image_mean", "image_std"))
    pixels = torch.from_numpy((frames / 255 - mean) / std).permute(0, 3, 1, 2).float()
    ids = torch.tensor([prompter.ids(question, len(frames), model.config.image_seq_length)])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=max_new_tokens
    )
    return prompter.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def main() -> None:
    """Answer the two questions for each file, one JSON object a line."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = luvc.embedded.assemble()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    prompter = Prompter(AutoTokenizer.from_pretrained(folder))
    for path in args.files:
        frames = read_frames(path, args.frames)
        answers = {question: answer(model, prompter, frames, question) for question in QUESTIONS}
        print(json.dumps({"file": path.name, **answers}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
