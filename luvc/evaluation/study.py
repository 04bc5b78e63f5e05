"""Asks every question with every setting, in one process and with one copy of the weights.

Videos are taken in blocks, and each block is answered by all settings in turn before the next one starts: frames are
decoded once and dropped again, and times are comparable although machines are not equally fast all day. Settings that
do the same in front of the language model share one encoding of a clip; each is charged the seconds it took, as if it
had encoded alone. Questions about one clip share its prefix (`luvc.packing`).
Knows nothing of video files: a function gives the frames.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

from luvc.compression import Compression
from luvc.encoder import Encoder
from luvc.engine import Engine
from luvc.errors import ConfigError, LuvcError
from luvc.evaluation.answers import Answers, Row
from luvc.evaluation.questions import Question, by_video, parse_answer
from luvc.evaluation.settings import Setting
from luvc.types import Clip, Completion, Request, drive

LoadClip = Callable[[str], Clip]


@dataclass(frozen=True)
class Limits:
    """How much is done at a time and how long answers may be.

    Attributes:
        block_videos: videos decoded and answered together.
        text_tokens: new tokens of a free answer. One of a choice is as long as the longest choice and a little more.
        part: `(k, n)`: of the blocks only every n-th, from the k-th on; the others are answered by other processes.
    """

    block_videos: int = 16
    text_tokens: int = 40
    part: tuple[int, int] = (1, 1)


class _Asked(NamedTuple):
    """A request, the questions that its prompts are, and how many are asked about its video in all."""

    request: Request
    questions: list[Question]
    about_video: int


class _Seen(NamedTuple):
    """A clip behind the encoder, what that took, and why it could not be encoded."""

    clip: Clip
    encode_s: float
    error: LuvcError | None


class _Turn(NamedTuple):
    """What one setting did with one block: what is measured."""

    completions: dict[str, Completion]
    wall_s: float


def with_setting(engine: Engine, setting: Setting) -> Engine:
    """Another engine around the same weights."""
    return Engine(engine.runtime, setting.compression, engine.budgets, tuple(engine.eos_ids), engine.backend.name)


def encoder_part(compression: Compression) -> Compression:
    """What of a compression happens in front of the language model; settings that agree in it share encodings."""
    return Compression("encoder", merge=compression.merge, resize=compression.resize)


def ask(
    engine: Engine,
    questions: Sequence[Question],
    settings: Sequence[Setting],
    load_clip: LoadClip,
    answers: Answers,
    limits: Limits = Limits(),
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Answer what is not answered yet, and keep it in `answers`.

    Args:
        engine: a loaded model; its own compression does not matter.
        questions: all of them; those of one video share one encoding.
        settings: uncompressed first. One with fewer `questions` gets those of the first videos.
        load_clip: video of a question -> its frames at the model's size.
        answers: where rows go, and which are there already.
        say: told after each block.

    Raises:
        ConfigError: a setting's name stands in `answers` with another compression; errors of `load_clip`.
    """
    known = answers.compressions()
    for setting in settings:
        if known.get(setting.name, _as_json(setting)) != _as_json(setting):
            raise ConfigError(
                f"{answers.path}: answers of {setting.name!r} are of another compression",
                "name another output folder, or remove the file",
            )
    groups: dict[Compression, list[Setting]] = {}
    for setting in settings:
        engine.runtime.check(setting.compression)
        groups.setdefault(encoder_part(setting.compression), []).append(setting)
    done = {setting.name: answers.done(setting.name) for setting in settings}
    videos = by_video(questions)
    asked_about = {setting.name: _first_videos(videos, setting.questions) for setting in settings}
    blocks = list(_blocks(videos, limits.block_videos))
    warm = False
    started = time.perf_counter()
    try:
        first, step = limits.part
        for number, block in list(enumerate(blocks))[first - 1 :: step]:
            clips: dict[str, Clip] = {}
            asked_now = 0
            for part, members in _turned(list(groups.items()), number):  # nobody always goes first
                left = {
                    setting.name: _left(videos, block, asked_about[setting.name], done[setting.name])
                    for setting in members
                }
                needed = [video for video in block if any(video in asked for asked in left.values())]
                if not needed:
                    continue
                for video in needed:
                    if video not in clips:
                        clips[video] = load_clip(video)
                if not warm:  # first calls compile, allocate and page in
                    _encode(engine, part, {needed[0]: clips[needed[0]]})
                seen = _encode(engine, part, {video: clips[video] for video in needed})
                for setting in _turned(members, number):
                    if not left[setting.name]:
                        continue
                    parts = _requests(engine, left[setting.name], seen, limits)
                    turn = _answer(with_setting(engine, setting), parts, seen, warm)
                    warm = True
                    answers.add([row for asked in parts for row in _rows(asked, turn, setting, number, seen)])
                    done[setting.name] |= {question.id for asked in left[setting.name].values() for question in asked}
                    asked_now += sum(len(asked) for asked in left[setting.name].values())
            minutes = (time.perf_counter() - started) / 60
            say(f"block {number + 1} of {len(blocks)}: {len(block)} videos, {asked_now} answers, {minutes:.1f} min")
    finally:
        answers.write()


_Item = TypeVar("_Item")


def _turned(items: Sequence[_Item], number: int) -> Sequence[_Item]:
    turn = number % len(items)
    return [*items[turn:], *items[:turn]]


