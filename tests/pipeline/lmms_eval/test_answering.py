"""Many questions through one engine: order, shared videos, failures; media of every form. Without the harness."""

from __future__ import annotations

import io
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image

import luvc
from luvc.errors import LuvcError, RequestError
from luvc.types import Clip
from pipeline.decode.protocol import DecodeSettings
from pipeline.errors import InputError, SpanUnreadable
from pipeline.lmms_eval.answering import Totals, answer_all
from pipeline.lmms_eval.media import read_medium
from pipeline.lmms_eval.questions import Medium, Question, read_generation
from pipeline.plan.sampling import Sampling
from tests.luvc import tiny
from tests.videos import numbered_frame, read_number, write_video


def question(index: int, source: str | None, new_tokens: int = 5, **arguments: object) -> Question:
    media = () if source is None else (Medium(source),)
    generation = read_generation({"max_new_tokens": new_tokens, **arguments}, 5, 0)
    return Question(index, f"q{index}", media, "Why? " * (1 + index % 3), generation)


def clips() -> dict[str, Clip]:
    return {name: Clip(tiny.clip(1 + seed, seed)) for seed, name in enumerate("abc")}


def answers(questions, load, compression="off", **budgets):
    engine = luvc.load(tiny.model(), compression, processor=tiny.tokenizer(), budgets=luvc.engine.Budgets(**budgets))
    totals = Totals()
    outcomes = list(answer_all(engine, [partial(lambda one: one, one) for one in questions], load, 2, totals))
    assert sorted(outcome.question.index for outcome in outcomes) == list(range(len(questions)))
    return sorted(outcomes, key=lambda outcome: outcome.question.index), totals, engine


