"""What requests and arguments of the harness mean; without the harness."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from luvc.errors import ConfigError
from luvc.types import Sampling
from pipeline.lmms_eval.questions import Unsupported, read_generation, read_question
from pipeline.lmms_eval.settings import parse_args

ROOT = Path(__file__).parents[3]


def ask(*content, role="user", **arguments):
    generation = read_generation(arguments, 32, seed=7)
    return read_question(0, "task test 0", [{"role": role, "content": list(content)}], generation)


def text(words):
    return {"type": "text", "text": words}


VIDEO = {"type": "video", "url": "a.mp4"}


def test_media_stand_in_front_of_the_text():
    question = ask(VIDEO, {"type": "image", "url": "b.png"}, text("Why? "), text("Say."))
    assert [(medium.source, medium.image) for medium in question.media] == [("a.mp4", False), ("b.png", True)]
    assert (question.prompt, question.moved) == ("Why? Say.", False)
    between = ask(text("First"), VIDEO, text("then"), {"type": "image", "url": "b.png"})
    assert (between.prompt, between.moved, len(between.media)) == ("First\nthen", True, 2)
    assert read_question(0, "n", [{"role": "user", "content": "Hi"}], question.generation).prompt == "Hi"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video", "url": "a.mp4", "start_time": 1.0, "end_time": 2.5},
        {"type": "video", "url": {"type": "video", "path": "a.mp4", "video_start": 1.0, "video_end": 2.5}},
        {"type": "video", "url": {"url": Path("a.mp4"), "video_start": 1.0}, "start_time": 9.0, "end_time": 2.5},
    ],
)
def test_a_part_of_a_video(part):
    (medium,) = ask(part, text("?")).media
    assert (medium.source, medium.from_s, medium.to_s) == ("a.mp4", 1.0, 2.5)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "turns of system, user"),
        ([{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], "turns of user, assistant"),
        ([], "turns of nobody"),
        ([{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}], "audio cannot be answered about"),
        ([{"role": "user", "content": [{"type": "video", "url": {}}]}], "video without url"),
    ],
)
def test_what_cannot_be_asked_says_so(messages, why):
    with pytest.raises(Unsupported, match=f"^task 3: .*{why}"):
        read_question(0, "task 3", messages, read_generation({}, 1, 0))


def test_generation_arguments():
    for greedy in ({}, {"temperature": 0, "top_p": 0.5}, {"temperature": 1.0, "do_sample": False}, {"top_p": None}):
        assert read_generation(greedy, 32, 7).sampling == Sampling()
    drawn = read_generation({"temperature": "0.5", "top_p": 0.9, "max_new_tokens": 5}, 32, 7)
    assert (drawn.sampling, drawn.max_new_tokens) == (Sampling(0.5, 0.9, 7), 5)
    assert read_generation({"do_sample": True}, 32, 7).sampling.temperature == 1.0
    assert read_generation({"max_gen_toks": 6}, 32, 7).max_new_tokens == 6
    assert read_generation(None, 32, 7).max_new_tokens == 32
    seen = read_generation({"image_aspect_ratio": "original", "num_beams": 1, "top_k": 4}, 32, 7)
    assert seen.ignored == ("top_k",)
    for bad in ({"num_beams": 5}, {"max_new_tokens": "many"}):
        with pytest.raises(Unsupported, match="generation_kwargs"):
            read_generation(bad, 32, 7)


@pytest.mark.parametrize(
    ("until", "cut"),
    [
        ("ASSISTANT:", "A dog.\n\nIt runs."), (["runs", "dog"], "A"), (["\n"], "A dog."), ([], None), (None, None),
        (["\n\n", ""], None), (["absent"], None),
    ],
)  # fmt: skip
def test_an_answer_ends_before_the_first_stop_text(until, cut):
    whole = "A dog.\n\nIt runs. ASSISTANT: and more"
    assert read_generation({"until": until}, 8, 0).cut(whole) == (whole if cut is None else cut)


def test_questions_of_one_video_belong_together():
    same = ask(VIDEO, text("1")).group
    assert same is not None
    assert same == ask(VIDEO, text("2"), until=["x"]).group, "a stop text only cuts"
    part = {**VIDEO, "start_time": 1.0}
    others = [ask(part, text("1")), ask(VIDEO, VIDEO, text("1")), ask(VIDEO, text("1"), max_new_tokens=2)]
    assert same not in {other.group for other in others}
    alone = [ask(text("no media")), ask({"type": "image", "url": object()}, text("?")), ask(VIDEO, temperature=1)]
    assert {question.group for question in alone} == {None}


def test_model_args():
    args, compression = parse_args({"pretrained": "m", "revision": 7, "batch_size": "auto", "frames": 16})
    assert (args.model, args.revision, compression.name) == ("m", "7", "off")
    assert (args.sampling.frames, args.sampling.mode) == (16, "count")
    fps, compression = parse_args({"model": "m", "fps": 2, "max_frames": 9, "compression": '{"resize": 0.25}'})
    assert (fps.sampling.mode, fps.sampling.fps, fps.sampling.max_frames) == ("fps", 2, 9)
    assert compression.resize == 0.25
    nested = parse_args({"model": "m", "compression": '{"preset": "balanced", "merge": {"keep": 0.5}}'})[1]
    assert (nested.merge.keep, nested.prune is None) == (0.5, False)
    assert parse_args({"model": "m"})[0].sampling.frames == 32


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({}, "'model' is missing"), ({"model": "m", "frame": 3}, "unknown key 'frame' .*'frames'"),
        ({"model": "m", "frames": 0}, "frames: 0 is not allowed"), ({"model": "m", "compression": "fasst"}, "'fast'"),
        ({"model": "m", "compression": "{merge: ["}, "is not a mapping"),
        ({"model": "m", "frames": 3, "fps": 1}, "exclude each other"),
        ({"model": "m", "max_frames": 3}, "goes with fps"), ({"model": "m", "on_error": "skip"}, "on_error: 'skip'"),
    ],
)  # fmt: skip
def test_wrong_model_args_say_which(args, why):
    with pytest.raises(ConfigError, match=why):
        parse_args(args)


def test_the_package_registers_itself():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"luvc": "pipeline.lmms_eval:manifest"}
