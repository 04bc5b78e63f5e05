"""The benchmark with exact answers: deterministic, right, balanced, and split without a leak."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.embedded_model import sets
from benchmarks.exact import build, words
from benchmarks.exact.compose import KINDS
from benchmarks.exact.draw import Artist, dye, plate
from benchmarks.exact.material import Material
from benchmarks.exact.questions import lines, prompt
from benchmarks.exact.scene import Sign
from benchmarks.exact.words import ALIKE, TINTS, all_names, plural, sign_texts
from luvc.evaluation.questions import parse_answer, read_questions
from tests.benchmarks.asks import subject

TIMES = (np.arange(8) + 0.5) / 8


@pytest.fixture(scope="module")
def scenes(material):
    return [build.test_scene(material, number)[1] for number in range(240)]


def asks(scenes, kind):
    return [(scene, ask) for scene in scenes for ask in scene.asks if ask.kind == kind]


def test_a_seed_is_a_scene_and_its_pixels(material):
    artist, again = Artist(material), Artist(Material(material.folder))
    for number in (0, 5, 9, 14):
        scene, other = (build.test_scene(material, number)[1] for _ in range(2))
        assert scene == other
        assert np.array_equal(artist.frames(scene, TIMES[:3], 64)[0], again.frames(other, TIMES[:3], 64)[0])
    assert build.test_scene(material, 0) != build.test_scene(material, 2)


def test_every_question_offers_its_answer_once(scenes):
    seen = Counter(ask.kind for scene in scenes for ask in scene.asks)
    assert set(seen) == {*KINDS, "caption"}
    assert min(seen[kind] for kind in KINDS) > 30
    for scene in scenes:
        for ask in scene.asks:
            if ask.kind != "caption":
                assert len(set(ask.choices)) == len(ask.choices) == 4
                assert parse_answer(ask.answer, ask.choices) == ask.answer
        names = {actor.name for actor in scene.actors}
        assert all(other not in ALIKE.get(name, set()) for name in names for other in names - {name})


def test_answers_do_not_stand_at_one_place(scenes):
    for kind in ("name", "motion", "order", "read"):
        places = Counter(ask.choices.index(ask.answer) for _, ask in asks(scenes, kind))
        assert len(places) == 4
        assert max(places.values()) < 0.45 * sum(places.values())
    for kind, values in (("motion", 4), ("relation", 4), ("count", 6), ("colour", 6)):
        answers = Counter(ask.answer for _, ask in asks(scenes, kind))
        assert len(answers) == values
        assert max(answers.values()) < 0.5 * sum(answers.values())


def test_twins_are_the_same_scene_backwards(material):
    artist = Artist(material)
    for number in range(0, 40, 2):
        scene, twin = (build.test_scene(material, number + one)[1] for one in (0, 1))
        still = [replace(each, camera=replace(each.camera, noise=0.0)) for each in (scene, twin)]
        forwards, backwards = (artist.frames(each, TIMES, 64)[0].astype(int) for each in still)
        assert np.abs(forwards - backwards[::-1]).mean() < 1.0
        answers = [{ask.text: ask.answer for ask in each.asks if ask.choices} for each in (scene, twin)]
        assert answers[0].keys() == answers[1].keys()
        for text, answer in answers[0].items():
            changed = text.startswith("Which way") or "first" in text or "last" in text
            assert (answers[1][text] != answer) == changed, text


def centroids(cover):
    """Mean place of each slot in each frame, in cells: `[frames, slots, 2]`, x then y; nan where it is not seen."""
    rows, columns = np.mgrid[: cover.shape[2], : cover.shape[3]] + 0.5
    total = cover.sum((2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([(cover * columns).sum((2, 3)) / total, (cover * rows).sum((2, 3)) / total], -1)


def test_motion_and_place_are_what_the_pixels_show(material, scenes):
    artist = Artist(material)
    ways = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1), "above": (1, -1), "below": (1, 1)}
    for scene, ask in [*asks(scenes, "motion")[:40], *asks(scenes, "relation")[:40]]:
        names = list(dict.fromkeys(actor.name for actor in scene.actors))
        _, cover = artist.frames(scene, TIMES, 96, names, cells=48)
        middle = centroids(cover) * np.array([scene.aspect, 1.0])
        first = names.index(subject(ask, scene))
        if ask.kind == "motion":
            moved = [middle[-1, first] - middle[0, first]]
        else:
            second = names.index(next(a.name for a in scene.actors[:2] if a.name != names[first]))
            moved = list(middle[:, first] - middle[:, second])  # in every frame
        axis, sign = ways[ask.answer]
        for step in moved:
            assert sign * step[axis] > 1.5 * abs(step[1 - axis]), (scene.seed, ask)


def test_order_is_when_something_is_first_seen(material, scenes):
    artist = Artist(material)
    for scene, ask in asks(scenes, "order")[:40]:
        names = [actor.name for actor in scene.actors[:3]]
        _, cover = artist.frames(scene, TIMES, 64, names, cells=32)
        seen = cover.sum((2, 3)) > 1
        assert (seen.sum(0) >= 3).all(), "each is in at least three of eight frames"
        assert (seen[::2].sum(0) >= 1).all()
        assert (seen[1::2].sum(0) >= 1).all(), "and in every half of them"
        firsts = {name: int(np.argmax(seen[:, slot])) for slot, name in enumerate(names)}
        wanted = min if "first" in ask.text else max
        assert ask.answer == wanted(firsts, key=firsts.__getitem__)
        assert len(set(firsts.values())) == 3


def components(mask):
    """How many separate regions a boolean image has."""
    left, found = {tuple(map(int, place)) for place in np.argwhere(mask)}, 0
    while left:
        found, edge = found + 1, [left.pop()]
        while edge:
            row, column = edge.pop()
            near = {(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
    return found


def test_counts_are_separate_things_in_the_picture(material, scenes):
    artist = Artist(material)
    for scene, ask in asks(scenes, "count")[:40]:
        name = next(a.name for a in scene.actors if plural(a.name) in ask.text)
        for frame in artist.frames(scene, (0.06, 0.94), 192, [name], cells=96)[1][:, 0]:
            assert components(frame > 0.4) == int(ask.answer), (scene.seed, ask)


def test_the_largest_is_largest_and_the_small_one_small_and_aside(scenes):
    for scene, ask in asks(scenes, "name"):
        sizes = {actor.name: actor.size * min(actor.growth**0.5, actor.growth**-0.5) for actor in scene.actors}
        others = [actor.size * max(actor.growth**0.5, actor.growth**-0.5) for actor in scene.actors]
        assert sizes[ask.answer] > 1.1 * sorted(others)[-2]
    for scene, ask in asks(scenes, "small"):
        (small,) = scene.named(ask.answer)
        assert all(actor.size > 1.15 * small.size for actor in scene.actors if actor is not small)
        x, y, _ = small.at(0.5)
        assert abs(x / scene.aspect - 0.5) > 0.35
        assert abs(y - 0.5) > 0.35
        assert scene.actors[-1] is small, "nothing hides it"


def test_colours_are_seen_as_they_are_called(material, scenes):
    palette = np.array(list(TINTS.values()), float)
    for scene, ask in asks(scenes, "colour")[:60]:
        (actor,) = scene.named(subject(ask, scene))
        assert actor.tint == ask.answer
        pixels = np.asarray(dye(material.cutout(actor.shows.key), actor.tint), float)
        mean = pixels[..., :3][pixels[..., 3] > 128].mean(0)
        # Brightness aside: the light of a scene changes it.
        angles = palette @ mean / np.linalg.norm(palette, axis=1)
        assert list(TINTS)[int(np.argmax(angles))] == ask.answer


def test_signs_say_what_is_asked_and_stay_in_the_picture(material, scenes):
    for scene, ask in asks(scenes, "read"):
        (sign,) = scene.named("sign")
        assert sign.shows.text == ask.answer
        assert ("number" in ask.text) == ask.answer.isdigit()
        x, y, size = sign.at(0.5)
        assert size / 2 - 0.03 < x < scene.aspect - size / 2 + 0.03
        assert 0.05 < y < 0.95
    font = material.font("Aileron")
    one, other = (np.asarray(plate(Sign(text, "Aileron", False), font)) for text in ("stop", "shop"))
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_nothing_leaks_between_the_splits(material):
    train, seen, held = (
        material.palette("train"), material.palette("test"), material.palette("test", held_out=True),
    )  # fmt: skip
    keys = [{key for group in part.cutouts.values() for key in group} for part in (train, seen, held)]
    assert keys[0] == keys[1]
    assert not keys[0] & keys[2]
    assert set(held.cutouts) <= set(train.cutouts), "names are known, pictures are not"
    for part in ("backgrounds", "fonts"):
        assert getattr(seen, part) == getattr(held, part)
        assert getattr(train, part)
        assert getattr(seen, part)
        assert not set(getattr(train, part)) & set(getattr(seen, part))
    assert train.texts == seen.texts
    assert set(train.texts) & set(held.texts) == set(words.SIGN_NUMBERS)
    trained = [entry for entry in sets.SETS.values() if isinstance(entry, sets.ExactSet)]
    assert trained
    assert all(entry.seeds.stop <= build.DEVELOPMENT_SEED < build.TEST_SEED for entry in trained)
    with pytest.raises(ValueError, match="seeds below"):
        trained[0].scene(material.folder, build.DEVELOPMENT_SEED)
    ranges = sorted((entry.seeds.start, entry.seeds.stop) for entry in sets.SETS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


def test_the_real_splits_are_as_large_as_they_should_be():
    assert len(sign_texts(held_out=True)) > 25
    assert len(sign_texts(held_out=False)) > 1.5 * len(sign_texts(held_out=True))
    assert len(words.SIGN_WORDS) == len(set(words.SIGN_WORDS))
    assert not ALIKE.keys() - set(all_names()), "misspelt"
    assert plural("goose") == "geese"
    assert plural("fire engine") == "fire engines"
    assert plural("butterfly") == "butterflies"


def test_prompts_in_both_styles(scenes):
    scene, ask = asks(scenes, "motion")[0]
    assert prompt(ask).endswith(f"Answer with one of: {', '.join(ask.choices)}.")
    lettered = prompt(ask, "letters")
    assert lettered.splitlines()[1] == f"A. {ask.choices[0]}"
    row = lines(scene, "clips/1.mp4", "seen")[0]
    assert row["choices"][["A", "B", "C", "D"].index("A")] == row["choices"][0]


def test_built_files_are_videos_with_their_questions(material, tmp_path, monkeypatch):
    from luvc.shapes import ModelShape
    from pipeline.evaluate import clip_loader

    argv = ["build", "--material", str(material.folder), "--out", str(tmp_path), "--clips", "4"]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr(build, "SECONDS", 1)
    build.main()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    questions = read_questions(tmp_path / "questions.jsonl")
    assert len(written) == 4
    assert {tmp_path / question.video for question in questions} == set(written)
    build.main()
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}, "kept"

    family = SimpleNamespace(frame_size=lambda shape, height, width, frames, limit: (96, 96))
    monkeypatch.setattr("pipeline.frames.FAMILIES", {"any": family})
    load = clip_loader(tmp_path, SimpleNamespace(family="any"), frames=8)
    assert ModelShape
    scene = build.test_scene(material, 0)[1]
    decoded = load(questions[0].video)
    assert decoded.frames.shape == (8, 96, 96, 3)
    drawn = Artist(material).frames(scene, [(time + 0.05) for time in decoded.timestamps_s], build.HEIGHT)[0]
    small = np.stack([np.asarray(Image.fromarray(frame).resize((96, 96), Image.Resampling.BICUBIC)) for frame in drawn])
    assert np.abs(small.astype(int) - decoded.frames).mean() < 8, "codec and resizing, not another scene"

    arrays = tmp_path / "arrays"
    monkeypatch.setattr("sys.argv", [*argv[:4], str(arrays), "--clips", "1", "--arrays"])
    build.main()
    (question, *_) = read_questions(arrays / "questions.jsonl")
    assert clip_loader(arrays, SimpleNamespace(family="any"), 8)(question.video).frames.shape[0] == 8

    development = tmp_path / "development"
    monkeypatch.setattr("sys.argv", [*argv[:4], str(development), "--clips", "2", "--arrays", "--development"])
    build.main()
    assert {question.group for question in read_questions(development / "questions.jsonl")} == {"development"}
    shown = build.development_scene(material, 0)[1]
    assert shown.camera.background in material.palette("train").backgrounds