@pytest.mark.parametrize("compression", ["off", "paper"])
def test_answers_are_those_of_each_question_alone(compression):
    known = clips()
    asked = ["a", "a", None, "b", "a", "c", "c", "c", None]
    questions = [question(index, source, 3 + index % 4 // 3) for index, source in enumerate(asked)]
    loaded: list[str] = []

    def load(medium: Medium) -> Clip:
        loaded.append(medium.source)
        return known[medium.source]

    outcomes, totals, engine = answers(questions, load, compression, prefill_tokens=64)
    for outcome in outcomes:
        own = outcome.question
        alone = luvc.Request(
            "x",
            [own.prompt],
            clips=[known[medium.source] for medium in own.media],
            max_new_tokens=own.generation.max_new_tokens,
        )
        (done,) = engine.generate([alone])
        assert outcome.text == done.answers[0].text
        assert outcome.visual_tokens == done.tokens.merged
    assert sorted(loaded) == ["a", "a", "b", "c", "c"], "neighbours share a video, unless they ask for other lengths"
    assert (totals.questions, totals.requests, totals.failed) == (9, 7, 0)
    assert totals.merged <= totals.visual
    assert totals.new_tokens == sum(len(outcome.answer.token_ids) for outcome in outcomes)
    assert "9 questions in 7 requests" in totals.line("off")


def test_a_bad_video_costs_only_its_own_questions():
    known = clips()

    def load(medium: Medium) -> Clip:
        if medium.source == "bad":
            raise InputError("bad: not a video", "remove it")
        if medium.source == "grey":
            return Clip(np.zeros((2, 32, 32), np.uint8))
        return known[medium.source]

    outcomes, totals, _ = answers(
        [question(index, source) for index, source in enumerate(["bad", "a", "bad", "bad", "grey", "b", "bad"])], load
    )
    failed = [outcome.question.index for outcome in outcomes if outcome.error]
    assert failed == [0, 2, 3, 4, 6]
    assert all(not outcome.text for outcome in outcomes if outcome.error)
    assert isinstance(outcomes[0].error, InputError)
    assert isinstance(outcomes[4].error, RequestError)
    assert all(outcome.answer for outcome in outcomes if not outcome.error)
    assert totals.failed == 5
    only_bad, totals, _ = answers([question(0, "bad")], load)
    assert only_bad[0].error
    assert answers([], load)[0] == []


def test_what_a_task_raises_ends_everything():
    def leave() -> Question:
        raise SystemExit("video path: x does not exist")

    engine = tiny.engine()
    asks = [partial(question, 0, None), leave, partial(question, 2, None)]
    with pytest.raises(SystemExit, match="does not exist"):
        list(answer_all(engine, asks, lambda medium: clips()["a"], 1, Totals()))


def test_decoding_stays_a_few_videos_ahead():
    release = threading.Event()
    started: list[str] = []

    def load(medium: Medium) -> Clip:
        started.append(medium.source)
        if medium.source != "0":
            release.wait(30)
        return Clip(tiny.clip(1, 0))

    stream = answer_all(tiny.engine(), [partial(question, index, str(index)) for index in range(40)], load, 2, Totals())
    assert next(stream).question.index == 0, "answered while the next ones are still being decoded"
    assert len(started) < 12
    release.set()
    assert len(list(stream)) == 39


def test_draws_are_the_same_in_every_run():
    known = clips()
    questions = [question(index, "a", 6, temperature=1.5) for index in range(4)]
    first, totals, _ = answers(questions, lambda medium: known["a"])
    again, _, _ = answers(list(reversed(questions)), lambda medium: known["a"])
    assert [one.answer.token_ids for one in first] == [one.answer.token_ids for one in again]
    assert len({one.answer.token_ids for one in first}) > 1
    assert totals.requests == 4, "a draw must not depend on neighbours"


# Media -------------------------------------------------------------------------------------------


def read(medium: Medium, frames: int = 3) -> Clip:
    shape = tiny.engine().model_config
    return read_medium(medium, shape, Sampling(frames=frames), DecodeSettings())


def test_a_video_file_or_a_part_of_it(tmp_path):
    path = str(write_video(tmp_path / "v.mp4", 50, fps=10))
    whole = read(Medium(path))
    assert whole.frames.shape == (3, 32, 32, 3)
    assert not whole.image
    part = read(Medium(f"file://{path}", from_s=2.0, to_s=99.0))
    numbers = [[read_number(frame) for frame in clip.frames] for clip in (whole, part)]
    assert numbers == [[8, 25, 41], [25, 35, 45]]
    assert part.timestamps_s == pytest.approx([2.5, 3.5, 4.5], abs=0.11)
    for from_s, to_s in ((5.0, 9.0), (3.0, 2.0)):
        with pytest.raises(SpanUnreadable, match="nothing lies between"):
            read(Medium(path, from_s=from_s, to_s=to_s))
    with pytest.raises(InputError):
        read(Medium(str(tmp_path / "absent.mp4")))


def test_pictures_and_chosen_frames(tmp_path):
    pixels = tiny.clip(2, 3, 40)
    Image.fromarray(pixels[0]).save(tmp_path / "p.png")
    data = io.BytesIO()
    Image.fromarray(pixels[0]).save(data, "PNG")
    for source in (str(tmp_path / "p.png"), Image.fromarray(pixels[0]), data.getvalue()):
        clip = read(Medium(source, image=True))
        assert clip.image
        assert np.array_equal(clip.frames, pixels[:1])
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match="without frames"):
        read(Medium(str(tmp_path / "folder")))
    for index in range(9):
        Image.fromarray(numbered_frame(index)).save(tmp_path / "folder" / f"{index:05}.png")
    assert [read_number(frame) for frame in read(Medium(str(tmp_path / "folder"))).frames] == [1, 4, 7]
    assert len(read(Medium(str(tmp_path / "folder")), frames=20).frames) == 9
    assert np.array_equal(read(Medium([Image.fromarray(frame) for frame in pixels])).frames, pixels)
    assert read(Medium(pixels)).frames is pixels
    for bad in (
        Medium(str(tmp_path / "absent.png"), image=True),
        Medium(b"no picture", image=True),
        Medium([]),
        Medium(7),
        Medium([Image.fromarray(pixels[0]), Image.fromarray(pixels[0][:8])]),
    ):
        with pytest.raises(LuvcError):
            read(bad)
