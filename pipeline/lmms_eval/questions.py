"""What a request of the harness asks: chat messages and generation arguments -> media, prompt, limits. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luvc.errors import LuvcError
from luvc.types import Sampling

#: What the harness puts between few-shot examples and, where a task names no stop text, into `until`. A model may
#: well answer in paragraphs; the harness's own adapters do not stop there either.
_DELIMITER = "\n\n"
_UNDERSTOOD = frozenset({"max_new_tokens", "max_gen_toks", "temperature", "top_p", "do_sample", "until"})
#: Of other models; says nothing about an answer of ours.
_OF_OTHERS = frozenset({"image_aspect_ratio", "use_cache"})


class Unsupported(LuvcError):
    """A task asks for something that the engine cannot do; no answer would mean anything."""


@dataclass(frozen=True, eq=False)
class Medium:
    """A video or a still.

    Attributes:
        source: path or URL; for a still also a PIL image, for a video also its frames as stills or as an array.
        image: it is a still.
        from_s, to_s: part of the video; None: from its start, to its end.
    """

    source: Any
    image: bool = False
    from_s: float | None = None
    to_s: float | None = None

    @property
    def key(self) -> Hashable:
        """Equal for the same medium; None where that cannot be told."""
        return (self.source, self.image, self.from_s, self.to_s) if isinstance(self.source, str) else None


@dataclass(frozen=True)
class Generation:
    """How to answer.

    Attributes:
        max_new_tokens: an answer ends there at the latest.
        sampling: greedy unless the task asks for a temperature.
        until: texts that an answer ends before.
        ignored: names of arguments that have no meaning here.
    """

    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    until: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def cut(self, text: str) -> str:
        """The text up to the first stop text."""
        places = [place for place in (text.find(stop) for stop in self.until) if place >= 0]
        return text[: min(places)].rstrip() if places else text


@dataclass(frozen=True, eq=False)
class Question:
    """One request of the harness.

    Attributes:
        index: its place among all requests.
        id: names it in draws, warnings and errors; the same in every run.
        media: shown in front of the text, in this order.
        prompt: the text.
        generation: how to answer.
        moved: some text stood before a medium.
    """

    index: int
    id: str
    media: tuple[Medium, ...]
    prompt: str
    generation: Generation
    moved: bool = False

    @property
    def group(self) -> Hashable:
        """Questions of the same group can be answered together, about one encoding; None: alone.

        A draw depends on a question's place in its request, and that place on which questions stand beside it; so
        questions with a temperature stay alone.
        """
        keys = tuple(medium.key for medium in self.media)
        if not keys or None in keys or self.generation.sampling.temperature:
            return None
        return keys, self.generation.max_new_tokens


def read_generation(arguments: Mapping[str, Any] | None, max_new_tokens: int, seed: int) -> Generation:
    """From the harness's `generation_kwargs`; `do_sample: false` or temperature 0 (or none at all) is greedy.

    Args:
        arguments: of the task.
        max_new_tokens: where the task does not say.
        seed: for draws.

    Raises:
        Unsupported: beam search, or a value that is no number.
    """
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    try:
        if int(given.pop("num_beams", 1)) > 1:
            raise Unsupported("generation_kwargs: num_beams above 1", "answers here are greedy or drawn")
        limit = int(given.get("max_new_tokens", given.get("max_gen_toks", max_new_tokens)))
        temperature = float(given.get("temperature", 1.0 if given.get("do_sample") else 0.0))
        top_p = float(given.get("top_p", 1.0))
    except (TypeError, ValueError) as error:
        raise Unsupported(f"generation_kwargs: {error}", "numbers are needed") from error
    greedy = temperature == 0 or given.get("do_sample") is False
    until = given.get("until", ())
    stops = (until,) if isinstance(until, str) else tuple(until)
    return Generation(
        limit,
        Sampling() if greedy else Sampling(temperature, top_p, seed),
        tuple(stop for stop in stops if stop and stop != _DELIMITER),
        tuple(sorted(given.keys() - _UNDERSTOOD - _OF_OTHERS)),
    )


def read_question(index: int, name: str, messages: Sequence[Mapping[str, Any]], generation: Generation) -> Question:
    """One user turn of text and media; media go in front, as the engine's prompts have them.

    Raises:
        Unsupported: several turns, a system prompt, sound, or something else that has no place in a prompt.
    """
    if len(messages) != 1 or messages[0].get("role") != "user":
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise Unsupported(
            f"{name}: turns of {roles or 'nobody'}, not one of a user", "choose a task of single questions"
        )
    content = messages[0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    media: list[Medium] = []
    texts: list[str] = []
    moved = joined = False
    for part in parts:
        if part["type"] == "text":
            if joined and texts:
                texts.append("\n")  # a medium stood here
            texts.append(part["text"])
            joined = False
        else:
            media.append(_medium(part, name))
            moved, joined = moved or any(text.strip() for text in texts), True
    return Question(index, name, tuple(media), "".join(texts), generation, moved)


def _medium(part: Mapping[str, Any], name: str) -> Medium:
    kind, source = part["type"], part.get("url")
    if kind not in ("image", "video"):
        raise Unsupported(f"{name}: {kind} cannot be answered about", "choose a task of videos, images or text")
    from_s, to_s = part.get("start_time"), part.get("end_time")
    if isinstance(source, Mapping):
        from_s, to_s = source.get("video_start", from_s), source.get("video_end", to_s)
        source = source.get("url") or source.get("path") or source.get("bytes")
    if source is None:
        raise Unsupported(f"{name}: a {kind} without url, path or bytes")
    return Medium(str(source) if hasattr(source, "__fspath__") else source, kind == "image", from_s, to_s)
