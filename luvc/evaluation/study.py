"""Asks every question with every setting, in one process and with one copy of the weights.

Videos are taken in blocks, and each block is answered by all settings in turn before the next one starts: frames are
decoded once and dropped again, and times are comparable although machines are not equally fast all day.
Knows nothing of video files: a function gives the frames.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from luvc.engine import Engine
from luvc.errors import ConfigError
from luvc.evaluation.answers import Answers, Row
from luvc.evaluation.questions import Question, by_video, parse_answer
from luvc.evaluation.settings import Setting
from luvc.types import Clip, Completion, Request

LoadClip = Callable[[str], Clip]


@dataclass(frozen=True)
class Limits:
    """How much is done at a time and how long answers may be.

    Attributes:
        block_videos: videos decoded and answered together.
        text_tokens: new tokens of a free answer. One of a choice is as long as the longest choice and a little more.
    """

    block_videos: int = 16
    text_tokens: int = 40


class _Asked(NamedTuple):
    """A request and the questions that its prompts are."""

    request: Request
    questions: list[Question]


def with_setting(engine: Engine, setting: Setting) -> Engine:
    """Another engine around the same weights."""
    return Engine(engine.runtime, setting.compression, engine.budgets, tuple(engine.eos_ids), engine.backend.name)


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
        settings: uncompressed first.
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
    engines = {setting.name: with_setting(engine, setting) for setting in settings}
    done = {setting.name: answers.done(setting.name) for setting in settings}
    videos = by_video(questions)
    blocks = list(_blocks(videos, limits.block_videos))
    warm = False
    for number, block in enumerate(blocks):
        clips: dict[str, Clip] = {}
        turn = number % len(settings)  # no setting always goes first
        for setting in (*settings[turn:], *settings[:turn]):
            left = {
                video: [question for question in videos[video] if question.id not in done[setting.name]]
                for video in block
            }
            left = {video: asked for video, asked in left.items() if asked}
            if not left:
                continue
            for video in left:
                if video not in clips:
                    clips[video] = load_clip(video)
            requests = _requests(engine, left, clips, limits)
            if not warm:  # first calls compile, allocate and page in
                list(engines[setting.name].generate([requests[0].request]))
                warm = True
            started = time.perf_counter()
            completed = {each.id: each for each in engines[setting.name].generate([part.request for part in requests])}
            wall_s = time.perf_counter() - started
            answers.add(
                [row for part in requests for row in _rows(part, completed[part.request.id], setting, number, wall_s)]
            )
            done[setting.name] |= {question.id for asked in left.values() for question in asked}
        asked_now = sum(len(videos[video]) for video in block)
        say(f"block {number + 1} of {len(blocks)}: {len(block)} videos, {asked_now} questions")


def _blocks(videos: Mapping[str, Sequence[Question]], size: int) -> Iterator[list[str]]:
    names = list(videos)
    return (names[start : start + size] for start in range(0, len(names), size))


def _requests(
    engine: Engine, left: Mapping[str, Sequence[Question]], clips: Mapping[str, Clip], limits: Limits
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
                requests.append(_Asked(Request(name, prompts, clips=[clips[video]], max_new_tokens=longest), part))
    return requests


def _choice_tokens(engine: Engine, questions: Sequence[Question]) -> Iterator[int]:
    tokenizer: Any = engine.runtime.tokenizer
    for question in questions:
        for choice in question.choices:
            yield len(tokenizer(choice, add_special_tokens=False)["input_ids"])


def _rows(part: _Asked, completion: Completion, setting: Setting, block: int, wall_s: float) -> Iterator[Row]:
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
            "finish_reason": answer.finish_reason if answer else "error",
            "error": str(completion.error) if completion.error else "",
            "token_ids": list(answer.token_ids) if answer else [],
            "prompt_tokens": answer.prompt_tokens if answer else 0,
            "visual_tokens": tokens.visual,
            "merged_tokens": tokens.merged,
            "mean_layer_tokens": float(tokens.mean_by_layer),
            "encode_s": times.encode_s / shares,
            "prefill_s": times.prefill_s / shares,
            "decode_s": times.decode_s / shares,
            "block": block,
            "block_wall_s": wall_s,
        }


def _as_json(setting: Setting) -> str:
    mapping = {**setting.compression.as_mapping(), "name": setting.name}
    return json.dumps(mapping, sort_keys=True)