def _first_videos(videos: Mapping[str, Sequence[Question]], questions: int | None) -> set[str]:
    """The first videos about which together there are at least so many questions."""
    before = accumulate((len(asked) for asked in videos.values()), initial=0)  # one more than videos: the sum
    return {video for video, count in zip(videos, before, strict=False) if questions is None or count < questions}


def _left(
    videos: Mapping[str, Sequence[Question]], block: Sequence[str], asked_about: set[str], done: set[str]
) -> dict[str, list[Question]]:
    left = {
        video: [question for question in videos[video] if question.id not in done]
        for video in block
        if video in asked_about
    }
    return {video: asked for video, asked in left.items() if asked}


def _encode(engine: Engine, part: Compression, clips: Mapping[str, Clip]) -> dict[str, _Seen]:
    """Every clip behind the encoder, by video. One that fails keeps its error."""
    encoder = Encoder(engine.runtime, part, engine.budgets.encode_tokens, engine.backend.name)
    seen = {}
    for done in drive(encoder, (Request(video, (), clips=[clip]) for video, clip in clips.items())):
        clip = clips[done.id]
        if done.error is None:
            clip = replace(clip, frames=None, encoded=done.encoded[0])
        seen[done.id] = _Seen(clip, done.times.encode_s, done.error)
    return seen


def _answer(engine: Engine, parts: Sequence[_Asked], seen: Mapping[str, _Seen], warm: bool) -> _Turn:
    """Answers of one setting to one block, and the seconds they would have taken it alone: engine and encoder."""
    requests = [asked.request for asked in parts if seen[asked.questions[0].video].error is None]
    if engine.graphs is not None:  # steps are captured in the first use of their size, which a long run does not notice
        list(engine.generate(requests))
    elif not warm:
        list(engine.generate(requests[:1]))
    started = time.perf_counter()
    completions = {each.id: each for each in engine.generate(requests)}
    wall_s = time.perf_counter() - started
    videos = {asked.questions[0].video for asked in parts}
    return _Turn(completions, wall_s + sum(seen[video].encode_s for video in videos))


def _blocks(videos: Mapping[str, Sequence[Question]], size: int) -> Iterator[list[str]]:
    names = list(videos)
    return (names[start : start + size] for start in range(0, len(names), size))


def _requests(
    engine: Engine, left: Mapping[str, Sequence[Question]], seen: Mapping[str, _Seen], limits: Limits
) -> list[_Asked]:
    """One request per video for its choices, and one for its free texts, which are longer."""
    requests = []
    for video, asked in left.items():
        for scored in (True, False):
            part = [question for question in asked if question.scored == scored]
            if part:
                longest = max(_choice_tokens(engine, part)) + 2 if scored else limits.text_tokens
                prompts = [question.prompt for question in part]
                name = f"{video} {'choices' if scored else 'texts'}"
                first = [_first_tokens(engine, question) for question in part]
                request = Request(name, prompts, clips=[seen[video].clip], max_new_tokens=longest, scored_tokens=first)
                requests.append(_Asked(request, part, len(asked)))
    return requests


def _choice_tokens(engine: Engine, questions: Sequence[Question]) -> Iterator[int]:
    tokenizer: Any = engine.runtime.tokenizer
    for question in questions:
        for choice in question.choices:
            yield len(tokenizer(choice, add_special_tokens=False)["input_ids"])


def _first_tokens(engine: Engine, question: Question) -> list[int]:
    """The right choice's first token; nothing where another choice begins with the same, or nothing is to choose."""
    tokenizer: Any = engine.runtime.tokenizer
    first = {choice: tokenizer(choice, add_special_tokens=False)["input_ids"][0] for choice in question.choices}
    right = first.pop(question.answer, None)
    return [] if right is None or right in first.values() else [right]


def _rows(part: _Asked, turn: _Turn, setting: Setting, block: int, seen: Mapping[str, _Seen]) -> Iterator[Row]:
    video = seen[part.questions[0].video]
    completion = turn.completions.get(part.request.id, Completion(part.request.id, error=video.error))
    shares, tokens, times = len(part.questions), completion.tokens, completion.times
    for index, question in enumerate(part.questions):
        answer = None if completion.error else completion.answers[index]
        text = answer.text if answer else ""
        choice = parse_answer(text, question.choices) if question.scored else None
        yield {
            "question_id": question.id,
            "video": question.video,
            "kind": question.kind,
            "group": question.group,
            "setting": setting.name,
            "compression": _as_json(setting),
            "prompt": question.prompt,
            "answer": question.answer,
            "references": list(question.references),
            "text": text,
            "choice": choice,
            "correct": choice == question.answer if question.scored else None,
            "right_probability": math.exp(answer.scored_logprobs[0]) if answer and answer.scored_logprobs else None,
            "finish_reason": answer.finish_reason if answer else "error",
            "error": str(completion.error) if completion.error else "",
            "token_ids": list(answer.token_ids) if answer else [],
            "prompt_tokens": answer.prompt_tokens if answer else 0,
            "visual_tokens": tokens.visual,
            "merged_tokens": tokens.merged,
            "mean_layer_tokens": float(tokens.mean_by_layer),
            "encode_s": video.encode_s / part.about_video,
            "prefill_s": times.prefill_s / shares,
            "decode_s": times.decode_s / shares,
            "block": block,
            "block_wall_s": turn.wall_s,
        }


def _as_json(setting: Setting) -> str:
    mapping = {**setting.compression.as_mapping(), "name": setting.name}
    return json.dumps(mapping, sort_keys=True)
