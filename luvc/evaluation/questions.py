"""Question files and the scoring of answers. Knows nothing of models or videos.

A question file is JSON lines: `id`, `video` (a path, relative to the file), `prompt`, and either `choices` with the
`answer` among them (scored), or `answer` as a reference, or several, for a free text; for the tables, `kind` and
`group`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc.errors import ConfigError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FIELDS = {"id", "video", "prompt", "answer", "choices", "kind", "group"}


@dataclass(frozen=True)
class Question:
    """One question about one video.

    Attributes:
        id: its own name; answers are kept by it.
        video: file name as the question file has it.
        prompt: the text asked, options included.
        answer: the right choice; "" for free text.
        choices: what may be answered; () for free text.
        kind, group: rows and parts of the tables.
        references: texts that a free answer is compared to.
    """

    id: str
    video: str
    prompt: str
    answer: str = ""
    choices: tuple[str, ...] = ()
    kind: str = "question"
    group: str = "all"
    references: tuple[str, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether there is a right answer."""
        return bool(self.choices)


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """The questions of a file, in its order; with a limit, a balanced part of them (`balanced_videos`).

    Raises:
        ConfigError: the file cannot be read, or a line of it is not a question.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"questions: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"questions: {path} is not text in UTF-8: {error}") from error
    questions: dict[str, Question] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            question = _question(line, f"{path}, line {number}")
            if question.id in questions:
                raise ConfigError(f"{path}, line {number}: the id {question.id!r} stands there twice")
            questions[question.id] = question
    if not questions:
        raise ConfigError(f"questions: {path} has no question")
    return balanced_videos(list(questions.values()), limit)


def balanced_videos(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """All questions of as many videos as together have at least `limit`, equally many of each kind and group.

    None leaves all of them in the file's order; a limit that is larger than all puts them into the balanced one.

    Videos are taken one by one: always the one whose kinds (by group) have been asked least so far, the first in the
    file of those that are level. Nothing is drawn, so a smaller limit gives the beginning of a larger one.
    """
    videos = by_video(questions)
    if limit is None:
        return list(questions)
    cells = {video: Counter((each.group, each.kind) for each in asked) for video, asked in videos.items()}
    asked_of: Counter[tuple[str, str]] = Counter()
    taken: list[Question] = []

    def crowding(video: str) -> float:
        """Mean rise, by question, of the sum of squared counts: smallest where counts are small."""
        added = sum(count * (2 * asked_of[cell] + count) for cell, count in cells[video].items())
        return added / cells[video].total()

    while cells and len(taken) < limit:
        chosen = min(cells, key=crowding)
        asked_of.update(cells.pop(chosen))
        taken.extend(videos[chosen])
    return taken


def _question(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}", "one object a line") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: not a question but {line.strip()[:40]!r}", "one object a line")
    unknown, missing = sorted(row.keys() - _FIELDS), [key for key in ("id", "video", "prompt") if key not in row]
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}", "known: " + ", ".join(sorted(_FIELDS)))
    if missing:
        raise ConfigError(f"{where}: not a question: no {missing[0]!r}", "needed: id, video, prompt")
    texts = {key: row[key] for key in ("id", "video", "prompt")}
    texts |= {"kind": row.get("kind", "question"), "group": row.get("group", "all")}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{where}: {key!r} is {text!r}", "a text is needed")
    choices, answer = _texts(row, "choices", where), row.get("answer")
    references = (answer,) if isinstance(answer, str) else _texts(row, "answer", where)
    if not choices:
        return Question(**texts, references=tuple(text for text in references if text))
    if len(references) != 1 or references[0] not in choices:
        told = "there is no answer" if not any(references) else f"the answer {answer!r} is not one of the choices"
        raise ConfigError(f"{where}: {told}", "choices: " + ", ".join(choices))
    if len({normalised(choice) for choice in choices}) < len(choices):
        raise ConfigError(f"{where}: two of the choices are the same", "choices: " + ", ".join(choices))
    return Question(**texts, answer=references[0], choices=choices)


def _texts(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of texts; empty where the field is absent or null."""
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ConfigError(f"{where}: {key!r} is {value!r}", "a list of texts is needed")
    return tuple(value)


def normalised(text: str) -> str:
    """Lower case, no article in front, no full stop behind, single spaces."""
    plain = " ".join(text.lower().split()).strip(" .!\"'`*")
    return re.sub(r"^(a|an|the|some) (?=\S)", "", plain)


def parse_answer(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a text is, or None. Strict: the whole text must be one choice, its letter, or both.

    `Left.`, `the dog`, `b`, `(B)` and `B. left` count; `to the left, I think` does not: a model that talks around
    the question is wrong, whatever is somewhere in its answer.
    """
    plain = {normalised(choice): choice for choice in choices}
    said = normalised(text)
    if said in plain:
        return plain[said]
    lettered = re.fullmatch(r"\(?([a-z])\)?(?:[.:)]?\s+(.+))?[.:)]?", " ".join(text.lower().split()).strip())
    if lettered and lettered[1] in LETTERS[: len(choices)]:
        choice = choices[LETTERS.index(lettered[1])]
        if lettered[2] is None or normalised(lettered[2]) == normalised(choice):
            return choice
    return None


def by_video(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Questions of each video, in order."""
    grouped: dict[str, list[Question]] = {}
    for question in questions:
        grouped.setdefault(question.video, []).append(question)
    return grouped
