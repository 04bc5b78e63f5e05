"""What goes wrong in the engine costs who made it: bad requests, memory, a model that breaks."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from luvc import Request
from luvc.errors import OutOfMemory, PromptTooLong, RequestError
from tests.luvc import tiny as tiny_internvl
from tests.luvc.batches import answers, requests

BAD = {
    "no colours": (lambda tiny: Request("bad", ["x"], np.zeros((2, 32, 32), np.uint8)), RequestError, "shape"),
    "no frames": (lambda tiny: Request("bad", ["x"], np.zeros((0, 32, 32, 3), np.uint8)), RequestError, "zero"),
    "floats": (lambda tiny: Request("bad", ["x"], np.zeros((2, 32, 32, 3), np.float32)), RequestError, "uint8"),
    "no array": (lambda tiny: Request("bad", ["x"], "not pixels"), RequestError, "video"),
    "no prompt": (lambda tiny: Request("bad", [], tiny.clip(1, 0)), RequestError, "no prompt"),
    "long prompt": (lambda tiny: Request("bad", ["x" * 3000], tiny.clip(1, 0)), PromptTooLong, "positions"),
    "marker": (lambda tiny: Request("bad", ["a <|im_end|> b"], tiny.clip(1, 0)), RequestError, "marker"),
    "moving image": (lambda tiny: Request("bad", ["x"], tiny.clip(2, 0), image=True), RequestError, "one frame"),
    "no tokens": (
        lambda tiny: Request("bad", ["x"], tiny.clip(1, 0), max_new_tokens=0),
        RequestError,
        "max_new_tokens",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_costs_only_itself(tiny, case):
    make, kind, words = BAD[case]
    engine = tiny.engine("paper")
    items = requests(tiny, 3)
    got = {done.id: done for done in engine.generate([items[0], make(tiny), *items[1:]])}
    assert isinstance(got["bad"].error, kind)
    assert words in str(got["bad"].error)
    assert {item.id for item in items} == {key for key, done in got.items() if done.error is None}


def test_too_many_frames_for_the_model_is_said_with_numbers():
    (done,) = tiny_internvl.engine("off").generate([Request("bad", ["x"], tiny_internvl.clip(200, 0))])
    assert isinstance(done.error, PromptTooLong)
    assert "3200 visual" in str(done.error)
    assert "fewer frames" in done.error.hint


def test_out_of_memory_halves_the_batch_and_remembers(tiny, monkeypatch):
    engine = tiny.engine("paper")
    expected = answers(tiny.engine("paper"), requests(tiny))
    prefill = engine.runtime.decoder.prefill
    batches = []

    def short_of_memory(packed, cache, prune):
        batches.append(len(packed.lengths))
        if len(packed.lengths) > 3:
            cache.add([layer.lengths for layer in packed.layers(4)])  # fails half-way: slots are taken already
            raise torch.OutOfMemoryError("injected")
        return prefill(packed, cache, prune)

    monkeypatch.setattr(engine.runtime.decoder, "prefill", short_of_memory)
    assert answers(engine, requests(tiny)) == expected
    assert max(batches) > 3
    batches.clear()
    assert answers(engine, requests(tiny)) == expected
    assert batches[0] < 9, "the ceiling is remembered"


def test_what_failed_is_let_go_before_less_is_tried(tiny, monkeypatch):
    """An error's traceback holds the frames of its work, and these the tensors that were too many."""
    engine = tiny.engine("paper")
    prefill = engine.runtime.decoder.prefill
    held: list[weakref.ref] = []

    def short_of_memory(packed, cache, prune):
        assert all(ref() is None for ref in held)
        work = torch.empty(8)
        held.append(weakref.ref(work))
        if len(packed.lengths) > 1:
            try:
                raise ValueError("what led to it")
            except ValueError as error:
                raise torch.OutOfMemoryError("injected") from error
        return prefill(packed, cache, prune)

    monkeypatch.setattr(engine.runtime.decoder, "prefill", short_of_memory)
    assert answers(engine, requests(tiny)) == answers(tiny.engine("paper"), requests(tiny))
    assert len(held) > 9


def test_a_cache_that_cannot_grow_costs_only_who_wanted_it_to(tiny, monkeypatch):
    """Memory may end at any layer, while others are being answered."""
    expected = answers(tiny.engine("off"), requests(tiny))
    layers = tiny.engine("off").model_config.text.layers
    for place in range(2 * layers):
        engine = tiny.engine("off")
        items = requests(tiny)
        for item in items:
            engine.submit(item)
        done = engine.step()
        moved, calls = engine.cache._moved, []

        def short_of_memory(*args, moved=moved, calls=calls, place=place):
            calls.append(1)
            if len(calls) > place:
                raise torch.OutOfMemoryError("injected")
            return moved(*args)

        engine.submit(Request("large", ["x"], tiny.clip(30, 0)))
        with monkeypatch.context() as patched:
            patched.setattr(engine.cache, "_moved", short_of_memory)
            done += engine.step()
        while len(done) <= len(items):
            done += engine.step()
        got = {one.id: [answer.token_ids for answer in one.answers] for one in done if one.error is None}
        assert isinstance({one.id: one.error for one in done}["large"], OutOfMemory), place
        assert got == expected


def test_out_of_memory_in_the_encoder_halves_its_passes_and_remembers(tiny, monkeypatch):
    engine = tiny.engine("paper")
    expected = answers(tiny.engine("paper"), requests(tiny))
    encode = engine.runtime.encode
    limits = []

    def short_of_memory(frames, plans, limit):
        limits.append(limit)
        if limit > 1000:
            raise torch.OutOfMemoryError("injected")
        return encode(frames, plans, limit)

    monkeypatch.setattr(engine.runtime, "encode", short_of_memory)
    assert answers(engine, requests(tiny)) == expected
    assert limits[0] == 4096
    assert limits[-1] == 512
    limits.clear()
    answers(engine, requests(tiny))
    assert set(limits) == {512}


def test_a_request_that_never_fits_or_breaks_the_model_is_a_failure_of_its_own(tiny, monkeypatch):
    engine = tiny.engine("off")
    prefill = engine.runtime.decoder.prefill
    limit = 200

    def picky(packed, cache, prune):
        if max(packed.lengths) > limit:
            raise torch.OutOfMemoryError("injected")
        return prefill(packed, cache, prune)

    monkeypatch.setattr(engine.runtime.decoder, "prefill", picky)
    items = [Request("small", ["x"], tiny.clip(2, 0)), Request("large", ["x"], tiny.clip(30, 0))]
    got = {done.id: done for done in engine.generate([*items, Request("last", ["x"], tiny.clip(2, 1))])}
    assert isinstance(got["large"].error, OutOfMemory)
    assert got["small"].error is None
    assert got["last"].error is None


def test_a_failing_decode_step_fails_its_sequences_and_the_engine_goes_on(tiny, monkeypatch):
    engine = tiny.engine("paper")
    decode = engine.runtime.decoder.decode
    calls = []

    def once(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("injected")
        return decode(*args)

    monkeypatch.setattr(engine.runtime.decoder, "decode", once)
    got = list(engine.generate(requests(tiny, 3)))
    assert {done.id for done in got} == {item.id for item in requests(tiny, 3)}
    failed = [done for done in got if done.error is not None]
    assert failed
    assert all(done.error.retryable and "injected" in str(done.error) for done in failed)
    assert answers(engine, requests(tiny, 3)) == answers(tiny.engine("paper"), requests(tiny, 3))
