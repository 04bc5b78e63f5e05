"""Bags of units say what is true, rows keep readings and questions apart, and heads learn where to look."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import pytest
import torch

from benchmarks.embedded_model import bags, course, data, features, guide, packing, readings, things, units
from benchmarks.embedded_model.lessons import Lessons, imagine
from benchmarks.embedded_model.model import EOS_ID, IGNORE, IMAGE_ID, CaptionModel, pad_rows
from benchmarks.embedded_model.sets import ASK_FACTS, PHOTOGRAPH, SETS
from benchmarks.exact.facts import Fact
from benchmarks.exact.words import all_names, plural
from tests.benchmarks.weights import needs_weights

NAMES = [name for name in all_names() if name in units.WORDS][:28]
#: Those that are shown small, in a corner; the others are large.
SMALL = NAMES[24:]
TEXTS = [word for word in units.WORDS if word.isalnum() and word not in all_names() and word not in units.BACKDROPS][:6]


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> data.FeatureBank:
    """Eighty stills: a grid of things of two by two units, some dyed, with signs, on a photograph; in one corner
    something of a single unit."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    found = np.full((80, 1, 8, 8, 2), units.UNCLEAR, np.int16)
    found[..., 0] = units.WORDS.index(PHOTOGRAPH)
    for frame in found[:, 0]:
        for cell in rng.permutation(9)[:7]:
            row, column = 3 * (cell // 3), 3 * (cell % 3)
            word = TEXTS[rng.integers(6)] if rng.random() < 0.15 else NAMES[rng.integers(24)]
            tint = -1 if word in TEXTS else int(rng.integers(-1, len(units.TINT_WORDS)))
            if cell == 8:
                frame[7, 7] = units.WORDS.index(SMALL[rng.integers(4)]), -1
            else:
                frame[row : row + 2, column : column + 2] = units.WORDS.index(word), tint
    name = "exact_stills"
    # A unit knows where it came from.
    stored = np.zeros((80, 1, 64, 1536), np.float16)
    stored[..., 0], stored[..., 1] = np.arange(80)[:, None, None], np.arange(64)
    np.save(folder / f"{name}.npy", stored)
    np.save(folder / f"{name}.labels.npy", found.reshape(80, 1, 64, 2))
    (folder / f"{name}.done").write_text("80")
    return data.FeatureBank(name, folder, folder)


@pytest.fixture(scope="module")
def found(bank) -> things.Things:
    return things.Things([bank])


@pytest.fixture(scope="module")
def drawer(found) -> bags.Bags:
    return bags.Bags(found)


def test_things_know_what_they_show_and_where(found, bank):
    labels = bank.labels.numpy()
    for index, thing in enumerate(found.all):
        assert (labels[thing.scene, thing.frame, thing.at] == (thing.word, thing.tint)).all()
        assert found.units(thing, thing.at)[:, :2].tolist() == [[thing.scene, at] for at in thing.at]
        assert np.allclose(found.middles[index], things.centres(thing.at).mean(0))
        assert index in found.of_word[thing.word]
    assert {units.WORDS[found.all[index].word] for index in found.signs} == set(TEXTS)
    assert all(found.all[index].tint >= 0 for index in found.dyed)
    assert found.enough
    assert all(thing.bare and units.WORDS[thing.word] == PHOTOGRAPH for thing in found.bare)


@pytest.mark.parametrize("level", range(len(bags.LEVELS)))
def test_what_is_said_of_a_bag_is_true(drawer, found, level):
    rng = np.random.default_rng(level)
    seen = set()
    for _ in range(150):
        bag = drawer.draw(level, rng)
        shown = [[found.all[index] for index in frame] for frame in bag.frames]
        names = [[units.WORDS[thing.word] for thing in frame] for frame in shown]
        for said in bag.said:
            seen.add(said.kind)
            kind, start, end = said.fact
            subject = next((name for name in NAMES if f"The {name} " in f"{start} "), "")
            at = [frame.index(subject) for frame in names if subject in frame]
            middles = [found.middles[bag.frames[frame][index]] for frame, index in enumerate(at)]
            if kind == "colour":
                assert units.TINT_WORDS[shown[0][at[0]].tint] == end
            elif kind == "name" and "largest" in start:
                sizes = {units.WORDS[thing.word]: len(thing.at) for frame in shown for thing in frame}
                assert all(size < sizes[end] for name, size in sizes.items() if name != end)
            elif kind == "small":
                assert end in SMALL
                assert all(end in frame for frame in names)
            elif kind == "name":
                assert [units.TINT_WORDS[t.tint] for t in shown[0] if units.WORDS[t.word] == end] == [start.split()[1]]
            elif kind == "count":
                (name,) = [name for name in NAMES if start == f"The number of {plural(name)} is"]
                assert names[0].count(name) == int(end)
            elif kind == "motion":
                across, down = middles[-1] - middles[0]
                far = {"left": -across, "right": across, "up": -down, "down": down}
                assert far[end] > 0.6
            elif kind == "relation":
                other, name = (part.split(" is")[0] for part in start.removeprefix("Compared to the ").split(", the "))
                across, down = (
                    found.middles[bag.frames[0][names[0].index(name)]]
                    - found.middles[bag.frames[0][names[0].index(other)]]
                )
                far = {"left": -across, "right": across, "above": -down, "below": down}
                assert max(far, key=far.__getitem__) == end
            elif kind == "order":
                turns = list(dict.fromkeys(name for frame in names for name in frame[:1]))
                before = start.removeprefix("Right after the ").removesuffix(" comes the")
                wanted = {"The first object is the": turns[0], "The last object is the": turns[-1]}
                assert end == (wanted[start] if start in wanted else turns[turns.index(before) + 1])
            elif kind == "read":
                assert end in names[0]
            if said.ask:
                assert said.ask.answer == end
                assert end in said.ask.choices
                assert len(set(said.ask.choices)) == 4
    assert {"colour", "name", "count", "motion", "relation", "order", "read", "place", "small"} == seen


def test_a_frame_of_a_bag_holds_units_of_its_things_in_order(drawer, found, bank):
    rng = np.random.default_rng(3)
    labels = bank.labels.numpy()
    for level in range(4):
        bag = drawer.draw(level, rng)
        stored, words, tints, numbers, starts = bags.picked(found, bag.frames[0], level, rng)
        assert starts.sum() == len(bag.frames[0]), "one for each thing"
        assert (np.diff(numbers) >= 0).all()
        came = stored[:, 0].astype(int)
        assert (labels[came, 0, numbers, 0] == words).all()
        assert (labels[came, 0, numbers, 1] == tints).all()
        assert {found.all[index].word for index in bag.frames[0]} <= set(words.tolist())


def test_things_that_are_counted_show_equally_much(drawer, found):
    rng = np.random.default_rng(4)
    crowds = [bag for bag in (drawer.draw(3, rng) for _ in range(80)) if bag.said[0].kind == "count"]
    shares = set()
    for bag in crowds:
        _, words, *_ = bags.picked(found, bag.frames[0], 3, rng, bag.sizes)
        copies = [found.all[at].word for at in bag.frames[0] if len(found.all[at].at) > 1]
        sizes = {(words == word).sum() / copies.count(word) for word in copies}
        assert len(sizes) <= 1, "the same number of units for each, as far as they have them"
        shares |= sizes
    assert len(shares) > 1


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


@needs_weights
def test_a_step_always_draws_the_same_batch(bank, drawer, prompter, monkeypatch):
    """Bags first, scenes last; the same for the same step and progress."""
    entry = replace(SETS["exact_stills"], count=80)
    monkeypatch.setattr(bank, "entry", entry)
    texts = [([7, number], [9]) for number in range(10)]
    mentions = guide.finder(prompter.tokenizer)
    plan = course.Course([bank], [1.0], drawer, prompter, mentions, texts, 300)
    whole = []

    def scene(_bank, _stated, rng):
        whole.append(True)
        return readings.bag_reading(drawer, 0, True, rng)

    monkeypatch.setattr(course, "scene_reading", scene)
    imagined = []
    for step in range(30):
        whole.clear()
        first, again = (plan.batch(np.random.default_rng([7, 2, step]), step / 30) for _ in range(2))
        assert torch.equal(first[0].ids, again[0].ids)
        if first[0].units is not None:
            assert torch.equal(first[0].units, again[0].units)
            assert (first[0].ids == IMAGE_ID).sum() == len(first[0].units) == len(first[0].shown.words)
            assert first[0].ids.shape[1] <= (course.SCENE_TOKENS if whole else 300)
            assert (first[0].labels == EOS_ID).any()
        imagined.append(first[1])
    without = course.Course([bank], [1.0], None, prompter, mentions, texts, 300)
    assert without.batch(np.random.default_rng(0), 0.0)[1] is False, "no bags, nothing imagined"
    assert all(imagined[:3])
    assert not all(imagined)


def test_a_course_goes_from_imagined_bags_to_scenes():
    mixes = [course.mix(step / 20) for step in range(21)]
    assert mixes[0] == (1.0, 1.0, 0.0, 0.5)
    assert mixes[-1] == pytest.approx((0.15, 0.1, 3.0, 0.2))
    for before, after in pairwise(mixes):
        assert after.bags <= before.bags
        assert after.imagined <= before.imagined
        assert after.level >= before.level
        assert after.facts <= before.facts


def test_what_is_small_stays_small_beside_what_is_large(drawer, found):
    """Every unit of both, in every frame of the bag."""
    rng = np.random.default_rng(5)
    corners = [bag for bag in (drawer.draw(3, rng) for _ in range(80)) if bag.said[0].kind == "small"]
    assert {len(bag.frames) for bag in corners} == {1, 2, 3, 4}
    for bag in corners:
        for frame in bag.frames:
            assert bag.sizes == "own"
            _, words, *_ = bags.picked(found, frame, 3, rng, bag.sizes)
            for index in frame:
                assert (words == found.all[index].word).sum() == len(found.all[index].at)
