"""Twins of an engine: the same weights, answers of their own, and no memory beyond the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luvc import Request
from luvc.engine import Budgets
from luvc.errors import OutOfMemory
from luvc.twins import WithTwins
from luvc.types import TwinRequest, drive
from tests.luvc import tiny, tiny_qwen

PROMPTS = ["Describe.", "What moves here?"]


def asked(family) -> list[Request]:
    return [Request(f"r{index}", PROMPTS[: 1 + index % 2], family.clip(2, index)) for index in range(4)]


def texts(engine, requests) -> dict[str, tuple[str, ...]]:
    return {done.id: tuple(answer.text for answer in done.answers) for done in drive(engine, requests)}


def alone(engine: WithTwins, request: Request, compressed: bool):
    (done,) = drive(engine, [TwinRequest(**vars(request), compressed=compressed)])
    return done


@pytest.mark.parametrize("family", [tiny, tiny_qwen], ids=["internvl", "qwen2_5_vl"])
def test_a_twin_answers_as_an_engine_of_its_own_and_the_engine_as_if_there_were_none(family):
    requests = asked(family)
    expected, uncompressed = texts(family.engine("paper"), requests), texts(family.engine("off"), requests)
    assert expected != uncompressed
    engine = family.engine("paper")
    both = WithTwins(engine)
    assert texts(both, requests[:2]) == {request.id: expected[request.id] for request in requests[:2]}
    for request in requests:
        off, same = alone(both, request, compressed=False), alone(both, request, compressed=True)
        assert tuple(answer.text for answer in off.answers) == uncompressed[request.id]
        assert tuple(answer.text for answer in same.answers) == expected[request.id]
        assert off.tokens.merged == off.tokens.visual > same.tokens.merged
        assert min(off.times.encode_s, off.times.prefill_s, off.times.decode_s) > 0
    assert texts(both, requests) == expected
    assert {id(twin.runtime) for twin in both._twins.values()} == {id(engine.runtime)}


def test_caches_together_stay_within_the_budget():
    request = asked(tiny)[1]
    needed = {name: tiny.engine(name).kv_bytes(request) for name in ("off", "paper")}
    limit = needed["off"] + needed["paper"] // 2
    engine = tiny.engine("paper", Budgets(kv_bytes=limit, max_new_tokens=12))
    both, most = WithTwins(engine), 0
    expected = texts(both, [request])
    assert engine.cache.allocated_bytes > 0
    both.submit(TwinRequest(**vars(request)))
    while both.has_work():
        both.step()
        most = max(most, both.load().kv_bytes)
        assert both.load().prefill_tokens == 0, "a twin's prefill is no batch of the engine"
    assert engine.cache.allocated_bytes + needed["off"] > limit or engine.cache.allocated_bytes == 0
    assert 0 < most <= limit
    assert both.load().kv_bytes == engine.cache.allocated_bytes, "the twin gave its cache back"
    assert texts(both, [request]) == expected


def test_what_does_not_fit_and_what_cannot_be_answered_is_refused():
    request = asked(tiny)[0]
    limit = tiny.engine("off").kv_bytes(request) - 1
    both = WithTwins(tiny.engine("paper", Budgets(kv_bytes=limit, max_new_tokens=12)))
    refused = alone(both, request, compressed=False)
    assert isinstance(refused.error, OutOfMemory)
    assert "without compression" in refused.error.message
    assert alone(both, request, compressed=True).error is None
    assert alone(both, replace(request, prompts=[]), compressed=False).error is not None
    assert len(texts(both, [request])[request.id]) == 1
