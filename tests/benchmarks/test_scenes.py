"""Composed scenes: the same seed gives the same words and pixels, and held-out pictures stay held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.scenes.compose import BACKGROUNDS, MOTIONS, TEXTURED, compose
from benchmarks.scenes.rasterise import codepoints, spelling
from benchmarks.scenes.render import load_textures, render, write_mp4
from benchmarks.scenes.stamps import find_cutouts, split_cutouts
from benchmarks.scenes.vocabulary import read_table, with_article

DRAWN = tuple(kind for kind in BACKGROUNDS if kind not in TEXTURED)
STYLES = ("fluent", "noto", "openmoji")


def draw_picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (60, 40))
    ImageDraw.Draw(image).ellipse((5, 5, 55, 35), fill=(*colour, 255))
    image.save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A stamps folder and an emoji folder with a few names in the packages' layouts."""
    root = tmp_path_factory.mktemp("pictures")
    for number, entry in enumerate(read_table()[:12]):
        colour = (20 * number % 256, 200 - 10 * number, 90)
        for stem in entry.stamps:
            draw_picture(root / "stamps" / "animals" / f"{stem}.png", colour)
        for style in STYLES:
            for char in entry.emoji:
                draw_picture(root / "emoji" / style / f"{codepoints(char)}.png", colour)
    return root / "stamps", root / "emoji"


@pytest.fixture(scope="module")
def cutouts(pictures):
    return find_cutouts(*pictures)


def test_every_name_is_usable_once():
    table = read_table()
    assert len({entry.name for entry in table}) == len(table) > 150
    assert all(entry.emoji or entry.stamps for entry in table)
    assert (with_article("apple"), with_article("unicorn"), with_article("grapes")) == (
        "an apple",
        "a unicorn",
        "some grapes",
    )


def test_packages_that_spell_an_emoji_differently_are_found():
    assert spelling("☀️", {"2600"}) == "2600"
    assert spelling("☀", {"2600-fe0f"}) == "2600-fe0f"
    assert spelling("☀", {"2601"}) is None


def test_the_split_is_disjoint_complete_and_keeps_every_name(cutouts):
    train, held_out = split_cutouts(cutouts)
    assert {c.key for c in train}.isdisjoint(c.key for c in held_out)
    assert len(train) + len(held_out) == len(cutouts)
    assert held_out
    assert {c.name for c in held_out} <= {c.name for c in train} == {c.name for c in cutouts}


def test_the_split_does_not_depend_on_where_files_lie_or_their_order(cutouts, pictures, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for folder in pictures:
        (moved / folder.name).symlink_to(folder)
    elsewhere = find_cutouts(moved / "stamps", moved / "emoji")
    keys = [[c.key for c in part] for part in split_cutouts(cutouts)]
    assert keys == [[c.key for c in part] for part in split_cutouts(reversed(elsewhere))]


def test_one_seed_is_one_scene_and_one_picture(cutouts):
    for seed in range(20):
        scene, again = compose(seed, cutouts, DRAWN), compose(seed, cutouts, DRAWN)
        assert scene == again
    frames, coverage = render(scene, (0.1, 0.9), 64, {})
    frames_again, _ = render(again, (0.1, 0.9), 64, {})
    assert frames.shape == (2, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, frames_again)
    assert coverage.shape == (2, 2, 8, 8)
    assert 0 <= coverage.min() <= coverage.max() <= 1
    assert len({compose(seed, cutouts, DRAWN).caption(True) for seed in range(40)}) > 30


def test_captions_and_answers_agree_with_the_scene(cutouts):
    for seed in range(60):
        scene = compose(seed, cutouts)
        name, answers = scene.main.cutout.name, scene.answers(moving=True)
        assert name in scene.caption(True)
        assert scene.place in scene.caption(True)
        assert answers["What is the main object?"].lower() == f"{with_article(name)}."
        assert answers["Which way does it move?"] == MOTIONS[scene.motion][2]
        assert "Which way does it move?" not in scene.answers(moving=False), "a still does not move"
        if scene.other:
            assert scene.other.cutout.name != name
            assert scene.other.cutout.name in scene.caption(False)


@pytest.mark.parametrize(("motion", "axis", "sign"), [("right", 1, 1), ("left", 1, -1), ("down", 0, 1), ("up", 0, -1)])
def test_what_the_caption_says_moves_is_what_moves(cutouts, motion, axis, sign):
    scene = next(
        s for s in (compose(seed, cutouts, DRAWN) for seed in range(500)) if s.motion == motion and not s.other
    )
    _, coverage = render(scene, (0.0, 1.0), 96, {}, cells=32)
    centres = [float((np.indices((32, 32))[axis] * cover).sum() / cover.sum()) for cover in coverage[:, 0]]
    assert sign * (centres[1] - centres[0]) > 2


def test_every_background_is_drawn_from_texture_or_by_hand(cutouts, tmp_path):
    rng = np.random.default_rng(0)
    for kind in TEXTURED:
        Image.fromarray(rng.integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(tmp_path / f"{kind}_1.png")
    textures = load_textures(tmp_path)
    assert set(textures) == set(TEXTURED)
    for kind in BACKGROUNDS:
        frames, _ = render(compose(3, cutouts, (kind,)), (0.5,), 48, textures)
        assert frames.std() > 1, kind


def test_a_written_clip_decodes_to_what_was_drawn(cutouts, tmp_path):
    import av

    frames, _ = render(compose(5, cutouts, ("plain",)), np.linspace(0, 1, 6), 64, {})
    write_mp4(tmp_path / "clip.mp4", frames, fps=12, crf=12)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].average_rate == 12
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 8
