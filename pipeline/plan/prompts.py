"""Prompts in one form, however they were written: an ordered tuple of (prompt_id, text). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.plan.text import is_writable

DEFAULT_PROMPT = "Describe this video."


class Prompt(NamedTuple):
    """A question to every clip; `prompt_id` names its answers in the results."""

    prompt_id: str
    text: str


def normalise_prompts(value: Any) -> tuple[Prompt, ...]:
    """Prompts from a string, a list of strings or `{id: text}`.

    A lone string gets the id "prompt", a list "prompt_1", "prompt_2" and so on.

    Raises:
        ValueError: none given, an empty text, or something that is not text (half a character is none).
    """
    if isinstance(value, str):
        pairs: list[tuple[Any, Any]] = [("prompt", value)]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        if all(isinstance(item, Prompt) for item in value):
            pairs = list(value)
        else:
            pairs = [(f"prompt_{number}", text) for number, text in enumerate(value, start=1)]
    else:
        raise ValueError("expected a string, a list of strings or a mapping from id to text")
    if not pairs:
        raise ValueError("at least one prompt is needed")
    for prompt_id, text in pairs:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt {prompt_id!r} is {text!r}, expected text (quote it if it holds a colon)")
        if not str(prompt_id).strip():
            raise ValueError("a prompt id must not be empty")
        if not is_writable(f"{prompt_id}{text}"):
            raise ValueError(f"prompt {str(prompt_id)!r} is {text!r}, which UTF-8 cannot hold")
    return tuple(Prompt(str(prompt_id), text) for prompt_id, text in pairs)
