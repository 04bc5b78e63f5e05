"""From scenes to a question file: prompts, and the lines `luvc evaluate` reads."""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.exact.scene import Ask, ExactScene

Style = Literal["words", "letters"]
LETTERS = "ABCDEFGH"


def prompt(ask: Ask, style: Style = "words") -> str:
    """The text a model is asked.

    `words`: the options stand in the sentence and one of them is the answer, as it is written: the form a small
    model copes with, two or three tokens long. `letters`: the usual list of lettered options.
    """
    if not ask.choices:
        return ask.text
    if style == "words":
        return f"{ask.text} Answer with one of: {', '.join(ask.choices)}."
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, ask.choices, strict=False))
    return f"{ask.text}\n{listed}\nAnswer with the letter only."


def lines(scene: ExactScene, video: str, group: str, style: Style = "words") -> list[dict[str, Any]]:
    """The questions of a scene as rows of the question file."""
    rows = []
    for number, ask in enumerate(scene.asks):
        row: dict[str, Any] = {
            "id": f"{group}-{scene.seed}-{number}",
            "video": video,
            "kind": ask.kind,
            "group": group,
            "prompt": prompt(ask, style),
            "answer": ask.answer,
        }
        rows.append(row | ({"choices": list(ask.choices)} if ask.choices else {}))
    return rows
