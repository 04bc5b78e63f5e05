"""Rows keep readings and questions apart, and heads learn where to look."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch

from benchmarks.embedded_model import data, features, guide, packing, readings, things, units
from benchmarks.embedded_model.lessons import Lessons, imagine
from benchmarks.embedded_model.model import IGNORE, IMAGE_ID, CaptionModel, pad_rows
from benchmarks.embedded_model.sets import ASK_FACTS, PHOTOGRAPH, SETS
from benchmarks.exact.facts import Fact
from tests.benchmarks.vocabulary import TEXTS
from tests.benchmarks.weights import needs_weights


@pytest.fixture
def reading() -> readings.Reading:
    """Two frames of four units of 64: a red fox that goes right, a dog that comes second, a sign."""
    fox, dog = (units.WORDS.index(name) for name in ("fox", "dog"))
    sign, bare = units.WORDS.index(TEXTS[0]), units.WORDS.index(PHOTOGRAPH)
    numbers = np.array([0, 9, 9, 63, 3, 5, 20, 40])
    red = units.TINT_WORDS.index("red")
    shown = guide.Shown(
        torch.tensor([bare, fox, sign, bare, fox, fox, dog, -1]),
        torch.tensor([-1, red, -1, -1, red, red, -1, -1]),
        torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        torch.from_numpy(things.centres(numbers)),
        torch.tensor([0, 1, 1, 0, 1, 1, 1, 0]).bool(),
        torch.tensor([2.0, 1, 1, 2, 1, 1, 1, 1]),
    )
    generator = torch.Generator().manual_seed(0)
    asked = (
        ("motion", "Which way does the fox move? Answer with one of: left, right.", "right"),
        ("order", "Which object appears last? Answer with one of: fox, dog.", "dog"),
        ("count", "How many dogs are there?", "1"),
    )
    return readings.Reading(torch.randn(8, 1536, generator=generator), shown, numbers, 2, False, (), asked)


def test_a_scene_is_read_as_it_is_labelled(material, tmp_path):
    """Whole, averaged, or without most bare units; forwards and as its twin: each unit with its label and place."""
    entry, count = SETS["exact_train"], 2
    labelled = [features.labelled(entry, material.folder, seed)[1] for seed in entry.seeds[:count]]
    stored = np.zeros((count, 8, 64, 1536), np.float16)
    stored[..., 0], stored[..., 1] = np.arange(8)[:, None], np.arange(64)
    np.save(tmp_path / "exact_train.npy", stored)
    np.save(tmp_path / "exact_train.labels.npy", np.stack(labelled))
    (tmp_path / "exact_train.done").write_text(str(count))
    bank = data.FeatureBank("exact_train", tmp_path, material.folder)
    kinds = set()
    for seed in range(60):
        read = readings.scene_reading(bank, seed % 2 == 0, np.random.default_rng(seed))
        shown, frame = read.shown, read.units[:, 0].long()
        assert len(read.units) == len(shown.words) == len(shown.places)
        assert sorted(set(shown.frames.tolist())) == list(range(read.frames)), "no frame is empty"
        assert bool(read.facts) == (seed % 2 == 0) != bool(read.asked)
        order = torch.diff(frame)
        backwards = bool((order < 0).any())
        assert not (backwards and (order > 0).any())
        if read.numbers is None and len(read.units) < 64 * read.frames:
            kinds.add(("averaged", backwards))
            continue
        number = read.units[:, 1].long()
        if read.numbers is not None:
            assert number.tolist() == read.numbers.tolist()
        assert any(
            (torch.from_numpy(scene)[frame, number, 0].long() == shown.words).all()
            and (torch.from_numpy(scene)[frame, number, 1].long() == shown.tints).all()
            for scene in labelled
        )
        assert np.allclose(shown.places, things.centres(number.numpy()))
        same = (shown.words[:, None] == shown.words) & (shown.tints[:, None] == shown.tints)
        across = (number % 8 > 0) & (number == number[:, None] + 1)
        before = same & (frame[:, None] == frame) & (across | (number == number[:, None] + 8))
        assert not (shown.starts & before.any(0)).any(), "nothing of the same kind to the left or above"
        kinds.add(("whole" if read.numbers is None else "sparse", backwards))
    assert len(kinds) == 6


@needs_weights
def test_missing_units_leave_room(reading, prompter):
    """Positions are those of the whole frames, as transformers counts them."""
    ids = prompter.shown([4, 4])
    whole = prompter.shown([64, 64])
    places = np.flatnonzero(np.array(whole) == IMAGE_ID).reshape(2, 64)
    at = np.cumsum(packing.steps(ids, reading)) - 1
    kept = np.array(ids) == IMAGE_ID
    wanted = [places[frame, number] for frame, number in zip([0] * 4 + [1] * 4, reading.numbers, strict=True)]
    assert at[kept].tolist() == wanted
    assert at[-1] == len(whole) - 1
    close = packing.steps(ids, reading._replace(numbers=None))
    assert close.tolist() == [1] * len(ids)


@needs_weights
def test_mentions_are_found_at_their_last_token(prompter):
    text = "Which way does the polar bear move? There are two foxes, a red sign and a carrot."
    encoded = prompter.encode(text)
    mentions = guide.finder(prompter.tokenizer)(text)
    said = [prompter.tokenizer.decode(encoded[: mention.at + 1]) for mention in mentions]
    assert [prefix.rsplit(" ", 1)[-1].strip(",.") for prefix in said] == ["bear", "foxes", "red", "sign", "carrot"]
    assert [mention.what for mention in mentions] == ["word", "word", "tint", "sign", "word"]
    assert units.WORDS[mentions[0].row] == "polar bear"


@needs_weights
def test_heads_are_told_the_first_the_last_and_all_units(reading, prompter):
    row = packing.pack(iter([reading, reading]).__next__, prompter, guide.finder(prompter.tokenizer), 125)
    mentioned, answered = row.looks(len(row.ids))
    (visual,) = [at for _, _, at in row.found]
    assert [row.ids[at] for at in visual] == [IMAGE_ID] * 8
    fox = mentioned[0]
    assert [view.nonzero()[:, 0].tolist() for view in fox.wanted] == [
        [visual[1]], [visual[4], visual[5]], [visual[1], visual[4], visual[5]]
    ]  # fmt: skip
    assert fox.tint == units.TINT_WORDS.index("red")
    last = things.centres(np.array([3, 5])).mean(0).tolist()
    assert fox.known[2:].tolist() == pytest.approx([*last, 0, 1, 1 / 6, 2 / 6]), "first to last, two units, two foxes"
    # The answer "dog" looks at the dog; "right" and the number look back at the fox and the dogs of their questions.
    right, one, dog = answered
    assert [prompter.tokenizer.decode(row.ids[look.at + 1]) for look in answered] == ["right", "1", "dog"]
    assert dog.wanted[2].nonzero()[:, 0].tolist() == [visual[6]]
    for look, word in ((right, " fox"), (one, " dogs")):
        (at,) = look.wanted[2].nonzero()[:, 0].tolist()
        assert prompter.tokenizer.decode(row.ids[at]) == word
        assert at < look.at


@needs_weights
def test_readings_and_questions_of_a_row_do_not_see_each_other(reading, prompter, trained):
    """The losses of a row of readings with several questions are those of each question asked alone."""
    model, _ = trained
    said = (Fact("colour", "The fox is", "red"), Fact("order", "The last object is the", "dog"))
    still = replace_units(reading)._replace(numbers=None, facts=said, asked=())
    both = [reading._replace(numbers=None), still]
    endless = (both[number % 2] for number in count())
    row = packing.pack(endless.__next__, prompter, guide.finder(prompter.tokenizer), 175)
    assert len(row.readings) == 2
    alone = [(both[0], prompter.question(text), answer) for _, text, answer in reading.asked]
    start = prompter.question(ASK_FACTS)
    alone += [(still, start + list(prompter.encode(fact.start)), f" {fact.end}") for fact in said]
    wanted = []
    with torch.no_grad():
        batch = packing.join([row, row])
        together = model.token_losses(batch)
        for shown, question, answer in alone:
            prompt = prompter.shown([4, 4]) + question
            losses = model.token_losses(pad_rows([(prompt, list(prompter.encode(answer)))], shown.units[None]))
            wanted.append(losses[losses > 0])
    for losses in together:
        assert torch.allclose(losses[losses > 0], torch.cat(wanted), atol=1e-4)
    assert (batch.labels[0] != IGNORE).sum() == len(torch.cat(wanted))
    assert row.kinds == ["motion", "order", "count", "colour", "order"]


def replace_units(reading: readings.Reading) -> readings.Reading:
    """The same with other pictures."""
    return reading._replace(units=torch.randn(8, 1536, generator=torch.Generator().manual_seed(1)))


@needs_weights
def test_a_guided_model_answers_alike_and_learns_to_look(reading, prompter):
    """Guided attention is plain attention; following its loss makes more of it land right, and gives the probe more."""
    torch.manual_seed(0)
    model = CaptionModel(4, torch.float32)
    model.lm.model.layers = model.lm.model.layers[: max(guide.ANSWER_LAYERS) + 1]  # for time
    row = packing.pack(iter([reading, reading]).__next__, prompter, guide.finder(prompter.tokenizer), 125)
    batch = packing.join([row, row])
    with torch.no_grad():
        plain = model.token_losses(batch)
    lessons = Lessons(model, units.UnitTargets(model.lm.model.embed_tokens.weight, prompter.encode))
    with torch.no_grad():
        guided = model.token_losses(batch)
    assert torch.allclose(guided, plain, atol=1e-5)
    rng = np.random.default_rng(0)
    assert lessons.losses(batch, rng).units > 0
    assert len(lessons.guide.losses) == 2 * (len(guide.MENTION_LAYERS) + len(guide.ANSWER_LAYERS))
    optimizer = torch.optim.AdamW([value for value in lessons.parameters() if value.requires_grad], lr=3e-3)
    steps, alone = [], packing.join([row])
    for _ in range(5):
        steps.append(lessons.losses(alone, rng, imagined=True))
        optimizer.zero_grad()
        (steps[-1].guide + steps[-1].probe).backward()
        optimizer.step()
    first, last = steps[0], steps[-1]
    assert first.units == 0
    assert last.guide < 0.9 * first.guide
    assert last.probe < first.probe
    text = lessons.losses(pad_rows([([7, 8], [9])], None), rng)
    assert (text.units, text.guide, text.probe) == (0, 0, 0)


def test_imagined_units_are_near_what_they_show(reading):
    generator = torch.Generator().manual_seed(0)
    targets = units.UnitTargets(torch.randn(512, 64, generator=generator), lambda text: [ord(c) for c in text])
    shown = reading.shown
    seen = [imagine(targets, shown, np.random.default_rng(seed)) for seed in range(400)]
    words = torch.where(shown.words < 0, units.WORDS.index(PHOTOGRAPH), shown.words)
    exact = targets.of(torch.stack([words, shown.tints], -1), shown.places)
    middle = torch.stack(seen).mean(0)
    others = torch.stack([targets.words.mean(0)] * 8) + shown.places @ targets.axes
    near, far = ((middle - where).norm(dim=-1) for where in (exact, others))
    assert (near < far).all()
