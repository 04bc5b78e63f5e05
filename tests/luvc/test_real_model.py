"""The engine on the embedded model and real clips: equal to transformers' `generate`, alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

import luvc
from luvc.checkpoints import resolve
from luvc.engine import Budgets
from luvc.preprocess import Normalisation, normalise

CLIPS = Path(__file__).parents[2] / "examples" / "videos"
PROMPTS = ["Describe this video.", "What is the main object?"]


def frames(path: Path, count: int) -> np.ndarray:
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    chosen = [decoded[int((index + 0.5) * len(decoded) / count)] for index in range(count)]
    return np.stack([frame.reformat(width=224, height=224, format="rgb24").to_ndarray() for frame in chosen])


@pytest.fixture(scope="module")
def requests() -> list[luvc.Request]:
    names = ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"]
    clips = [luvc.Request(name, PROMPTS, frames(CLIPS / name, 2 + index)) for index, name in enumerate(names)]
    return [*clips, luvc.Request("still", ["Describe the image."], frames(CLIPS / names[0], 1), image=True)]


def answers(engine, items) -> dict[str, list[tuple[int, ...]]]:
    done = {each.id: each for each in engine.generate(items)}
    assert all(each.error is None for each in done.values())
    return {key: [answer.token_ids for answer in each.answers] for key, each in done.items()}


def test_off_is_generate_token_for_token(requests):
    engine = luvc.load("luvc-demo", "off", dtype="float32", device="cpu", budgets=Budgets(max_new_tokens=16))
    got = answers(engine, requests)
    del engine
    folder = resolve("luvc-demo")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    frame = "<img>" + "<IMG_CONTEXT>" * 64 + "</img>"
    for item in requests:
        listing = "\n".join(f"Frame{index + 1}: {frame}" for index in range(len(item.video)))
        for prompt, ids in zip(item.prompts, got[item.id], strict=True):
            visual = frame if item.image else listing
            text = f"<|im_start|>user\n{visual}\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
            inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            pixels = normalise(torch.from_numpy(item.video), (224, 224), Normalisation(), torch.float32)
            with torch.inference_mode():
                out = model.generate(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    pixel_values=pixels,
                    do_sample=False,
                    max_new_tokens=16,
                )
            expected = out[0, inputs.shape[1] :].tolist()
            if tokenizer.eos_token_id in expected:
                expected = expected[: expected.index(tokenizer.eos_token_id)]
            assert list(ids) == expected, (item.id, prompt)


@pytest.mark.parametrize("compression", ["fast"])
def test_compressed_answers_do_not_depend_on_the_batch(requests, compression):
    engine = luvc.load("luvc-demo", compression, dtype="float32", device="cpu", budgets=Budgets(max_new_tokens=16))
    together = answers(engine, requests)
    for item in requests:
        assert answers(engine, [item])[item.id] == together[item.id]
    assert len({ids for each in together.values() for ids in each}) > 3, "the answers depend on the picture"
