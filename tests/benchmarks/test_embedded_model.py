"""The training code: what it trains on is what the checkpoint is asked, and what it trains is what is loaded."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import luvc.embedded
from benchmarks.embedded_model import data, features, units
from benchmarks.embedded_model.evaluate import names, shuffled_partner
from benchmarks.embedded_model.model import EOS_ID, IGNORE, IMAGE_ID, Batch, pad_rows
from benchmarks.embedded_model.sets import PHOTOGRAPH, SETS, background_word
from benchmarks.exact.scene import Actor, Camera, ExactScene, Picture, Sign
from benchmarks.exact.words import sign_texts
from benchmarks.scenes.vocabulary import read_table
from tests.benchmarks.weights import needs_weights


@pytest.fixture
def bank(tmp_path, monkeypatch) -> data.FeatureBank:
    """Six scenes of four frames with made-up features."""
    cutouts = {f"noto-{number}": (entry.name, "train") for number, entry in enumerate(read_table()[:8])}
    (tmp_path / "index.json").write_text(json.dumps({"cutouts": cutouts}))
    entry = dataclasses.replace(SETS["train_clips"], count=6)
    monkeypatch.setitem(SETS, entry.name, entry)
    rng = np.random.default_rng(0)
    np.save(tmp_path / f"{entry.name}.npy", rng.standard_normal((6, 4, 64, 1536)).astype(np.float16))
    found = np.full((6, 4, 64, 2), units.UNCLEAR, np.int16)
    found[..., 0] = rng.integers(units.UNCLEAR, len(units.WORDS), (6, 4, 64))
    np.save(tmp_path / f"{entry.name}.labels.npy", found)
    (tmp_path / f"{entry.name}.done").write_text("6")
    return data.FeatureBank(entry.name, tmp_path, tmp_path)


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


def test_labels_follow_the_coverage(bank):
    scene = next(scene for scene in bank.scenes if scene.other is None)
    coverage = np.zeros((1, 2, 8, 8), np.float32)
    coverage[0, 0, 2:4, 2:4], coverage[0, 0, 5, 5] = 0.9, 0.2
    found = units.labels(scene, coverage).reshape(8, 8, 2)
    words = np.vectorize(lambda row: units.WORDS[row] if row >= 0 else "?")(found[..., 0])
    assert (words[2:4, 2:4] == scene.main.cutout.name).all()
    assert words[5, 5] == "?", "a fifth covered: not said"
    assert (words == background_word(scene)).sum() == 64 - 5
    assert (found[..., 1] == units.UNCLEAR).all(), "nothing is dyed"


def test_something_small_is_shown_by_the_unit_it_covers_most(bank):
    scene = next(scene for scene in bank.scenes if scene.other is None)
    for most, shown in ((0.25, [[0, 1]]), (0.05, [])):
        coverage = np.zeros((1, 2, 8, 8), np.float32)
        coverage[0, 0, 0, 0], coverage[0, 0, 0, 1] = most / 2, most
        words = units.labels(scene, coverage).reshape(8, 8, 2)[..., 0]
        assert np.argwhere(words == units.WORDS.index(scene.main.cutout.name)).tolist() == shown


def test_labels_of_dyed_things_and_signs():
    shown = (Picture("dog", "a"), Picture("cat", "b"), Sign(sign_texts(held_out=False)[0], "font", True))
    actors = [
        Actor(what, (0, 0), (0, 0), 0.3, tint=tint) for what, tint in zip(shown, ("red", None, None), strict=True)
    ]
    scene = ExactScene(0, "pair", 1.0, Camera("sea", (0, 0, 1), (0, 0), False, (1, 1), 1, 0, 0), (), tuple(actors))
    coverage = np.zeros((2, 4, 8, 8), np.float32)
    coverage[0, 0, 0, 0], coverage[0, 1, 0, 0], coverage[1, 1, 3, 4], coverage[1, 2, 7, 7] = 0.5, 0.4, 1.0, 0.35
    found = units.labels(scene, coverage).reshape(2, 8, 8, 2)

    def said(frame, row, column):
        word, tint = found[frame, row, column]
        return units.WORDS[word], units.TINT_WORDS[tint] if tint >= 0 else None

    assert said(0, 0, 0) == ("dog", "red"), "what covers most"
    assert said(1, 3, 4) == ("cat", None)
    assert said(1, 7, 7) == (sign_texts(held_out=False)[0], None)
    assert said(0, 4, 4) == (PHOTOGRAPH, None)
    labels = torch.from_numpy(found.reshape(2, 64, 2)).long()
    assert torch.equal(units.pooled(labels, (1, 1)), labels)
    quarter = units.pooled(labels, (2, 2)).reshape(2, 4, 4, 2)
    assert units.WORDS[quarter[0, 0, 0, 0]] == PHOTOGRAPH, "three of four"
    labels[0, [0, 1, 8, 9], 0] = torch.tensor([3, 4, 5, 3])
    labels[0, [0, 1, 8, 9], 1] = torch.tensor([1, -1, -1, 1])
    assert units.pooled(labels, (2, 2))[0, 0].tolist() == [3, 1], "half is enough"
    labels[0, 9, 0] = 6
    assert units.pooled(labels, (2, 2))[0, 0, 0] == units.UNCLEAR
    assert not units.is_backdrop(quarter[1, 3, 3, 0]) or units.WORDS[quarter[1, 3, 3, 0]] == PHOTOGRAPH


@pytest.mark.parametrize("window", data.WINDOWS)
def test_places_are_the_centres_of_the_units(window):
    across, down = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy")
    centres = torch.stack([across, down], -1).reshape(1, 64, 2)
    assert torch.allclose(units.places(window), (data.pool(centres, window)[0] - 3.5) / 4)


def test_the_units_loss_is_least_on_its_target():
    generator = torch.Generator().manual_seed(0)
    targets = units.UnitTargets(torch.randn(512, 24, generator=generator), lambda text: [ord(c) for c in text])
    found = torch.tensor([[3, -1], [9, 2], [30, 0]])
    at = units.places((2, 2))[[0, 5, 15]]
    wanted = targets.of(found, at)
    loss, words_right, tints_right = targets.loss(wanted, found, at)
    assert (words_right, tints_right) == (1.0, 1.0)
    for other in (targets.of(found, at.flip(0)), targets.of(found.flip(0), at), wanted + 0.3):
        assert targets.loss(other, found, at)[0] > loss


def test_naming_needs_the_whole_word(bank):
    assert names("A polar bear.", "polar bear")
    assert names("A bear and a car.", "car")
    assert not names("A carrot.", "car")
    for index in range(len(bank.scenes)):
        partner = bank.scenes[shuffled_partner(bank.scenes, index)]
        assert partner.main.cutout.name != bank.scenes[index].main.cutout.name


@needs_weights
def test_the_assembled_checkpoint_is_the_model_that_was_trained(folder, prompter, trained):
    """LoRA merged into the weights, projector and marker rows in place: the same loss on the same answer."""
    from transformers import AutoModelForImageTextToText

    model, part = trained
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
    for name, value in part.items():
        own = exported[name][tuple(slice(size) for size in value.shape)]
        assert torch.equal(own, value), "what a lower rank learned is kept"
    assert json.loads((folder / "config.json").read_text()) == json.loads(luvc.embedded.config_path().read_text())
