"""Estimates reproduce the run they come from, follow work and actors, and are not made out of nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.cost import Prices, Rented
from pipeline.report.estimate import Amount, Estimate, Rates, compared, estimate, rates_of, uncompressed

DONE = Amount(units=100, video_s=3600, vision_tflop=400, text_tflop=200, full_vision_tflop=800, full_text_tflop=1000)
RATES = Rates(
    done=DONE, video_decode_s=300, vision_s=60, text_s=40, starved_s=20, start_up_s=30, active_s=120, actors=1,
    decoders=4, gpus=1, cpus=16,
)  # fmt: skip
PRICES = Prices(gpu_hour_usd=3.6, cpu_hour_usd=0.0)


def test_the_same_work_takes_as_long_again():
    found = estimate(DONE, RATES, "r1", 1, PRICES)
    assert found.wall_s == pytest.approx(RATES.start_up_s + RATES.active_s)
    assert found.usd == pytest.approx(150 / 3600 * 3.6)
    assert found.per_video_hour_usd == pytest.approx(found.usd)
    assert (found.based_on, found.based_on_units, found.units) == ("r1", 100, 100)


def test_ten_times_the_work_starts_once():
    work = replace(DONE, units=1000, video_s=36_000, vision_tflop=4000, text_tflop=2000)
    assert estimate(work, RATES, "r1", 1, PRICES).wall_s == pytest.approx(30 + 1200)


def test_four_actors_are_faster_and_cost_the_same_but_for_starting():
    four = estimate(DONE, RATES, "r1", 4, PRICES)
    assert four.wall_s == pytest.approx(30 + 30)
    assert four.usd == pytest.approx(60 * 4 / 3600 * 3.6)


def test_longer_prompts_cost_engine_time_only():
    """Twice the text FLOPs: 140 s of engine work instead of 100, and decoding stays the same."""
    found = estimate(replace(DONE, text_tflop=400), RATES, "r1", 1, PRICES)
    assert found.wall_s == pytest.approx(30 + 120 * 1.4)


def test_when_decoding_is_slower_it_decides():
    slow = replace(RATES, video_decode_s=4000)  # 1,000 s on four decoders, in 1,100 s
    slow = replace(slow, active_s=1100)
    found = estimate(replace(DONE, text_tflop=400), slow, "r1", 1, PRICES)
    assert found.wall_s == pytest.approx(30 + 1100)


@pytest.mark.parametrize(
    "rates",
    [
        replace(RATES, active_s=0.0),
        replace(RATES, video_decode_s=0.0, vision_s=0.0, text_s=0.0),
        replace(RATES, done=replace(DONE, units=0)),
    ],
)
def test_nothing_measured_nothing_estimated(rates):
    assert estimate(DONE, rates, "r1", 1, PRICES) is None


def test_a_model_that_was_not_sized_is_scaled_by_units():
    unsized = replace(RATES, done=replace(DONE, vision_tflop=0, text_tflop=0))
    work = replace(DONE, units=300, video_s=3600, vision_tflop=0, text_tflop=0)
    assert estimate(work, unsized, "r1", 1, PRICES).wall_s == pytest.approx(30 + 360)


def test_no_prices_still_a_time():
    found = estimate(DONE, RATES, "r1", 1, Prices())
    assert (found.usd, found.per_video_hour_usd) == (None, None)
    assert found.wall_s > 0


@given(st.floats(0.01, 1e4), st.integers(1, 64))
def test_more_work_never_takes_less(factor, actors):
    def of(scale):
        work = Amount(1, DONE.video_s * scale, DONE.vision_tflop * scale, DONE.text_tflop * scale)
        return estimate(work, RATES, "r", actors, PRICES)

    less, more = of(factor), of(factor * 1.5)
    assert less.wall_s < more.wall_s
    assert less.usd < more.usd


def test_errors_stand_beside_the_estimate_only_after_a_whole_run():
    before = estimate(DONE, RATES, "r1", 1, PRICES)
    assert compared(before, 75.0, 0.3, complete=False) == before
    after = compared(before, 75.0, 0.3, complete=True)
    assert after.wall_error == pytest.approx(-0.5)
    assert after.usd_error == pytest.approx(1.0)


def test_rates_and_estimates_survive_json():
    assert rates_of(json.loads(json.dumps(asdict(RATES)))) == RATES
    found = estimate(DONE, RATES, "r1", 1, PRICES)
    assert Estimate.of(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize("damaged", [None, {}, {"done": None}, {"done": {}}, {"done": {"units": 1}, "x": 1}])
def test_other_rates_are_no_rates(damaged):
    assert rates_of(damaged) is None
    assert Estimate.of(damaged or {}) is None


def test_without_compression_by_flops():
    """60 s of encoder twice, 40 s of language model five times: 320 s instead of 100; 20 were waited anyway."""
    found = uncompressed(RATES, Rented(150, 1, 16), PRICES)
    assert (found.method, found.measured_in) == ("flops", None)
    assert found.uncompressed_engine_s == pytest.approx(320)
    assert found.ratio == pytest.approx(3.2)
    assert found.wall_s == pytest.approx(150 + 220 - 20)
    assert found.usd == pytest.approx(350 / 3600 * 3.6)
    assert found.saved_usd == pytest.approx(200 / 3600 * 3.6)


def test_without_compression_as_measured():
    base = replace(RATES, done=replace(DONE, vision_tflop=800, text_tflop=1000), vision_s=100, text_s=150)
    found = uncompressed(RATES, Rented(150, 1, 16), PRICES, ("r0", base))
    assert (found.method, found.measured_in, found.uncompressed_engine_s) == ("measured", "r0", 250)


def test_an_engine_that_waits_enough_saves_nothing():
    found = uncompressed(replace(RATES, starved_s=1000), Rented(1200, 1, 16), PRICES)
    assert found.wall_s == 1200
    assert found.saved_usd == 0


def test_a_plan_without_full_flops_says_nothing():
    old = replace(RATES, done=replace(DONE, full_vision_tflop=None, full_text_tflop=None))
    assert uncompressed(old, Rented(150, 1, 16), PRICES) is None
