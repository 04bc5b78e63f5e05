"""The loop between many callers and one engine, with engines that finish out of order, raise and lose requests."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from luvc.errors import ModelError
from luvc.types import Completion, Request
from pipeline.run.engine_loop import EngineFailed, EngineLoop, EngineUnavailable
from pipeline.run.fake_engine import FakeEngine

WAIT_S = 60.0


class Engine:
    """Finishes in reverse order of arrival, `slots` at once; `break_on` raises while that id is in it."""

    def __init__(self, slots=4, break_on=(), lose=()):
        self.slots, self.break_on, self.lose = slots, break_on, lose
        self.active = []
        self.seen = []

    def has_room(self):
        return len(self.active) < self.slots

    def submit(self, request):
        if request.id in self.lose:
            return
        self.active.append(request)

    def has_work(self):
        return bool(self.active)

    def step(self):
        self.seen.append([request.id for request in self.active])
        for request in self.active:
            if request.id in self.break_on:
                raise RuntimeError(f"broke on {request.id}")
        return [Completion(self.active.pop().id)]


@pytest.fixture
def loops():
    made = []

    def make(*args, **kwargs):
        loop = EngineLoop(*args, **kwargs)
        made.append(loop)
        loop.start()
        return loop

    yield make
    for loop in made:
        loop.close()


def request(name):
    return Request(id=name, prompts=("?",))


def results(futures):
    return [future.result(WAIT_S) for future in futures]


def test_answers_go_to_who_asked(loops):
    loop = loops(lambda: Engine(slots=3))
    names = [f"r{i}" for i in range(50)]
    futures = [loop.submit(request(name)) for name in names]
    assert [completion.id for completion in results(futures)] == names


def test_requests_of_many_threads_share_a_batch(loops):
    gate = threading.Event()

    class Gated(Engine):
        def step(self):
            gate.wait(WAIT_S)
            return super().step()

    engine = Gated(slots=8)
    loop = loops(lambda: engine)
    first = loop.submit(request("first"))
    futures = []
    threads = [threading.Thread(target=lambda i=i: futures.append(loop.submit(request(f"r{i}")))) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    gate.set()
    results([first, *futures])
    assert max(len(batch) for batch in engine.seen) >= 7


def test_an_exception_costs_those_in_flight_and_a_new_engine_takes_over(loops):
    engines = []

    def open_engine():
        engines.append(Engine(slots=2, break_on=("bad",)))
        return engines[-1]

    loop = loops(open_engine)
    bad = loop.submit(request("bad")).result(WAIT_S)
    assert isinstance(bad.error, EngineFailed)
    assert bad.error.retryable
    assert "broke on bad" in bad.error.message
    assert loop.submit(request("good")).result(WAIT_S).error is None
    assert len(engines) == 2
    assert loop.times.rebuilds == 1


def test_a_lost_request_is_answered(loops):
    loop = loops(lambda: Engine(lose=("gone",)))
    assert "lost" in loop.submit(request("gone")).result(WAIT_S).error.message


def test_alone_means_alone(loops):
    engine = Engine(slots=8)
    noted = []
    loop = loops(lambda: engine, before_alone=noted.append, after_alone=lambda name: noted.append(f"{name} done"))
    futures = [loop.submit(request(f"r{i}"), alone=i % 5 == 0) for i in range(40)]
    results(futures)
    for batch in engine.seen:
        suspects = [name for name in batch if int(name[1:]) % 5 == 0]
        assert not suspects or len(batch) == 1
    assert noted == [note for i in range(0, 40, 5) for note in (f"r{i}", f"r{i} done")]


def test_the_same_id_twice_is_answered_twice(loops):
    loop = loops(lambda: Engine(slots=4))
    futures = [loop.submit(request("same")) for _ in range(3)]
    assert [completion.id for completion in results(futures)] == ["same"] * 3


def test_an_engine_that_cannot_be_built_says_so():
    def broken():
        raise ModelError("no such model: x", "check model.id")

    loop = EngineLoop(broken)
    with pytest.raises(EngineUnavailable, match="no such model: x") as caught:
        loop.start()
    assert caught.value.hint == "check model.id"
    with pytest.raises(EngineUnavailable):
        loop.submit(request("a")).result(WAIT_S)


def test_an_engine_that_cannot_be_built_again_refuses_what_waits(loops):
    built = []

    def once():
        if built:
            raise RuntimeError("device lost")
        built.append(Engine(slots=1, break_on=("bad",)))
        return built[0]

    loop = loops(once)
    futures = [loop.submit(request(name)) for name in ("bad", "b", "c")]
    assert isinstance(futures[0].result(WAIT_S).error, EngineFailed)
    for future in futures[1:]:
        with pytest.raises(EngineUnavailable, match="device lost"):
            future.result(WAIT_S)


def test_busy_and_starved_add_up_to_the_time_that_passed(loops):
    class Slow(Engine):
        def step(self):
            time.sleep(0.05)
            return super().step()

    loop = loops(lambda: Slow())
    started = time.perf_counter()
    for name in "abc":
        time.sleep(0.05)
        loop.submit(request(name)).result(WAIT_S)
    passed = time.perf_counter() - started
    times = loop.times
    assert times.busy_s >= 0.15
    assert times.starved_s >= 0.1
    assert times.busy_s + times.starved_s <= passed + 0.05


def test_close_refuses_and_ends():
    loop = EngineLoop(lambda: Engine())
    loop.start()
    loop.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        loop.submit(request("late")).result(WAIT_S)


def test_the_fake_engine_finishes_out_of_order_and_always_says_the_same(loops):
    video = np.arange(2 * 28 * 28 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28, 3)

    def ask(latency_s):
        order = []
        loop = loops(lambda: FakeEngine(slots=8, latency_s=latency_s))
        futures = []
        for i in range(8):
            future = loop.submit(Request(f"r{i}", (f"prompt {i}", "again"), video + np.uint8(i)))
            future.add_done_callback(lambda done: order.append(done.result().id))
            futures.append(future)
        return [completion.answers for completion in results(futures)], order

    answers, order = ask(0.05)
    assert order != sorted(order)
    assert answers == ask(0.0)[0]
    assert len({answer.text for pair in answers for answer in pair}) == 16


def test_the_load_of_an_engine_is_told_after_each_step(loops):
    told = []
    loop = loops(lambda: FakeEngine(slots=4), after_step=told.append)
    results([loop.submit(request(name)) for name in "abc"])
    assert told
    assert all(0 < load.prefill_tokens <= load.prefill_limit_tokens == 4 for load in told)
    assert told[-1].running == 0


def test_an_engine_that_tells_no_load_is_not_asked(loops):
    told = []
    loop = loops(Engine, after_step=told.append)
    results([loop.submit(request("a"))])
    assert told == []
