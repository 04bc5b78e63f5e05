"""Sizes of the two pools: the slower one is as fast as it can be, and given numbers win."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luvc.errors import ConfigError
from pipeline.run import pools
from pipeline.run.pools import Rate, answerers_for, encoders_for, pool_sizes, sized

SECONDS = st.floats(0.001, 100)


@pytest.mark.parametrize(
    ("encode_s", "answer_s", "gpus", "sizes"),
    [
        (1, 1, 8, (4, 4)),
        (1, 3, 8, (2, 6)),
        (3, 1, 8, (6, 2)),
        (1, 1000, 8, (1, 7)),
        (1000, 1, 8, (7, 1)),
        (1, 1, 3, (1, 2)),
        (1, 1, 2, (1, 1)),
        (1, 9, 1, (1, 1)),
        (1, 9, 0, (1, 1)),
    ],
)
def test_sizes(encode_s, answer_s, gpus, sizes):
    assert pool_sizes(encode_s, answer_s, gpus) == sizes


@given(SECONDS, SECONDS, st.integers(2, 64))
def test_no_other_sizes_are_faster(encode_s, answer_s, gpus):
    encoders, actors = pool_sizes(encode_s, answer_s, gpus)
    assert encoders + actors == gpus
    assert min(encoders, actors) >= 1
    slowest = max(encode_s / encoders, answer_s / actors)
    assert all(slowest <= max(encode_s / e, answer_s / (gpus - e)) for e in range(1, gpus))


@given(SECONDS, SECONDS, st.integers(1, 64))
def test_partners_keep_up(encode_s, answer_s, count):
    assert encode_s / encoders_for(encode_s, answer_s, count) <= answer_s / count * 1.001
    assert answer_s / answerers_for(encode_s, answer_s, count) <= encode_s / count * 1.001


def config(bench, encoders=None, actors="auto", **run):
    run = {"engine": "luvc", "topology": "split", "actors": actors, "encoders": encoders or {}} | run
    return bench.config("/videos", run=run)


@pytest.mark.parametrize(
    ("encoders", "actors", "gpus", "sizes"),
    [
        ("auto", "auto", 8, (2, 6)),
        ("auto", "auto", 0, (1, 1)),
        ("auto", 3, 8, (1, 3)),
        ("auto", 6, 7, (1, 6)),
        (4, "auto", 8, (4, 4)),
        (1, "auto", 8, (1, 3)),
        ("auto", 6, 0, (2, 6)),
        (5, 9, 2, (5, 9)),
    ],
)
def test_given_numbers_win(bench, monkeypatch, encoders, actors, gpus, sizes):
    monkeypatch.setattr(pools, "calibrated", lambda _: Rate("before", 50, 1.0, 3.0))
    solved, why = sized(config(bench, {"actors": encoders}, actors), gpus)
    assert (solved.run.encoders.actors, solved.run.actors) == sizes
    if "auto" in (encoders, actors):
        assert f"{sizes[0]} encoders and {sizes[1]} language models on {gpus} GPUs" in why
        assert "1 s in the encoder and 3 s in the language model (mean of 50 units of run before)" in why
    else:
        assert why == ""


def test_one_gpu_is_shared(bench):
    solved, why = sized(config(bench), 1)
    assert (solved.run.gpus_per_actor, solved.run.encoders.gpus_per_actor) == (0.5, 0.5)
    assert "no run of this name" in why
    given_, _ = sized(config(bench, {"gpus_per_actor": 0.25}, gpus_per_actor=0.75), 1)
    assert (given_.run.gpus_per_actor, given_.run.encoders.gpus_per_actor) == (0.75, 0.25)


def test_a_pool_that_takes_every_gpu_is_refused(bench):
    with pytest.raises(ConfigError, match="leave none of 4 GPUs"):
        sized(config(bench, actors=4), 4)


def test_fused_is_left_as_it_is(bench):
    fused = bench.config("/videos")
    assert sized(fused, 8) == (fused, "")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"topology": "split"}, "the engine fake has no encoder"),
        ({"topology": "split", "engine": "vllm"}, "the engine vllm has no encoder"),
        ({"actors": "auto"}, r"run\.actors: auto is for run\.topology: split"),
        ({"encoders": {"actors": 2}}, r"run\.encoders: topology fused"),
        ({"topology": "both"}, r"run\.topology"),
        ({"topology": "split", "engine": "luvc", "encoders": {"actors": 0}}, r"run\.encoders\.actors"),
    ],
)
def test_impossible_combinations_are_named(bench, run, message):
    with pytest.raises(ConfigError, match=message):
        bench.config("/videos", run=run)
