"""Requests of all kinds for tiny models, and their answers."""

from __future__ import annotations

from collections.abc import Sequence

from luvc import Clip, Request
from luvc.engine import Engine


def requests(tiny, count: int = 8, seed: int = 0) -> list[Request]:
    """Videos of one to four frames, stills, text-only; one to three prompts each."""
    prompts = ["Describe.", "What moves here?", "Which colour is the largest object, and why?"]
    made = [
        Request(f"r{i}", prompts[: 1 + i % 3], tiny.clip(1 + i % 4, seed + i), image=i % 8 == 0) for i in range(count)
    ]
    clips = [Clip(tiny.clip(3, seed + 1)), Clip(tiny.clip(1, seed + 2), image=True), Clip(tiny.clip(2, seed + 3))]
    return [
        *made,
        Request("several", ["Compare them."], clips=clips),
        Request("text", ["hello", "and a longer question without any picture"]),
    ]


def answers(engine: Engine, items: Sequence[Request]) -> dict[str, list[tuple[int, ...]]]:
    out = {}
    for done in engine.generate(items):
        assert done.error is None, done.error
        assert done.id not in out
        out[done.id] = [answer.token_ids for answer in done.answers]
    assert set(out) == {item.id for item in items}
    return out
