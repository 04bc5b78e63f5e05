"""The scenes that training learns from: questions and facts against what the actors do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.embedded_model import sets
from benchmarks.exact.compose import KINDS
from benchmarks.exact.facts import facts
from benchmarks.exact.words import TINTS, plural
from tests.benchmarks.asks import subject


@pytest.mark.parametrize(
    ("name", "count", "known"), [("exact_train", 12, 7), ("exact_stills", 12, 4), ("exact_parade", 12, 3)]
)
def test_training_draws_and_asks_exact_scenes(material, name, count, known):
    entry = replace(sets.SETS[name], count=count)
    kinds, rng = set(), np.random.default_rng(0)
    for seed in entry.seeds:
        scene, twin = entry.scene(material.folder, seed), entry.twin(material.folder, seed)
        frames, cover = entry.draw(material.folder, seed)
        assert frames.shape == (entry.frames, 224, 224, 3)
        assert cover.shape == (entry.frames, entry.slots, 8, 8)
        looks = sets.slot_looks(scene)
        assert len(looks) <= entry.slots
        assert all(cover[:, slot].max() > 0.05 for slot in range(len(looks)))
        for shown in filter(None, (scene, twin)):
            for kind, text, answer in sets.questions(shown, entry.frames, False, rng, 8):
                match = [ask for ask in shown.asks if text.startswith(ask.text) and ask.answer == answer]
                assert match
                assert all(choice in text for choice in match[0].choices) or text == match[0].text
                assert kind == match[0].kind
                kinds.add(kind)
        picked = entry.frame_count(rng)
        assert len(entry.picked(picked, rng)) == picked
    assert len(kinds) >= known


def test_a_still_says_what_it_shows(material):
    """Relations, counts and colours of the stills, against where and what their actors are."""
    entry = sets.SETS["exact_stills"]
    seen = Counter()
    for seed in entry.seeds[:60]:
        scene = entry.scene(material.folder, seed)
        for ask in scene.asks:
            seen[ask.kind] += 1
            assert ask.answer in ask.choices
            assert len(set(ask.choices)) == len(ask.choices) == 4
            name = subject(ask, scene) if ask.kind in ("relation", "colour") else ""
            if ask.kind == "relation":
                other = next(actor for actor in scene.actors if ask.text.endswith(f" the {actor.name}?"))
                (one,) = scene.named(name)
                across, down = (one.at(0.5)[axis] - other.at(0.5)[axis] for axis in (0, 1))
                far = {"left": -across, "right": across, "above": -down, "below": down}
                assert max(far, key=far.__getitem__) == ask.answer
            elif ask.kind == "count":
                name = next(actor.name for actor in scene.actors if f" {plural(actor.name)} " in ask.text)
                assert len(scene.named(name)) == int(ask.answer)
            elif ask.kind == "colour":
                assert scene.named(name)[0].tint == ask.answer
            elif ask.kind == "read":
                assert scene.named("sign")[0].look.text == ask.answer
    assert {"relation", "count", "colour", "read"} <= set(seen)


def test_a_parade_moves_and_takes_turns_as_it_says(material):
    """Directions against where things are, order against when they are seen, forwards and backwards."""
    entry = sets.SETS["exact_parade"]
    seen = Counter()
    for seed in entry.seeds[:40]:
        for scene in (entry.scene(material.folder, seed), entry.twin(material.folder, seed)):
            ranked = [actor.name for actor in sorted(scene.actors, key=lambda actor: actor.visible)]
            for ask in scene.asks:
                seen[ask.kind] += 1
                assert ask.answer in ask.choices
                assert len(set(ask.choices)) == len(ask.choices) == 4
                if ask.kind == "motion":
                    (actor,) = scene.named(subject(ask, scene))
                    across, down = (actor.at(1.0)[axis] - actor.at(0.0)[axis] for axis in (0, 1))
                    far = {"left": -across, "right": across, "up": -down, "down": down}
                    assert max(far, key=far.__getitem__) == ask.answer
                    assert far[ask.answer] > 0.3
                elif ask.text.endswith(("first?", "last?")):
                    assert ask.answer == ranked[0 if "first" in ask.text else -1]
                elif ask.kind == "order":
                    step = 1 if " after " in ask.text else -1
                    name = ask.text.rstrip("?").split(f"right {'after' if step > 0 else 'before'} the ")[1]
                    assert ranked.index(ask.answer) == ranked.index(name) + step
            if scene.actors[0].visible != (0.0, 1.0):  # each of the four frames shows one thing or two
                assert all(1 <= sum(actor.seen(time) for actor in scene.actors) <= 2 for time in entry.times(seed))
    assert set(seen) == {"motion", "order", "colour"}


def test_facts_are_true_of_what_is_seen(material):
    """Every sentence against the actors, for all kinds of training scenes; and drawn as often of each kind."""
    rng, seen = np.random.default_rng(3), Counter()
    for name in ("exact_train", "exact_stills", "exact_parade"):
        entry = sets.SETS[name]
        for seed in entry.seeds[:40]:
            scene = entry.scene(material.folder, seed)
            named = {actor.name: actor for actor in scene.actors}
            answers = {ask.answer for ask in scene.asks}
            for kind, start, end in facts(scene, rng):
                words_of = start.split()
                seen[kind] += 1
                if start.startswith("Compared to the "):
                    other, one = start.removeprefix("Compared to the ").removesuffix(" is").split(", the ")
                    across, down = (named[one].at(0.5)[axis] - named[other].at(0.5)[axis] for axis in (0, 1))
                    far = {"left": -across, "right": across, "above": -down, "below": down}
                    assert max(far, key=far.__getitem__) == end
                elif start.startswith("The number of "):
                    (count,) = {len(scene.named(one)) for one in named if start == f"The number of {plural(one)} is"}
                    assert count == int(end)
                elif words_of[-1] == "the" and end in ("left", "center", "right", "top", "middle", "bottom"):
                    one = named[start.removeprefix("The ").rsplit(" is ", 1)[0]]
                    x, y, _ = one.at(0.5)
                    low = {"left": 0, "top": 0, "center": 1, "middle": 1, "right": 2, "bottom": 2}[end]
                    share = x / scene.aspect if words_of[-2] == "on" else y
                    assert low / 3 - 0.05 <= share <= (low + 1) / 3 + 0.05
                elif words_of[1] in TINTS:
                    assert named[end].tint == words_of[1]
                elif end in TINTS and words_of[-1] == "is":
                    assert named[start.removeprefix("The ").removesuffix(" is")].tint == end
                else:
                    assert end in answers
            drawn = sets.statements(scene, rng, 24)
            assert len(drawn) == min(24, len(facts(scene, rng)))
            assert len(set(drawn)) == len(drawn)
    assert set(seen) == {*KINDS, "place"}
