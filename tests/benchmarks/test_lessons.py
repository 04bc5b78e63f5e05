"""Bags of units say what is true, and a course goes from them to whole scenes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.embedded_model import bags, course, data, guide, readings, things, units
from benchmarks.embedded_model.model import EOS_ID, IMAGE_ID
from benchmarks.embedded_model.sets import PHOTOGRAPH, SETS
from benchmarks.exact.words import plural
from tests.benchmarks.vocabulary import NAMES, SMALL, TEXTS
from tests.benchmarks.weights import needs_weights


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
